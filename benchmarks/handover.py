"""How long do clients wait when their wave is handed over?

    python -m benchmarks.handover [--waves 20] [--rounds 5] [--scenes loopback] [--quick] [--json]

Waves of 1,000 subjects move while 50 connections write 1,000 transactions a second of a row or two, a fifth of them for
the wave that is about to be handed over, the others for everybody; then they are rolled back, which is as many
handovers again; and so, with other users, in each round. ``pause_ms``: how long each transaction took that met a
handover (refused with DM001 or DM002, and tried before the new home had answered anyone of the wave), from its first
try to its acknowledgement at the new home; ``longest_ms``: of each handover only the longest. ``saturated``: the same
with writers as fast as they can. ``crowded``: all 1,000 a second are for the wave, so that each connection waits.
``mixed``: the application's whole mix, orders and all. ``wan``: the mover reaches the target through a line of that
round trip; clients do not. ``failed_requests`` are transactions that a retry at the home did not serve."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
import hashlib
from pathlib import Path
import tempfile
import time

from benchmarks import _bench
from benchmarks._proxy import delayed
from domicile import commands, world
from domicile.model.phase import Status
from domicile.model.plan import Limits, Mode, Question
from domicile.model.report import MoveStatus
from domicile.model.site import Dataset, DatasetName, Site, SiteName
from domicile.model.workspace import Workspace
from domicile.planner.waves import canary_size
from domicile.postgres.connect import connect
from domicile.world.account import Account, Spread
from domicile.world.oracle import Law, verdict
from domicile.world.process import Writers, writers
from domicile.world.traffic import Config

SCENES = ("loopback", "saturated", "crowded", "mixed", "wan")
SUBJECTS = 1_000  # of a wave
WAVES, ROUNDS = 20, 5
CONNECTIONS = 50
RATE = 1_000.0
# No order changes hands across waves: while they are rolled back, each such row waits for the other wave's stream.
MIXED = {"give order": 0}
# A row or two: what a client waits for is to be the handover, not two cores that are full of orders.
LIGHT = {**MIXED, "order": 0, "second thought": 0}
FOCUSED = 0.2  # of the transactions are for the wave at work: each of its users writes every five seconds
BEFORE_SECONDS = 2.0
RESIDENTS, RESIDENTS_MARKET = 1_000, "SG"  # live at the target from the beginning
WARM_SECONDS = 3.0  # the application at the target serves them before anybody comes: its sessions are warm
# The mover does not hold itself back: how much it disturbs while it copies is the question of another benchmark.
LIMITS = Limits(wave_subjects_max=SUBJECTS, probe_p99_ratio_max=1e6)
MAP = Path(world.__file__).parent / "store.map.yaml"
STORE = DatasetName("store")
SOURCE, TARGET = SiteName("beijing"), SiteName("singapore")
SETTINGS = {**_bench.SETTINGS, "max_connections": "200"}
MS = 1_000.0

# Small people, so that a move is mostly handovers: seven rows each.
PEOPLE = (
    """
    insert into store.user_account (id, email, phone, full_name, market, locale)
    select n, n || '@bench.example', '', 'User ' || n, %(market)s, 'en'
    from generate_series(%(first)s::bigint, %(last)s::bigint) as n""",
    """
    insert into store.address (id, user_id, recipient, lines, city, country)
    select n, n, 'User', array['1 Road'], 'Town', %(market)s
    from generate_series(%(first)s::bigint, %(last)s::bigint) as n""",
    """
    insert into store.cart (id, user_id) select n, n from generate_series(%(first)s::bigint, %(last)s::bigint) as n""",
    """
    insert into store.orders (id, user_id, address_id, currency, total)
    select n, n, n, m.currency, 37.50
    from generate_series(%(first)s::bigint, %(last)s::bigint) as n join store.market as m on m.code = %(market)s""",
    """
    insert into store.order_item (order_id, line_no, product_id, quantity, unit_price)
    select n, l, 1 + n %% 126, l, 12.50
    from generate_series(%(first)s::bigint, %(last)s::bigint) as n, generate_series(1, 2) as l""",
    """
    insert into store.payment (id, order_id, method, amount, currency)
    select n, n, 'wallet', 37.50, m.currency
    from generate_series(%(first)s::bigint, %(last)s::bigint) as n join store.market as m on m.code = %(market)s""",
)
SEQUENCES = """
    select setval(pg_get_serial_sequence(t, 'id'), %s)
    from unnest(array['store.user_account', 'store.address', 'store.cart', 'store.orders', 'store.payment']) as t"""


@dataclass(frozen=True, slots=True)
class Scene:
    """One measurement: its users are those of one market, ids without a gap from ``first`` on. ``waves`` of each of its
    rounds, which are moves one after the other."""

    name: str
    market: str
    waves: int
    rate: float | None
    rtt_ms: float = 0.0
    first: int = 1
    rounds: int = 1
    back: bool = False  # rolled back, too
    focused: float = FOCUSED
    weights: Mapping[str, float] = field(default_factory=lambda: LIGHT)

    @property
    def canary(self) -> int:
        """How many the planner puts into a first wave of its own."""
        size = 0
        while (more := canary_size(self.waves * SUBJECTS + size, LIMITS)) != size:
            size = more
        return size

    @property
    def last(self) -> int:
        return self.begin(self.rounds) - 1

    def begin(self, number: int) -> int:
        """The first user of a round."""
        return self.first + number * (self.canary + self.waves * SUBJECTS)

    def users(self, number: int, no: int) -> range:
        """The ids of the users of that wave of a round; the canary is the first."""
        first = self.begin(number)
        begin = first + self.canary + (no - 2) * SUBJECTS
        return range(first, first + self.canary) if no == 1 else range(begin, begin + SUBJECTS)


@dataclass(frozen=True, slots=True)
class Measured:
    """What came out of a scene, without the canary. ``movers`` are the pauses as the mover measured them."""

    account: Account
    waves: dict[int, int]  # by user; each wave of each round has a number of its own
    movers: Spread
    tries: int
    clean: bool
    seconds: float

    def figures(self) -> dict[str, object]:
        """For the result."""
        handovers = self.account.handovers(self.waves)
        clients = Spread.of(ms for met in handovers for ms in met)
        return {
            "pause_ms": spread(clients),
            "longest_ms": spread(self.account.pauses(self.waves)),
            "handovers": len(handovers),
            "handovers_noticed": sum(bool(met) for met in handovers),
            "mover_pause_ms": spread(self.movers),
            "tries": self.tries,
            "failed_requests": self.account.failed,
            "failures": dict(self.account.failures),
            "acknowledged": self.account.acknowledged,
            "tps": self.account.tps,
            "latency_ms": spread(self.account.latency()),
            "oracle_clean": self.clean,
            "seconds": round(self.seconds, 1),
        }


def spread(found: Spread) -> dict[str, float | None]:
    return {"p50": found.p50, "p99": found.p99, "max": found.max}


def scenes(waves: int, rounds: int) -> tuple[Scene, ...]:
    """All of them, over users who do not overlap."""
    few = max(2, waves // 2)
    plain = (
        Scene("loopback", "IN", waves, RATE, rounds=rounds, back=True),
        Scene("saturated", "ID", waves, None),
        Scene("crowded", "TW", few, RATE, focused=1.0),
        Scene("mixed", "HK", few, RATE, weights=MIXED),
        Scene("wan", "MY", few, RATE, rtt_ms=50.0),
        Scene("wan", "PH", few, RATE, rtt_ms=170.0),
    )
    placed: list[Scene] = []
    for scene in plain:
        placed.append(replace(scene, first=placed[-1].last + 1 if placed else 1))
    return tuple(placed)


def residents(all_scenes: Sequence[Scene]) -> tuple[int, int]:
    """The first and the last of those who live at the target."""
    return all_scenes[-1].last + 1, all_scenes[-1].last + RESIDENTS


async def build(source: str, target: str, all_scenes: Sequence[Scene]) -> None:
    """The store at both sites; whoever is to move at the source, residents at the target."""
    for number, conninfo in enumerate((source, target)):
        async with await connect(conninfo) as conn:
            await world.create_schema(conn, site_number=number)
            await world.populate_reference(conn)
    first, last = residents(all_scenes)
    people = [(source, scene.market, scene.first, scene.last) for scene in all_scenes]
    for conninfo, market, start, end in [*people, (target, RESIDENTS_MARKET, first, last)]:
        async with await connect(conninfo) as conn:
            for statement in PEOPLE:
                await conn.execute(statement.encode(), {"market": market, "first": start, "last": end})
    async with await connect(source) as conn:
        await conn.execute(SEQUENCES, (last + 1,))
    for conninfo in (source, target):
        async with await connect(conninfo) as conn:
            await conn.execute("vacuum analyze")


def workspace(state: Path, source: str, target: str) -> Workspace:
    return Workspace(
        sites={SOURCE: Site(SOURCE, "CN"), TARGET: Site(TARGET, "SG")},
        datasets={STORE: Dataset(STORE, str(MAP), {SOURCE: source, TARGET: target})},
        state_dir=state,
        config_digest=hashlib.sha256(target.encode()).hexdigest(),
        base_dir=Path("/"),
        limits=LIMITS,
    )


async def play(scene: Scene, settled: tuple[int, int], state: Path, source: str, target: str) -> Measured:
    """Move the scene's users (and back) under writes for whoever moves next; ``settled`` are the residents' ids."""
    began = time.monotonic()
    sites = {str(SOURCE): source, str(TARGET): target}
    config = Config(
        sites,
        seed=scene.first,
        writers=CONNECTIONS,
        rate=scene.rate,
        markets=(scene.market, RESIDENTS_MARKET),
        hot=0.0,
        focused=scene.focused,
        weights=scene.weights,
        doors=False,
    )
    async with delayed(target, scene.rtt_ms) as line:
        place = workspace(state, source, line if scene.rtt_ms else target)
        async with writers(config) as busy:
            await busy.focus(*settled)
            await asyncio.sleep(WARM_SECONDS)
            pauses, tries = [], 0
            for number in range(scene.rounds):
                moved = await _round(scene, number, busy, place)
                pauses += moved.pauses
                tries += moved.tries
            account = await busy.stop()
    found = await verdict(account, sites, Law(visited=(str(TARGET),) if scene.back else ()))
    if not found.clean:
        _bench.say(f"NOT CLEAN: {found}")
    waves = {
        user: number * (scene.waves + 2) + no
        for number in range(scene.rounds)
        for no in range(2, scene.waves + 2)
        for user in scene.users(number, no)
    }
    return Measured(account, waves, Spread.of(pauses), tries, found.clean, time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class _Moved:
    """A round: the mover's own pauses, in ms, and how many tries it needed beyond the first."""

    pauses: list[float]
    tries: int


async def _round(scene: Scene, number: int, busy: Writers, place: Workspace) -> _Moved:
    """Move the users of one round (and back)."""
    first, last = scene.begin(number), scene.begin(number + 1) - 1
    where = f"market = '{scene.market}' and id between {first} and {last}"
    plan = await commands.plan(place, Question(STORE, SOURCE, TARGET, where=where))
    focus = _Focus(scene, number, busy)
    await focus.at(1)
    await asyncio.sleep(BEFORE_SECONDS)
    moved = await commands.apply(place, plan, mode=Mode.LIVE, on_progress=focus.watch)
    _require(moved, Status.WAITING)
    pauses = _pauses(moved)
    tries = sum(w.live.tries for w in moved.waves[1:] if w.live)
    if scene.back:
        moved = await commands.rollback(place, moved.move_id, on_progress=focus.watch)
        pauses += _pauses(moved)
    return _Moved(pauses, tries)


class _Focus:
    """Keeps the writers on the wave that is at work."""

    def __init__(self, scene: Scene, number: int, busy: Writers) -> None:
        self._scene = scene
        self._number = number
        self._busy = busy
        self._no = 0
        self._orders: set[asyncio.Task[None]] = set()

    def watch(self, status: MoveStatus) -> None:
        no = next((w.no for w in status.waves if w.status is Status.RUNNING), self._no)
        if no != self._no:
            about = f"{self._scene.name} {self._scene.rtt_ms or ''}"
            _bench.say(f"{about}: round {self._number + 1}, wave {no} of {len(status.waves)}")
            order = asyncio.create_task(self.at(no))
            self._orders.add(order)
            order.add_done_callback(self._orders.discard)

    async def at(self, no: int) -> None:
        self._no = no
        users = self._scene.users(self._number, no)
        await self._busy.focus(users[0], users[-1])


def _pauses(moved: MoveStatus) -> list[float]:
    """Without the canary's."""
    return [w.live.pause_ms for w in moved.waves[1:] if w.live is not None and w.live.pause_ms is not None]


def _require(moved: MoveStatus, status: Status) -> None:
    if moved.status is not status:
        why = [(w.no, w.error_code, w.error_message) for w in moved.waves if w.error_code]
        raise RuntimeError(f"the move is {moved.status}: {why or moved.error_message}")


async def run(waves: int, rounds: int, names: Collection[str] = SCENES) -> dict[str, object]:
    """The scenes of these names on one pair of servers."""
    result: dict[str, object] = {"subjects": SUBJECTS, "connections": CONNECTIONS, "rate": RATE}
    wan: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="domicile-bench-state-") as state:
        Path(state).chmod(0o711)
        async with _bench.clusters("source", "target", settings=SETTINGS) as (source, target):
            all_scenes = scenes(waves, rounds)
            _bench.say(f"filling the source with {all_scenes[-1].last:,} users")
            await build(source.conninfo(), target.conninfo(), all_scenes)
            for scene in (s for s in all_scenes if s.name in names):
                place = Path(state) / "state"
                measured = await play(scene, residents(all_scenes), place, source.conninfo(), target.conninfo())
                figures = measured.figures()
                _bench.say(f"{scene.name} {scene.rtt_ms or ''}: {figures}")
                match scene.name:
                    case "wan":
                        wan.append({"rtt_ms": scene.rtt_ms, **figures})
                    case "saturated" | "crowded" | "mixed":
                        result[scene.name] = figures
                    case _:
                        result |= figures
    return {**result, "wan": wan}


def main(arguments: list[str] | None = None) -> None:
    parser = _bench.parser("handover", __doc__ or "", SUBJECTS)
    parser.add_argument(
        "--waves", type=int, default=WAVES, help=f"of each round, moved twice in the first scene ({WAVES})"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of the first scene, there and back ({ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="three waves a scene: a look, not a figure")
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=SCENES, help="only these")
    given = parser.parse_args(arguments)
    waves, rounds = (3, 1) if given.quick else (given.waves, given.rounds)
    _bench.show(asyncio.run(run(waves, rounds, given.scenes)), as_json=given.json)


if __name__ == "__main__":
    main()
