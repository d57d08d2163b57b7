"""The session of the apply at a simulated destination: it carries out what the real `Apply` sends, and checks it.

Mirrors the SQL of stream/dml.py, stream/leave.py, stream/ahead.py and stream/rounds.py: a statement of ours is a
function of the session, in the place of its text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, cast

from domicile.model.handover import TargetMark
from domicile.postgres.failures import Refusal
from domicile.stream import ahead, rounds
from domicile.stream.canonical import split
from domicile.stream.change import Field, Key
from domicile.stream.dml import Dml, SiteColumn
from domicile.stream.fold import Fields, Sent
from domicile.stream.params import position_of
from domicile.stream.pipeline import ABORTED, REFUSED, Refused, Statement
from reliability.simulation import tables
from reliability.simulation.clock import pause
from reliability.simulation.flaws import Flaw
from reliability.simulation.guard import LOOK_SECONDS
from reliability.simulation.network import Line
from reliability.simulation.site import Event, Record, Site
from reliability.simulation.tables import CODE, DATA_MAP, LAYOUT, NAMES, ORDERS, Row
from reliability.simulation.truth import Truth

_HEADER = 20  # bytes before the elements of a binary array
Work = Callable[["Session"], object]


def does(work: Work, *checks: Callable[[Truth, frozenset[int]], None]) -> Statement:
    """A statement that is carried out by a function; ``checks`` look at what of it crosses."""
    return Statement(b"do", cast("Sequence[bytes | None]", (work, checks)))


def refuse(reason: str, table: str = "") -> Refused:
    """``domicile.refuse``."""
    return Refused(Refusal(REFUSED, table), reason)


class Rows:
    """The wave's rows at the destination. ``work``: the tables as the session's open transaction sees them."""

    def __init__(self, site: Site, wave: int) -> None:
        self.site, self.wave = site, wave
        self.work: list[dict[Field, Row]] | None = None
        self.events: list[Event] = []

    def _tables(self) -> list[dict[Field, Row]]:
        assert self.work is not None, "a change outside a transaction"
        return self.work

    def mine(self, no: int, row: Row) -> bool:
        return tables.owner_in(tuple(self._tables()), no, row) in self.site.members.get(self.wave, ())

    def require_mine(self, no: int, keys: Iterable[Key]) -> None:
        for key in keys:
            row = self._tables()[no].get(key)
            if row is None or not self.mine(no, row):
                raise refuse("rows", NAMES[no])

    def claim(self, no: int, keys: Iterable[Key]) -> None:
        for key in keys:
            row = self._tables()[no].get(key)
            if row is None or not (self.mine(no, row) or tables.owner_in(tuple(self._tables()), no, row) is None):
                raise refuse("rows", NAMES[no])

    def put(self, no: int, old: Row | None, new: Row | None) -> None:
        table = self._tables()[no]
        if old is not None:
            del table[old[0]]
        if new is not None:
            taken = no == ORDERS and any(row[CODE] == new[CODE] for row in table.values())
            if new[0] in table or taken:
                raise Refused(Refusal("23505", NAMES[no]))
            table[new[0]] = new
        self.events.append((no, old, new))

    def change(self, no: int, key: Key, fields: Fields, new_key: Key | None = None) -> None:
        old = self._tables()[no].get(key)
        if old is None:
            raise refuse("rows", NAMES[no])
        new = tuple(before if sent is None else sent for before, sent in zip(old, fields, strict=True))
        self.put(no, old, new if new_key is None else (new_key, *new[1:]))

    def remove(self, no: int, key: Key) -> None:
        old = self._tables()[no].get(key)
        if old is None:
            raise refuse("rows", NAMES[no])
        self.put(no, old, None)


class Session(Rows):
    """One session at the destination."""

    def __init__(self, site: Site, wave: int, flaws: frozenset[Flaw], now: Callable[[], float], truth: Truth) -> None:
        super().__init__(site, wave)
        self.flaws, self.now, self.truth = flaws, now, truth
        self.after: list[Callable[[Record], None]] = []
        self.failed = self.arrives = False
        self._saved: tuple[list[dict[Field, Row]], int, int] | None = None
        self._waiting: list[object] = []  # rounds, one behind the other
        self._ends = 0

    @property
    def record(self) -> Record:
        record = self.site.waves.get(self.wave)
        if record is None:
            raise refuse("position")
        return record

    def round(self, statements: Sequence[Statement]) -> list[Any] | Coroutine[Any, Any, list[Any]]:
        """Carry a round out; the first error ends it. It waits for who settles a doubt, and for an application that has
        locked its rows: here before the commit, at a server before the change."""
        done: list[Any] = []
        rest = statements if self._waiting else self._carry(statements, done)
        return self._in_turn(rest, done) if rest else done

    def _carry(self, statements: Sequence[Statement], done: list[Any]) -> Sequence[Statement]:
        """Up to a statement that has to wait: what is left to be done."""
        for at, statement in enumerate(statements):
            if self._must_wait(statement):
                return statements[at:]
            done.append(self._one(statement))
        return ()

    def _must_wait(self, statement: Statement) -> bool:
        if statement.text is rounds._LEASE:  # noqa: SLF001 - the statement is known by its text
            return self.site.settling is not None
        return statement.text == b"commit" and not self.failed and self.site.held(self.events)

    async def _in_turn(self, rest: Sequence[Statement], done: list[Any]) -> list[Any]:
        turn, ends, life = object(), self._ends, self.site.life
        self._waiting.append(turn)
        try:
            while rest:
                await pause(LOOK_SECONDS)
                if (self._ends, self.site.life) != (ends, life):
                    raise Refused(Refusal())
                if self._waiting[0] is turn and not self._must_wait(rest[0]):
                    self._look_again()
                    rest = self._carry(rest, done)
            return done
        finally:
            self._waiting.remove(turn)

    def _look_again(self) -> None:
        """Who was waited for has left the rows that are changed as they were: nobody may write them here."""
        if not self.events:
            self.work = [dict(table) for table in self.site.rows]
            return
        known: set[tuple[int, Field]] = set()
        for no, old, new in self.events:
            if old is not None and (no, old[0]) not in known and self.site.rows[no].get(old[0]) != old:
                raise Refused(Refusal("40001", NAMES[no]))
            known.update((no, row[0]) for row in (old, new) if row is not None)

    def end(self) -> None:
        """What is open is rolled back."""
        self.work, self.events, self.after, self.failed, self.arrives = None, [], [], False, False
        self.site.leased.discard(self)

    def lose(self) -> None:
        """The connection is gone: what waits is rolled back, too."""
        self._ends += 1
        self.end()

    def _one(self, statement: Statement) -> Any:
        text = statement.text
        if text == b"rollback":
            return self.end()
        if text == b"rollback to savepoint part" and self._saved is not None:
            self.failed = False
            self.work = [dict(table) for table in self._saved[0]]
            del self.events[self._saved[1] :], self.after[self._saved[2] :]
            return None
        if self.failed:
            raise Refused(Refusal(ABORTED))
        try:
            return self._carry_out(text, statement)
        except Refused:
            self.failed = self.work is not None
            raise

    def _carry_out(self, text: bytes, statement: Statement) -> Any:
        values: Sequence[Any] = statement.values
        if text == b"do":
            return values[0](self)
        if text == b"begin":
            self.work = [dict(table) for table in self.site.rows]
        elif text == b"commit":
            self._commit()
        elif text == b"savepoint part":
            assert self.work is not None
            self._saved = ([dict(table) for table in self.work], len(self.events), len(self.after))
        elif text is rounds._LEASE:  # noqa: SLF001 - the statement is known by its text
            if int(values[1]) != self.site.generation and Flaw.NO_LEASE not in self.flaws:
                raise refuse("lease")
            self.site.leased.add(self)
        elif text is rounds._AT:  # noqa: SLF001
            at = position_of(values[2].decode()) if values[2] else 0
            follows = self.record.term == int(values[1]) and self.record.position == at
            if not follows and Flaw.NO_TERM not in self.flaws:
                raise refuse("position")
        elif text is rounds._MOVE_ON:  # noqa: SLF001
            position, seen = (position_of(value.decode()) if value else 0 for value in values[1:])
            self.after.append(lambda record: _move_on(record, position, seen))
        elif text is ahead._KEEP:  # noqa: SLF001
            self._keep(values)
        return None

    def _keep(self, values: Sequence[bytes]) -> None:
        if Flaw.AHEAD_FORGOTTEN in self.flaws:
            return
        entered, known = ([bytes(one[4:]) for one in split(v[_HEADER:])] for v in values[3:5])
        kept = (values[1].decode(), int.from_bytes(values[2], "big"), entered, known)
        self.after.append(lambda record: record.ahead.append(kept))

    def _commit(self) -> None:
        record = self.record
        arrives = self.arrives
        seam = self.site.seam() if arrives else None
        own = self.site.commit_now(self.events, self.now())
        for effect in self.after:
            effect(record)
        if seam is not None:
            record.arrival = f"{seam} {own} {self.site.end_of_log}"
            self.site.on_mark(self.site, record)
            self.truth.arrived(self.site, record.no)
        self.end()


def _move_on(record: Record, position: int, seen: int) -> None:
    record.position, record.seen = position, seen or record.seen


class SimTable:
    """`TableStatements` of one table, as functions."""

    keyless = has_guards = key_fixed = False

    def __init__(self, no: int) -> None:
        self.no = no

    def delete_many(self, keys: Sequence[Key]) -> list[Statement]:
        def work(session: Session) -> None:
            session.require_mine(self.no, keys)
            for key in keys:
                session.remove(self.no, key)

        return [does(work)] if keys else []

    def update_many(self, sent: Sent, rows: Sequence[tuple[Key, Fields]]) -> list[Statement]:
        def work(session: Session) -> None:
            session.require_mine(self.no, [key for key, _ in rows])
            for key, fields in rows:
                session.change(self.no, key, fields)

        assert sent is None or None not in [f for _, fields in rows for f, s in zip(fields, sent, strict=True) if s]
        return [does(work, *(self._crossing(key, fields) for key, fields in rows))]

    def insert_many(self, rows: Sequence[Fields]) -> list[Statement]:
        def work(session: Session) -> None:
            for row in rows:
                session.put(self.no, None, cast("Row", row))

        return [does(work, *(self._crossing(cast("Key", row[0]), row) for row in rows))] if rows else []

    def claim(self, keys: Sequence[Key]) -> list[Statement]:
        return [does(lambda session: session.claim(self.no, keys))]

    def delete(self, key: Key) -> Statement:
        return does(lambda session: session.remove(self.no, key))

    def update(self, key: Key, fields: Fields, new_key: Key | None = None) -> list[Statement]:
        crossing = self._crossing(key if new_key is None else new_key, fields)
        return [does(lambda session: session.change(self.no, key, fields, new_key), crossing)]

    def insert(self, fields: Fields) -> Statement:
        return self.insert_many([fields])[0]

    def rehearsal(self) -> list[Statement]:
        return []

    def _crossing(self, key: Key, fields: Fields) -> Callable[[Truth, frozenset[int]], None]:
        if None not in fields:
            return lambda truth, members: truth.crosses(self.no, cast("Row", fields), members)
        sent = [(at, field) for at, field in enumerate(fields) if field is not None]
        return lambda truth, members: truth.crosses_in_part(self.no, key, sent, members)


TABLES = tuple(map(SimTable, range(len(NAMES))))


def leave(dmls: Sequence[Dml], no: int, keys: Sequence[Key]) -> Iterator[tuple[int, Statement]]:
    """As in stream/leave.py: the rows with all that hangs from them, children first."""
    root = LAYOUT.tables[no].name
    for dml in reversed(dmls):
        steps = [step.to_table for step in DATA_MAP.path(dml.table.name)]
        if dml.table.no == no or root in steps:
            yield dml.table.no, does(_leaving(dml.table.no, no, keys))


def _leaving(child: int, no: int, keys: Sequence[Key]) -> Work:
    def work(session: Session) -> list[Key]:
        if Flaw.LEAVE_ALONE in session.flaws and child != no:
            return []
        here = session._tables()  # noqa: SLF001 - a statement is a part of its session
        members = session.site.members.get(session.wave, frozenset())
        removed = []
        for key, row in list(here[child].items()):
            above: Row | None = row
            at = child
            while above is not None and at != no:
                at, above = _parent(here, at, above)
            if above is not None and above[0] in keys and tables.owner_in(tuple(here), no, above) in {*members, None}:
                session.put(child, row, None)
                removed.append(key)
        return removed

    return work


def _parent(here: Sequence[dict[Field, Row]], no: int, row: Row) -> tuple[int, Row | None]:
    match no:
        case 1:
            return 0, here[0].get(row[1])
        case 2:
            return 1, here[1].get(row[1])
    return 1, next((order for order in here[1].values() if order[CODE] == row[1]), None)


def gone(answer: list[Key]) -> list[Key]:
    return answer


def arrive(session: Session, site: str, epoch: int) -> None:
    """The statement of move/live_handover.py that makes the destination the home."""
    if session.record.mark != TargetMark.ARRIVING:
        raise refuse("it is not arriving", "domicile.wave")

    def effect(record: Record) -> None:
        record.mark, record.home, record.epoch, record.term = TargetMark.RESIDENT, site, epoch, record.term + 1
        record.ahead.clear()

    session.after.append(effect)
    session.arrives = True


class Pipe:
    """What `Apply` takes for its `Pipeline`."""

    def __init__(self, line: Line, session: Session, members: frozenset[int]) -> None:
        self._line, self._session, self._members = line, session, members
        line.lost = lambda: Refused(Refusal())
        line.on_end.append(session.lose)

    async def send(self, statements: Iterable[Statement], **_: bool) -> asyncio.Future[list[Any]]:
        listed = list(statements)
        members = self._members
        for statement in listed:
            if statement.text == b"do":
                checks: Any = statement.values[1]
                for check in checks:
                    check(self._session.truth, members)
        return self._line.post(lambda: self._session.round(listed))

    async def run(self, statements: Iterable[Statement]) -> list[Any]:
        return await (await self.send(statements, collect=True))

    async def reset(self, back: Statement = Statement(b"rollback")) -> None:  # noqa: B008 - a constant
        await self.run([back])

    async def close(self) -> None:
        self._line.cut(late=True, notice=0.01)


_COLUMNS = tuple(
    tuple(SiteColumn(name, 20, "bigint", always=False, read=True) for name in table.columns) for table in LAYOUT.tables
)


def dmls(wave: int) -> list[Dml]:
    """What `Rounds` knows a destination by."""
    return [Dml(table, _COLUMNS[table.no], DATA_MAP, wave, binary=True) for table in LAYOUT.tables]
