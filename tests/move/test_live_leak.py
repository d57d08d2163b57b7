"""Nothing about anybody outside the wave crosses the border: every byte that is sent to a site, or to the control
database, is recorded and searched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
import socket
import threading
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
import pytest
from tests.move.live_kit import ONE, people, plan_of, small_store
from tests.move.places import SOURCE, TARGET, Place, execute, scalar
from tests.move.test_live_owners import ARRAYS, GIVE

from domicile import commands
from domicile.model.phase import Status
from domicile.model.plan import Mode
from domicile.model.site import DatasetName
from domicile.sites.embedded import EmbeddedCluster

# Names somebody: kept at the source and in the operator's own file, and nowhere else.
CONDITION = "market = 'IN' or email = 'named-in-the-condition@example.org'"
MARK = b"Outsider-Mark"
MINE = b"Member-Mark"
BIG_KEY = 7_654_321_987_654_321  # of an outsider: found as text and as eight bytes
SECRETS = """
    select email from store.user_account where {0} union all select phone from store.user_account where {0}
    union all select object_key from store.photo as t join store.user_account as u on u.id = t.user_id where {0}
    union all select imei from store.device as t join store.user_account as u on u.id = t.user_id where {0}
    union all select code from store.referral as t join store.user_account as u on u.id = t.inviter_id where {0}"""
OUTSIDE = """
    update store.user_account set full_name = '{out} {n}', email = '{out}-{n}@example.org',
        profile = profile || '{{"{out}": 1}}' where id = {one};
    insert into store.orders (id, user_id, address_id, currency, total, note)
        select {key}, {one}, min(id), 'CNY', 1, repeat('{out}', 500) from store.address where user_id = {one};
    update store.orders set id = id + 100000, note = '{out} again' where id = {key};
    insert into store.order_item (order_id, line_no, product_id, quantity, unit_price)
        values ({key} + 100000, 1, 1, 1, 1);
    insert into store.photo (user_id, object_key, bytes, sha256, taken_at)
        values ({one}, '{out}/{n}', 1, '\\x00', now());
    update store.photo set object_key = object_key || '/{out}' where user_id = {one} and object_key = '{out}/{n}';
    insert into store.review (user_id, product_id, stars, body) values ({two}, 1, 1, '{out} {n}');
    update store.review set user_id = {one} where user_id = {two} and body = '{out} {n}';
    delete from store.review where user_id = {one} and body <> '{out} {n}'"""
INSIDE = """
    update store.user_account set full_name = '{mine} {n}' where id = {member};
    insert into store.review (user_id, product_id, stars, body) values ({member}, 1, 1, '{mine} {n}')"""
# A member's order has gone to an outsider, who writes on: nothing of that is sent any more.
AFTER = "update store.orders set note = '{out} after' where user_id = {two} and note is null"


class Tap:
    """Stands in front of a server and keeps what is sent to it. In a thread: the mover may block its loop."""

    def __init__(self, to: Mapping[str, Any]) -> None:
        self._host, self._port = str(to["host"]), int(to["port"])
        self._kept: list[bytearray] = []
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._thread(self._serve)

    def found(self, secrets: Iterable[bytes]) -> list[bytes]:
        """Those that were sent."""
        everything = b"\n".join(self._kept)
        return [secret for secret in secrets if secret in everything]

    def close(self) -> None:
        """Cut every line."""
        for line in (self._server, *self._open):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client = self._server.accept()[0]
                server = socket.create_connection((self._host, self._port))
                for line in (client, server):
                    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open += [client, server]
                self._kept.append(bytearray())
                self._thread(self._pass, client, server, self._kept[-1])
                self._thread(self._pass, server, client, None)

    def _pass(self, here: socket.socket, there: socket.socket, kept: bytearray | None) -> None:
        with suppress(OSError):
            while chunk := here.recv(65_536):
                if kept is not None:
                    kept += chunk
                there.sendall(chunk)
            there.shutdown(socket.SHUT_WR)

    def _thread(self, work: Callable[..., None], *values: object) -> None:
        threading.Thread(target=work, args=values, daemon=True).start()


@contextmanager
def tapped(conninfo: str) -> Iterator[tuple[str, Tap]]:
    """A conninfo that leads to the same database through a tap."""
    facts = conninfo_to_dict(conninfo)
    assert facts["sslmode"] == "disable", "or nothing could be read"
    tap = Tap(facts)
    try:
        yield make_conninfo(conninfo, host="127.0.0.1", port=tap.port), tap
    finally:
        tap.close()


@dataclass(frozen=True, slots=True)
class Border:
    """A store whose mover goes through taps; the application does not."""

    place: Place
    to_source: Tap
    to_target: Tap
    to_control: Tap
    behind: Place  # the same store, as the mover has it


@pytest.fixture(params=[pytest.param("text", marks=pytest.mark.campaign), "binary"])
async def border(
    request: pytest.FixtureRequest,
    pg18: EmbeddedCluster,
    store_source: str,
    store_target: str,
    scratch: Path,
    tmp_path: Path,
) -> AsyncIterator[Border]:
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(
            small_store((pg18, pg18), (store_source, store_target), scratch / tmp_path.name, ONE)
        )
        if request.param == "binary":
            for site in (place.source, place.target):
                await execute(site, *ARRAYS)
        source, to_source = stack.enter_context(tapped(place.source))
        target, to_target = stack.enter_context(tapped(place.target))
        control, to_control = stack.enter_context(tapped(place.workspace.control))
        name = DatasetName("store")
        dataset = replace(place.workspace.datasets[name], at={SOURCE: source, TARGET: target})
        workspace = replace(place.workspace, datasets={name: dataset}, control=control)
        yield Border(place, to_source, to_target, to_control, replace(place, workspace=workspace))


async def secrets(conninfo: str, who: str) -> set[bytes]:
    """What tells these users apart from others."""
    async with await psycopg.AsyncConnection.connect(conninfo) as conn:
        rows = await (await conn.execute(SECRETS.format(who).encode())).fetchall()
    return {str(value).encode() for (value,) in rows}


async def scribble(conninfo: str, outsiders: list[int], insiders: list[int], stop: asyncio.Event) -> int:
    """Marks of outsiders and members everywhere, in one transaction, in keys, and in rows that change hands."""
    rounds = 0
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        while not stop.is_set():
            named = {
                "one": outsiders[rounds % len(outsiders)],
                "two": outsiders[(rounds + 1) % len(outsiders)],
                "member": insiders[rounds % len(insiders)],
                "n": rounds,
                "key": BIG_KEY + rounds,
                "out": MARK.decode(),
                "mine": MINE.decode(),
            }
            give = GIVE.format(named["member"], named["two"])
            both = f"{OUTSIDE}; {INSIDE}; {give}; {AFTER}".format(**named)
            try:
                await conn.execute(f"begin; {both}; commit".encode())
            except psycopg.Error as error:
                await conn.execute("rollback")
                if error.sqlstate not in ("DM001", "DM002", "40001"):
                    raise
                await conn.execute(f"begin; {OUTSIDE.format(**named)}; commit".encode())
            rounds += 1
            await asyncio.sleep(0.01)
    return rounds


def outside(everybody: Iterable[bytes]) -> list[bytes]:
    """What must not be found: the marks, the big keys in both forms, and what tells people apart."""
    return [MARK, str(BIG_KEY)[:12].encode(), BIG_KEY.to_bytes(8, "big")[:5], *everybody]


async def test_nothing_of_outsiders_is_sent_to_the_target_or_to_control(border: Border) -> None:
    place = border.place
    theirs = await secrets(place.source, "market <> 'IN'") - await secrets(place.source, "market = 'IN'")
    theirs -= await secrets(place.target, "true")
    mine = await secrets(place.source, "market = 'IN'")
    outsiders, insiders = await people(place.source, "CN"), await people(place.source)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(scribble(place.source, outsiders, insiders, stop))
        try:
            plan = await plan_of(border.behind, CONDITION)
            moved = await commands.apply(border.behind.workspace, plan, mode=Mode.LIVE)
            await asyncio.sleep(0.3)
        finally:
            stop.set()
    assert moved.status is Status.WAITING, moved
    await commands.purge(border.behind.workspace, moved.move_id)
    assert writing.result() > 10
    named = b"named-in-the-condition"
    assert not border.to_target.found([*outside(theirs), named])
    assert not border.to_control.found([*outside(theirs), *mine, MINE, named])
    assert border.to_target.found([MINE]), "the test can see"
    assert len(border.to_target.found(mine)) > len(mine) / 2
    assert border.to_control.found([b"store-beijing-singapore"])


async def test_nothing_of_the_target_s_own_people_is_sent_back_by_a_rollback(border: Border) -> None:
    place = border.place
    moved = await commands.apply(border.behind.workspace, await plan_of(border.behind), mode=Mode.LIVE)
    assert moved.status is Status.WAITING, moved
    residents = await scalar(
        place.target, "select array_agg(id order by id) from store.user_account where market <> 'IN'"
    )
    insiders = await people(place.target)
    assert isinstance(residents, list)
    theirs = await secrets(place.target, "market <> 'IN'") - await secrets(place.target, "market = 'IN'")
    theirs -= await secrets(place.source, "true")
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(scribble(place.target, residents, insiders, stop))
        try:
            await asyncio.sleep(0.5)
            back = await commands.rollback(border.behind.workspace, moved.move_id)
        finally:
            stop.set()
    assert back.status is Status.ABORTED
    assert writing.result() > 10
    assert not border.to_source.found(outside(theirs))
    assert not border.to_control.found([*outside(theirs), MINE])
    assert border.to_source.found([MINE]), "the test can see"
