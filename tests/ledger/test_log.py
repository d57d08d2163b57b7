"""Two sites' logs in real databases: leaves, checkpoints, cosignatures; and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from psycopg import AsyncConnection, errors
import pytest
from tests.conftest import SitePair

from domicile.evidence import checkpoint
from domicile.evidence.note import Note
from domicile.evidence.statement import Copy
from domicile.ledger.checkpoints import End, close_log
from domicile.ledger.evidence import Evidence, destroy_salts, subject_of
from domicile.ledger.export import part
from domicile.ledger.keys import log_keys
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.site import DatasetName, MoveId, SiteName
from domicile.postgres import evidence_rows, site_schema
from domicile.postgres.connect import SESSION, connect

ONE, OTHER = SiteName("one"), SiteName("other")
MOVE, NEXT = MoveId("m1"), MoveId("m2")
NOON = 1_767_225_600


@dataclass
class Sites:
    """Both sites, and the ways to write for two moves."""

    evidence: dict[MoveId, Evidence]
    own: End
    other: End

    async def say(self, move: MoveId = MOVE, act: str = "", rows: int = 1) -> None:
        await self.evidence[move].add(self.own.conn, Copy(ONE, NOON, 1, rows, 1), act)

    async def close(self) -> Note | None:
        return await close_log(self.own, self.other, NOON)

    async def size(self) -> int:
        note = await self.close()
        return 0 if note is None else checkpoint.read(note).size


@asynccontextmanager
async def opened(state: Path, conns: tuple[str, str]) -> AsyncIterator[Sites]:
    keys = {name: log_keys(state, DatasetName("shop"), name) for name in (ONE, OTHER)}
    evidence = {move: Evidence(move, subject_of(move, "ab"), keys) for move in (MOVE, NEXT)}
    async with await connect(conns[0], settings=SESSION) as one, await connect(conns[1], settings=SESSION) as other:
        for conn, name in ((one, ONE), (other, OTHER)):
            await site_schema.install(conn, "bigint")
            await evidence[MOVE].begin(conn, name)
        yield Sites(evidence, End(one, keys[ONE]), End(other, keys[OTHER]))


@pytest.fixture
async def sites(site_pair: SitePair, tmp_path: Path) -> AsyncIterator[Sites]:
    async with opened(tmp_path, (site_pair.source, site_pair.target)) as found:
        yield found


async def test_leaves_get_their_places_and_the_other_site_cosigns(sites: Sites) -> None:
    assert await sites.close() is None, "an empty log has no checkpoint"
    for rows, move in enumerate((MOVE, NEXT, MOVE)):
        await sites.say(move, rows=rows)
    first = await sites.close()
    assert first is not None
    assert checkpoint.read(first).size == 3
    assert checkpoint.is_signed(first, sites.own.keys.log.key)
    assert checkpoint.cosignature_times(first, sites.other.keys.public) == {"shop/other/log": NOON}
    assert await sites.close() == first, "it has not grown"
    for rows in range(5):
        await sites.say(rows=rows)
        await sites.close()
    found = await part(sites.own.conn, "shop/one/log", MOVE)
    assert found is not None
    assert (len(found.leaves), found.runs, len(found.history)) == (7, ((0, 1), (2, 8)), 5)
    seen = await evidence_rows.latest(sites.other.conn, "shop/one/log")
    assert seen is not None
    assert seen.size == 8
    assert await part(sites.own.conn, "shop/one/log", MoveId("m3")) is None


async def test_an_act_is_told_once_and_a_place_in_the_chain_is_taken_once(sites: Sites) -> None:
    for _ in range(3):
        await sites.say(act="copy/1")
    assert await sites.size() == 1
    evidence = sites.evidence[MOVE]
    head = await evidence.head(sites.own.conn)
    entries = [evidence.sealed(head, Copy(ONE, NOON, 1, rows, 1))[0] for rows in (1, 2)]
    await evidence_rows.insert(sites.own.conn, entries[0])
    with pytest.raises(errors.UniqueViolation):
        await evidence_rows.insert(sites.own.conn, entries[1])
    assert await sites.size() == 2


async def test_what_is_rolled_back_was_never_said(sites: Sites) -> None:
    with pytest.raises(ZeroDivisionError):
        await _cut(sites)
    assert await sites.close() is None


async def _cut(sites: Sites) -> None:
    async with sites.own.conn.transaction():
        await sites.say()
        raise ZeroDivisionError


async def test_acts_of_two_moves_do_not_wait_for_each_other(sites: Sites, site_pair: SitePair) -> None:
    async with await connect(site_pair.source, settings=SESSION) as beside:
        await beside.execute("set lock_timeout = '1s'")
        async with sites.own.conn.transaction():
            await sites.say()
            await sites.evidence[NEXT].add(beside, Copy(ONE, NOON, 1, 1, 1))
            checkpointed = await close_log(End(beside, sites.own.keys), sites.other, NOON)
            assert checkpointed is not None
            assert checkpoint.read(checkpointed).size == 1, "what is not committed waits for the next one"
    assert await sites.size() == 2


async def test_cut_between_signing_and_cosigning_it_goes_on(sites: Sites) -> None:
    await sites.say()
    await sites.size()
    await sites.say()
    await sites.other.conn.execute(
        "alter table domicile.evidence_checkpoint add constraint no check (size < 2) not valid"
    )
    with pytest.raises(errors.CheckViolation):
        await sites.close()
    await sites.say()
    await sites.other.conn.execute("alter table domicile.evidence_checkpoint drop constraint no")
    assert await sites.size() == 3


@pytest.mark.parametrize(
    "forgery",
    [
        "delete from domicile.evidence_checkpoint; delete from domicile.evidence_leaf where sequence > 0",
        """delete from domicile.evidence_checkpoint; delete from domicile.evidence_leaf where sequence > 0;
        update domicile.evidence_leaf set place = null""",
        "delete from domicile.evidence_checkpoint; update domicile.evidence_leaf set leaf = 'x', place = null",
        "update domicile.evidence_checkpoint set roots = array[hash, hash] from domicile.evidence_leaf where place = 0",
    ],
    ids=["places left", "rolled back", "remade", "forked"],
)
async def test_a_log_that_did_not_only_grow_is_not_cosigned(sites: Sites, forgery: str) -> None:
    for _ in range(3):
        await sites.say()
    assert await sites.size() == 3
    await sites.own.conn.execute(forgery.encode())
    await sites.say(NEXT)
    with pytest.raises(DomicileError) as refused:
        await sites.close()
    assert refused.value.code is ErrorCode.EVIDENCE_FORKED
    assert refused.value.facts["cosigned"] == 3


async def test_a_log_that_was_emptied_is_not_taken_for_a_new_one(sites: Sites) -> None:
    """Nothing is left that could be cosigned: that is told, too, and not taken for a log that has said nothing yet."""
    await sites.say()
    await sites.close()
    await sites.own.conn.execute("truncate domicile.evidence_checkpoint, domicile.evidence_leaf")
    with pytest.raises(DomicileError, match="shorter than what the other site has cosigned") as refused:
        await sites.close()
    assert refused.value.code is ErrorCode.EVIDENCE_FORKED
    assert refused.value.facts == {"log": "shop/one/log", "cosigned": 1, "size": 0}


async def test_another_machine_s_key_is_refused(sites: Sites, site_pair: SitePair, tmp_path: Path) -> None:
    assert sites.own.keys.origin == "shop/one/log"
    with pytest.raises(DomicileError, match="not the one that the log was begun with"):
        async with opened(tmp_path / "another", (site_pair.source, site_pair.target)):
            pass


async def test_a_commitment_says_nothing_without_its_salt(sites: Sites) -> None:
    conn: AsyncConnection = sites.own.conn
    evidence = sites.evidence[MOVE]
    first = await evidence.commit_to(conn, "cohort")
    assert first == await evidence.commit_to(conn, "cohort") != sha256(b"cohort").hexdigest()
    assert first != await sites.evidence[NEXT].commit_to(conn, "cohort")
    await destroy_salts(conn, MOVE)
    await destroy_salts(conn, MOVE)
    assert first != await evidence.commit_to(conn, "cohort")


async def test_nobody_who_comes_waits_for_a_leaf_that_is_not_committed(sites: Sites, site_pair: SitePair) -> None:
    """Another move's mover installs what is missing at a site; a writer of the log holds its row meanwhile."""
    async with await connect(site_pair.source, settings={**SESSION, "lock_timeout": "500ms"}) as comes:
        async with sites.own.conn.transaction():
            await sites.say()
            await site_schema.install(comes, "bigint")
            await comes.execute("select from domicile.evidence_leaf")


async def test_checkpoints_that_were_damaged_are_told_as_a_fork(sites: Sites) -> None:
    await sites.say()
    await sites.close()
    await sites.own.conn.execute("update domicile.evidence_checkpoint set roots = '{}' where size = 1")
    await sites.say()
    with pytest.raises(DomicileError) as damaged:
        await sites.close()
    assert damaged.value.code is ErrorCode.EVIDENCE_FORKED


async def test_who_stopped_in_the_middle_keeps_nobody_for_long(
    sites: Sites, site_pair: SitePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_rows, "_LIMITS", evidence_rows._LIMITS.replace("5s", "100ms"))
    await sites.say()
    async with await connect(site_pair.target, settings=SESSION) as stopped, stopped.transaction():
        await evidence_rows.one_at_a_time(stopped, sites.own.keys.origin)
        with pytest.raises(errors.LockNotAvailable):
            await sites.close()
    assert await sites.size() == 1
