"""The customers who use the shop while it is moved, and what they say of it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from domicile.demo.census import QUIET
from domicile.demo.sites import SITES, SOURCE, TARGET, Sites
from domicile.model.site import SiteName
from domicile.postgres.connect import connect
from domicile.world.account import Account, Spread
from domicile.world.oracle import Copies, Law, Verdict, verdict
from domicile.world.traffic import Config

WRITERS = 12
RATE = 200.0  # transactions a second: the servers, the mover and the writers share one small machine
SEED = 2_026
MAINLAND = "CN"
MOVING = ("DM001", "DM002")
AGAIN = ("40001", "40P01")  # serialization and deadlock: any application repeats them, moved or not
_MEMBERS = "select subject, wave from domicile.member"


@dataclass(frozen=True, slots=True)
class Writes:
    """What the customers were promised, and what the oracle found. ``pause`` is the longest wait of each handover."""

    seconds: float
    transactions: int
    refused: Mapping[str, int]
    failures: Mapping[str, int]
    latency: Spread
    pause: Spread
    audited: Mapping[str, int]
    found: Verdict

    @property
    def moving(self) -> int:
        """How often a write was refused because of the move."""
        return sum(self.refused.get(state, 0) for state in MOVING)

    @property
    def again(self) -> int:
        return sum(self.refused.get(state, 0) for state in AGAIN)

    @property
    def politely(self) -> bool:
        """Nobody was refused in another way than they are prepared for."""
        return not self.failures and set(self.refused) <= {*MOVING, *AGAIN}

    def as_dict(self) -> dict[str, object]:
        """The ``--json`` form."""
        return {
            "seconds": round(self.seconds, 3),
            "transactions": self.transactions,
            "tps": round(self.transactions / self.seconds, 1) if self.seconds else 0.0,
            "refused": dict(self.refused),
            "failures": dict(self.failures),
            "latency_ms": _spread(self.latency),
            "pause_ms": {**_spread(self.pause), "handovers": self.pause.count},
            "oracle": self.found.as_dict(),
        }


def config(sites: Sites) -> Config:
    """Writers for the users of both sites; nobody signs up or leaves before the cohort is written down."""
    places = {str(name): sites.conninfo(name) for name in (SOURCE, TARGET)}
    return Config(places, seed=SEED, writers=WRITERS, rate=RATE, quiet=QUIET, doors=False)


async def waves(sites: Sites) -> Mapping[int, int]:
    """Which users moved together, as the source has it: for telling whose pause was that of which handover."""
    async with await connect(sites.conninfo(SOURCE)) as conn:
        return {int(subject): int(wave) for subject, wave in await (await conn.execute(_MEMBERS)).fetchall()}


async def ask_oracle(sites: Sites, account: Account, together: Mapping[int, int]) -> Writes:
    """The verdict on everything the customers were promised, once they have stopped and the source copy is gone."""
    places: dict[str, str] = {str(name): sites.conninfo(SiteName(name)) for name in SITES}
    found = await verdict(account, places, Law(Copies.NONE, staying=(MAINLAND,)))
    return Writes(
        seconds=account.seconds,
        transactions=account.transactions,
        refused=dict(account.refused),
        failures=dict(account.failures),
        latency=account.latency(),
        pause=account.pauses(together),
        audited=dict(account.ledger.audited),
        found=found,
    )


def _spread(spread: Spread) -> dict[str, float | None]:
    return {"p50": spread.p50, "p99": spread.p99, "max": spread.max}
