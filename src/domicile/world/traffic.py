"""The store's application under way: writers for every market, who follow DM001 to the new home.

They begin with a stale idea of where everybody lives and learn from what the databases answer, as
docs/how-to/answer-the-guard.md says. What was acknowledged is entered in a `Ledger`, which asks domicile nothing.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
import json
import math
import random
import time
from types import MappingProxyType

from domicile.postgres.connect import connect
from domicile.world.account import Account, Met, Transacted
from domicile.world.kinds import DOORS, WEIGHTS, Kind, Maker, Transaction, new_user
from domicile.world.ledger import Ledger, Person, Try
from domicile.world.pool import BROKEN, MISSING, Answer, Pool
from domicile.world.router import Router
from domicile.world.session import named

WAIT_S, WAIT_MAX_S = 0.005, 0.05  # after DM002
NOBODY_TRIES = 3  # per site, until a user is nowhere
PATIENCE_S = 120.0
CREDIT_S = 0.05  # of the rate: how much of a standstill is caught up
HOT_USERS = 20
ISOLATION: Mapping[str, float] = MappingProxyType({"rc": 80, "rr": 15, "s": 5})
_AGAIN = frozenset({"40001", "40P01"})
_OWN = frozenset({MISSING, BROKEN, "23503"})  # what an application meets without a move, too


@dataclass(frozen=True, slots=True)
class Config:
    """``sites`` by name, the one that everybody is thought to live at first; the conninfos may hold secrets.

    ``rate`` is in transactions a second for all writers together, None as fast as they can. ``weights`` replaces those
    of single kinds. ``quiet``: every so many-th user is left alone. ``markets``: users of these, if any are named.
    ``forgetful``: share of transactions that first go to a former home. ``hot``: share of them for a few users.
    ``focused``: share of them for those whom `Traffic.focus` names, the others are for everybody. With ``doors`` closed
    nobody signs up or leaves until `Traffic.open_doors`.
    """

    sites: Mapping[str, str] = field(repr=False)
    seed: int = 1
    writers: int = 12
    rate: float | None = None
    isolation: Mapping[str, float] = field(default_factory=lambda: ISOLATION)
    weights: Mapping[str, float] = field(default_factory=dict)
    quiet: int = 0
    markets: tuple[str, ...] = ()
    forgetful: float = 0.02
    hot: float = 0.05
    focused: float = 1.0
    doors: bool = True


@dataclass(slots=True)
class _Course:
    """One transaction from its first try on."""

    transaction: Transaction
    isolation: bytes
    begun: float
    straying: bool
    met: Met = Met.NOTHING
    wait: float = WAIT_S
    nobody: int = 0


class Traffic:
    """Writers on this event loop: `open`, `run` until `stop`, `settle`, `close`. `account` at any time."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._dice = random.Random(config.seed)
        ledger = Ledger(f"t{config.seed}-")
        self._account = Account(ledger, tuple(config.sites))
        self._ledger = ledger
        self._maker = Maker(ledger, self._dice)
        self._pool = Pool(config.sites)
        self._router = Router(ledger, tuple(config.sites), self._dice)
        self._all: list[int] = []
        self._users = self._all
        self._busy: set[Hashable] = set()
        self._leaving: Counter[int] = Counter()
        self._perhaps: set[int] = set()  # users whose sign-up is in doubt: there may be none such
        self._stopped = asyncio.Event()
        self._doors = config.doors
        self._due = 0.0

    async def open(self) -> None:
        """Connect every writer to every site, and look who lives where. Raises DomicileError."""
        people = named("oracle.sql")["people"]
        for site, conninfo in self._config.sites.items():
            async with await connect(conninfo) as conn:
                for user, market in await (await conn.execute(people)).fetchall():
                    self._ledger.people.setdefault(user, Person(market, site))
        await self._pool.open(self._config.writers)
        quiet, markets = self._config.quiet, self._config.markets
        self._all = self._users = sorted(
            user
            for user, person in self._ledger.people.items()
            if not (quiet and user % quiet == 0) and (not markets or person.market in markets)
        )

    async def run(self) -> None:
        """Write until `stop`."""
        self._account.began = self._due = time.monotonic()
        kinds = [(Kind(k), self._config.weights.get(str(k), w)) for k, w in WEIGHTS.items()]
        async with asyncio.TaskGroup() as group:
            for _ in range(self._config.writers):
                group.create_task(self._writer(*zip(*kinds, strict=True)))
        self._account.ended = time.monotonic()

    def open_doors(self) -> None:
        """From now on users sign up, and a few leave."""
        self._doors = True

    def focus(self, first: int, last: int) -> None:
        """From now on write for the users with these ids, both included, and for new ones."""
        self._users = self._all[bisect_left(self._all, first) : bisect_right(self._all, last)]

    def stop(self) -> None:
        """Each writer ends what it has sent, and begins nothing more."""
        self._stopped.set()

    async def settle(self) -> None:
        """One last write for every user that was written for: so its home is known from an acknowledgement."""
        self._stopped.clear()
        owners = {user for row in self._ledger.rows.values() for user in row.owners}
        users = iter(sorted((self._ledger.homes.keys() | owners) - self._ledger.gone.keys()))

        async def go_round() -> None:
            for user in users:
                made = self._maker.make(Kind.PROFILE_ALONE, user)
                assert made is not None, "a profile can always be written"
                await self._carry(_Course(made, b"begin_rc", time.monotonic(), straying=False))

        async with asyncio.TaskGroup() as group:
            for _ in range(self._config.writers):
                group.create_task(go_round())

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    def account(self) -> Account:
        """What happened so far."""
        return self._account

    async def _writer(self, kinds: tuple[Kind, ...], weights: tuple[float, ...]) -> None:
        levels = [f"begin_{level}".encode() for level in self._config.isolation]
        shares = tuple(self._config.isolation.values())
        while not self._stopped.is_set():
            await self._turn()
            made = self._make(self._dice.choices(kinds, weights)[0])
            if made is None or not self._busy.isdisjoint(made.holds):
                await asyncio.sleep(0)
                continue
            straying = self._router.knows(made.user) and self._dice.random() < self._config.forgetful
            isolation = self._dice.choices(levels, shares)[0]
            self._busy.update(made.holds)
            self._leaving[made.user] += made.kind is Kind.LEAVE
            try:
                await self._carry(_Course(made, isolation, time.monotonic(), straying))
            finally:
                self._leaving[made.user] -= made.kind is Kind.LEAVE
                self._busy.difference_update(made.holds)

    async def _turn(self) -> None:
        """Wait for this transaction's turn at the configured rate."""
        if self._config.rate is None:
            return
        now = time.monotonic()
        due = max(self._due, now - CREDIT_S)
        self._due = due + 1 / self._config.rate
        if due > now:
            await asyncio.sleep(due - now)

    def _make(self, kind: Kind) -> Transaction | None:
        if kind in DOORS and not self._doors:
            return None
        users = self._users if self._dice.random() < self._config.focused else self._all
        among = min(HOT_USERS, len(users)) if self._dice.random() < self._config.hot else len(users)
        if not among:
            return None
        user = users[self._dice.randrange(among)]
        return None if user in self._ledger.gone else self._maker.make(kind, user)

    async def _carry(self, course: _Course) -> None:
        """Try until it is acknowledged, or pointless, or failed."""
        made = course.transaction
        while True:
            site, epoch = self._router.where(course.transaction, straying=course.straying)
            course.straying = False
            begun = time.monotonic()
            answer = await self._pool.attempt(site, course.transaction, course.isolation)
            now = time.monotonic()
            if not answer.state:
                done = Try(made.user or new_user(answer.results), site, epoch, begun)
                self._enter(course, done, answer, now)
                return
            if answer.state not in _OWN:
                self._account.refused[answer.state] += 1
            if not await self._learn(course, site, answer):
                return
            if self._stopped.is_set():
                self._account.given_up["stopped"] += 1
                return
            if now - course.begun > PATIENCE_S:
                self._account.failures["patience"] += 1
                return

    def _enter(self, course: _Course, done: Try, answer: Answer, now: float) -> None:
        made = course.transaction
        if made.like is not None:
            self._ledger.people[done.user] = Person(made.like.market, done.site)
            if answer.doubt:
                self._perhaps.add(done.user)
            else:
                self._users.append(done.user)
        effects = made.effects(answer.results)
        if answer.doubt:
            self._ledger.doubt(done, effects)
            return
        self._ledger.acknowledge(done, effects, now)
        self._ledger.audited[done.site] += made.audits(answer.results)
        number = self._account.sites.index(done.site)
        self._account.timings.add(
            Transacted(done.user, course.begun, now - course.begun, course.met, number, done.epoch)
        )

    async def _learn(self, course: _Course, site: str, answer: Answer) -> bool:
        """What an application does about a refusal; False when it ends there."""
        made = course.transaction
        match answer.state:
            case "DM001" | "DM002" as state:
                facts = _facts(answer.about, self._account.sites)
                if facts is None:
                    self._account.failures[f"{state} that cannot be read"] += 1
                    return False
                elsewhere = facts["home"] != site
                if elsewhere and made.partner:
                    self._account.given_up["apart"] += 1  # nobody knows which of the two has moved
                    return False
                await _pause(course, state)
                if elsewhere:
                    # Behind DM002 in the epoch before the one that begins here.
                    epoch = float(str(facts["epoch"])) - (state == "DM002")
                    self._router.told(made, {**facts, "epoch": epoch})
            case state if state in _AGAIN or (state == "23503" and made.kind is Kind.LEAVE):
                course.met |= Met.SERIALIZATION
                await asyncio.sleep(self._dice.random() * WAIT_S)
            case "missing" | "23503":  # it was not there, or it went while we wrote
                return await self._look_elsewhere(course, site)
            case "broken":
                course.met |= Met.BROKEN
                await asyncio.sleep(WAIT_MAX_S)
            case state:
                internal = answer.about.decode(errors="replace") if state.startswith("XX") else ""
                self._account.failures[f"{state} {internal}".strip()] += 1
                return False
        return True

    async def _look_elsewhere(self, course: _Course, site: str) -> bool:
        """The user is not at this site: gone, or moved and its source copy removed, so that nobody says where."""
        user = course.transaction.user
        sites = self._account.sites
        course.met |= Met.NOBODY
        course.nobody += 1
        await asyncio.sleep(0 if course.nobody < len(sites) else WAIT_S)
        tried = course.nobody >= NOBODY_TRIES * len(sites)
        if user in self._ledger.gone or course.transaction.partner or (tried and user in self._perhaps):
            self._account.given_up["gone"] += 1
            return False
        # Who is about to leave, by another writer, may be gone before that is acknowledged, or doubted.
        leaving = self._leaving[user] > (course.transaction.kind is Kind.LEAVE)
        if tried and not leaving:
            self._account.failures["nowhere"] += 1
            return False
        self._router.not_at(user, site)
        return True


async def _pause(course: _Course, state: str) -> None:
    if state == "DM002":
        course.met |= Met.MOVING
        await asyncio.sleep(course.wait)
        course.wait = min(course.wait * 1.5, WAIT_MAX_S)
        return
    if course.met & Met.MOVED:
        await asyncio.sleep(WAIT_S)
    course.met |= Met.MOVED


def _facts(about: bytes, sites: Collection[str]) -> Mapping[str, object] | None:
    """Home and epoch of a refusal; None where it does not name a site of ours and a number."""
    try:
        facts = json.loads(about)
        home, epoch = facts["home"], float(str(facts["epoch"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return facts if home in sites and math.isfinite(epoch) else None
