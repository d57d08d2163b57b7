"""What does a whole move cost the application that writes meanwhile?

    python -m benchmarks.foreground [--scale 0.5] [--before 60] [--rate 300] [--saturated] [--quick] [--json]

Writers for users of every market use the store, first alone (``--before`` seconds), then while everybody outside
mainland China is moved with the default limits; they follow DM001 to the new home. ``tps_ratio`` and ``p99_ratio``
compare the move with the time before it: transactions acknowledged a second, and the 99th percentile of their time
from the first try to the acknowledgement, handovers included. ``bystander_p99_ratio`` leaves out transactions that a
handover sent elsewhere. ``--saturated``: as fast as they can, instead of at ``--rate``."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
import tempfile
import time

from benchmarks import _bench
from domicile import commands, world
from domicile.model.phase import Status
from domicile.model.plan import Limits, Mode, Question
from domicile.model.report import MoveStatus
from domicile.model.site import Dataset, DatasetName, Site, SiteName
from domicile.model.workspace import Workspace
from domicile.postgres.connect import connect
from domicile.world.account import MOVE, Account, Spread, Transacted
from domicile.world.oracle import Law, verdict
from domicile.world.process import writers
from domicile.world.traffic import Config

SCALE, QUICK_SCALE = 0.5, 0.05
BEFORE_SECONDS, QUICK_SECONDS = 60.0, 10.0
WARM_SECONDS = 3.0  # writes that do not count: caches, plans
RATE = 300.0
CONNECTIONS = 16
RESIDENTS = 500
MAP = Path(world.__file__).parent / "store.map.yaml"
STORE = DatasetName("store")
SOURCE, TARGET = SiteName("beijing"), SiteName("singapore")
MS = 1_000.0


async def build(source: str, target: str, scale: float) -> int:
    """The store of the demo; the number of its users."""
    async with await connect(source) as conn:
        await world.create_schema(conn)
        counts = await world.populate(conn, scale=scale)
    async with await connect(target) as conn:
        await world.create_schema(conn, site_number=1)
        await world.populate_residents(conn, users=RESIDENTS)
    return counts.users


def workspace(state: Path, source: str, target: str) -> Workspace:
    return Workspace(
        sites={SOURCE: Site(SOURCE, "CN"), TARGET: Site(TARGET, "SG")},
        datasets={STORE: Dataset(STORE, str(MAP), {SOURCE: source, TARGET: target})},
        state_dir=state,
        config_digest=hashlib.sha256(b"foreground").hexdigest(),
        base_dir=Path("/"),
        limits=Limits(),
    )


def _say(status: MoveStatus) -> None:
    wave = next((w for w in status.waves if w.status is Status.RUNNING), None)
    if wave is not None:
        slowed = wave.live.slowed if wave.live else 0.0
        _bench.say(f"wave {wave.no} of {len(status.waves)}: {wave.phase}, held back {slowed:.0%} of the time")


async def measure(source: str, target: str, state: Path, before: float, rate: float | None) -> dict[str, object]:
    """The two windows, and the figures."""
    sites = {str(SOURCE): source, str(TARGET): target}
    place = workspace(state, source, target)
    plan = await commands.plan(place, Question(STORE, SOURCE, TARGET, where="market <> 'CN'"))
    async with writers(Config(sites, writers=CONNECTIONS, rate=rate, doors=False)) as busy:
        await asyncio.sleep(WARM_SECONDS)
        began = time.monotonic()
        _bench.say(f"{before:.0f} s without a move")
        await asyncio.sleep(before)
        moving = time.monotonic()
        moved = await commands.apply(place, plan, mode=Mode.LIVE, on_progress=_say)
        ended = time.monotonic()
        account = await busy.stop()
    if moved.status is not Status.WAITING:
        raise RuntimeError(f"the move is {moved.status}: {[(w.no, w.error_code) for w in moved.waves if w.error_code]}")
    found = await verdict(account, sites, Law(staying=("CN",)))
    held = [w.live.slowed for w in moved.waves if w.live is not None]
    return {
        **_figures(account, began, moving, ended),
        "move_seconds": round(ended - moving, 1),
        "rows": moved.rows_copied,
        "subjects": plan.cohort.size,
        "held_back": _bench.median(held) if held else None,
        "refused": dict(account.refused),
        "failed_requests": account.failed,
        "oracle_clean": found.clean,
    }


def _figures(account: Account, began: float, moving: float, ended: float) -> dict[str, object]:
    alone = [one for one in account.timings if began <= one.begun < moving]
    during = [one for one in account.timings if moving <= one.begun < ended]
    bystanders = [one for one in during if not one.met & MOVE]
    tps = len(alone) / (moving - began), len(during) / (ended - moving)
    times = [_spread(each) for each in (alone, during, bystanders)]
    p99 = [found.p99 or 0.0 for found in times]
    return {
        "tps_ratio": round(tps[1] / tps[0], 3),
        "p99_ratio": round(p99[1] / p99[0], 3),
        "bystander_p99_ratio": round(p99[2] / p99[0], 3),
        "tps_before": round(tps[0], 1),
        "tps_during": round(tps[1], 1),
        "p50_ms_before": times[0].p50,
        "p50_ms_during": times[1].p50,
        "p99_ms_before": times[0].p99,
        "p99_ms_during": times[1].p99,
        "max_ms_before": times[0].max,
        "max_ms_during": times[1].max,
    }


def _spread(transactions: list[Transacted]) -> Spread:
    return Spread.of(one.latency * MS for one in transactions)


async def run(scale: float, before: float, rate: float | None) -> dict[str, object]:
    """The figures, on servers of their own."""
    with tempfile.TemporaryDirectory(prefix="domicile-bench-state-") as state:
        Path(state).chmod(0o711)
        async with _bench.clusters("source", "target") as (source, target):
            users = await build(source.conninfo(), target.conninfo(), scale)
            _bench.say(f"a store with {users:,} users")
            figures = await measure(source.conninfo(), target.conninfo(), Path(state) / "state", before, rate)
    return {**figures, "users": users, "connections": CONNECTIONS, "rate": rate}


def main(arguments: list[str] | None = None) -> None:
    parser = _bench.parser("foreground", __doc__ or "", 0)
    parser.add_argument("--scale", type=float, default=SCALE, help=f"of the store, 1 is 20,000 users ({SCALE})")
    parser.add_argument("--before", type=float, default=BEFORE_SECONDS, help="seconds without a move (60)")
    parser.add_argument("--rate", type=float, default=RATE, help=f"transactions a second ({RATE:.0f})")
    parser.add_argument("--saturated", action="store_true", help="as fast as they can")
    parser.add_argument("--quick", action="store_true", help="a small store and a short time: a look, not a figure")
    options = parser.parse_args(arguments)
    scale, before = (QUICK_SCALE, QUICK_SECONDS) if options.quick else (options.scale, options.before)
    rate = None if options.saturated else options.rate
    _bench.show(asyncio.run(run(scale, before, rate)), as_json=options.json)


if __name__ == "__main__":
    main()
