"""What moves write into the sites' logs: one leaf an act, with the act or not at all, and a bundle that both verifiers
find proven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import psycopg
import pytest
from tests.evidence.both import judged
from tests.move.live_kit import ONE, begun, marks, no_trace, plan_of
from tests.move.mover import Mover
from tests.move.places import SMALL, Place, apply_cold, execute, scalar
from tests.move.test_live_kill import only_move

from domicile import commands
from domicile.commands.evidence import Bundle
from domicile.evidence.bundle import pack, unpack
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import PHASES_OF, Status
from domicile.model.plan import Mode, Question
from domicile.move import evidence
from domicile.move.carrier import Carrier
from domicile.move.run import Outcome, run_phase

BEGUN = [("plan", 0), ("snapshot", 1)]
WHERE = "market = 'IN'"
PAYLOADS = "select decode(convert_from(leaf, 'utf8')::json ->> 'payload', 'base64') from domicile.evidence_leaf"
SALTS = "select count(distinct move_id) from domicile.evidence_salt"
REFUSING = """
    create function domicile.refuse_leaf() returns trigger language plpgsql as $$begin
        if position('handover' in convert_from(decode(convert_from(new.leaf, 'utf8')::json ->> 'payload', 'base64'),
            'utf8')) > 0 then raise exception 'no'; end if; return new; end$$;
    create trigger refuse_leaf before insert on domicile.evidence_leaf
        for each row execute function domicile.refuse_leaf();
    alter table domicile.evidence_leaf enable always trigger refuse_leaf"""


async def proven(place: Place, move: str) -> Bundle:
    """The bundle of the move, which both verifiers find proven."""
    found = await commands.evidence_bundle(place.workspace, move)
    assert judged(found.raw, found.keys) == ("proven", "")
    return found


def acts(found: Bundle, site: str) -> list[tuple[str, int]]:
    """Kind and wave (0: of the move) of each statement of a site, in the log's order."""
    said = [t.said.predicate for t in found.statements]
    return [(p.kind, getattr(p, "wave", 0)) for p in said if p.site == site]


def of(found: Bundle, kind: str) -> Sequence[object]:
    return [t.said.predicate for t in found.statements if t.said.predicate.kind == kind]


async def leaves(conninfo: str) -> list[str]:
    """What each leaf at a site is about, as its text tells; in the order in which they were written."""
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        kinds = """
            select substring(convert_from(decode(convert_from(leaf, 'utf8')::json ->> 'payload', 'base64'), 'utf8')
                from 'evidence:([a-z]+):') from domicile.evidence_leaf order by id"""
        return [kind for (kind,) in await (await conn.execute(kinds)).fetchall()]


async def test_a_live_move_its_rollback_and_its_purge(place: Place) -> None:
    plan = await plan_of(place, limits=ONE)
    moved = await commands.apply(place.workspace, plan, mode=Mode.LIVE)
    there = await proven(place, moved.move_id)
    assert acts(there, "beijing") == [*BEGUN, ("verdict", 1), ("handover", 1), ("pause", 1)]
    assert acts(there, "singapore") == [("copy", 1), ("handover", 1)]
    assert there.report.figures["subjects"] == moved.subjects
    assert there.report.figures["rows_copied"] == moved.waves[0].rows_copied
    await commands.rollback(place.workspace, moved.move_id)
    await commands.purge(place.workspace, moved.move_id)
    back = await proven(place, moved.move_id)
    assert acts(back, "beijing")[5:] == [("rollback", 1)]
    assert acts(back, "singapore")[2:] == [("verdict", 1), ("rollback", 1), ("pause", 1), ("purge", 1)]
    await _nothing_of_a_person(place, (plan.cohort.digest, plan.digest, "market", "IN"))
    await _tampered_with(place, moved.move_id, back)


async def _nothing_of_a_person(place: Place, secrets: Sequence[str]) -> None:
    """Nor the condition, nor a digest that anybody could make again."""
    text = b""
    for site in (place.source, place.target):
        async with await psycopg.AsyncConnection.connect(site) as conn:
            text += b"".join(bytes(raw) for (raw,) in await (await conn.execute(PAYLOADS)).fetchall())
    assert b"verdict" in text
    for secret in secrets:
        assert secret.encode() not in text


async def _tampered_with(place: Place, move: str, found: Bundle) -> None:
    """What was exported, and the log itself, by who may write there: each is named."""
    files = unpack(found.raw)
    assert judged(found.raw[:-1], found.keys) == ("refuted", "container")
    lines = files["log-0/leaves.jsonl"].split(b"\n")
    lines[1], lines[2] = lines[2], lines[1]
    assert judged(pack({**files, "log-0/leaves.jsonl": b"\n".join(lines)}), found.keys) == ("refuted", "chain")
    await execute(place.source, "update domicile.evidence_leaf set leaf = leaf || ' ' where sequence = 1")
    with pytest.raises(DomicileError, match="history") as altered:
        await commands.evidence_bundle(place.workspace, move)
    assert altered.value.code is ErrorCode.EVIDENCE_FORKED
    await execute(place.source, "delete from domicile.evidence_leaf where sequence >= 1")
    await execute(place.source, "delete from domicile.evidence_checkpoint where origin like '%/beijing/%'")
    with pytest.raises(DomicileError, match="shorter") as gone:
        await commands.evidence_bundle(place.workspace, move)
    assert gone.value.code is ErrorCode.EVIDENCE_FORKED


async def test_a_cold_move_and_its_purge_beside_another_move(place: Place) -> None:
    """Two moves in one log; the purge destroys what opens the commitment to whom it named."""
    question = Question(place.dataset, "beijing", "singapore", where=WHERE)
    first = await apply_cold(place.workspace, await commands.plan(place.workspace, question, limits=SMALL))
    other = replace(question, where="market = 'MY'")
    second = await apply_cold(place.workspace, await commands.plan(place.workspace, other, limits=SMALL))
    assert await scalar(place.source, SALTS) == 2
    await commands.purge(place.workspace, first.move_id)
    assert await scalar(place.source, SALTS) == 1
    for move, purged in ((first, True), (second, False)):
        found = await proven(place, move.move_id)
        here, there = (Counter(acts(found, site)) for site in ("beijing", "singapore"))
        for wave in move.waves:
            assert (here["handover", wave.no], here["pause", wave.no], here["purge", wave.no]) == (1, 1, purged)
            assert (there["handover", wave.no], there["copy", wave.no]) == (1, 1)
        assert found.report.figures["rows_purged"] == (sum(w.rows_copied for w in move.waves) if purged else 0)


# What a standby does not have that was cut off before the wave's verdict.
LOST = (
    "delete from domicile.evidence_leaf where sequence >= 1",
    "update domicile.wave set mark = 'open', home = 'beijing', epoch = 0",
)


async def test_a_verdict_that_a_failover_took_is_a_gap_that_is_told(place: Place, process: Mover) -> None:
    died = await process.do("apply", await plan_of(place, limits=ONE), mode=Mode.LIVE, failpoint="live.arrived:kill")
    assert died.killed, died
    move = await only_move(place)
    await execute(place.source, *LOST)
    ended = await process.do("resume", move)
    assert ended.result.status is Status.WAITING, ended
    found = await proven(place, move)
    assert acts(found, "beijing") == [("plan", 0), ("gap", 1), ("handover", 1)]
    assert found.report.figures["verdicts_lost"] == 1
    assert any("a failover took it" in line for line in found.report.not_shown)


KILLED = ("live.departed", "live.arrived")


async def test_killed_around_the_arrival_each_act_has_one_leaf(place: Place, process: Mover) -> None:
    died = await process.do("apply", await plan_of(place, limits=ONE), mode=Mode.LIVE, failpoint=f"{KILLED[0]}:kill")
    assert died.killed, died
    move = await only_move(place)
    for point in KILLED[1:]:
        died = await process.do("resume", move, failpoint=f"{point}:kill")
        assert died.killed, (point, died)
    ended = await process.do("resume", move)
    assert ended.result.status is Status.WAITING, ended
    found = await proven(place, move)
    told = Counter(acts(found, "beijing"))
    assert (told["handover", 1], told["stepback", 1]) == (2, 1), "one departure was taken back"
    assert Counter(acts(found, "singapore"))["handover", 1] == 1
    assert found.report.figures["handovers"] == 1


async def test_an_abort_leaves_its_leaf_and_nothing_else(place: Place, process: Mover) -> None:
    plan = await plan_of(place, limits=ONE)
    died = await process.do("apply", plan, mode=Mode.LIVE, failpoint="live.departed:kill")
    assert died.killed, died
    aborted = await commands.abort(place.workspace, await only_move(place))
    await no_trace(place)
    found = await proven(place, aborted.move_id)
    assert acts(found, "beijing") == [*BEGUN, ("verdict", 1), ("handover", 1), ("stepback", 1), ("abort", 0)]
    assert acts(found, "singapore") == [("copy", 1), ("stepback", 1)]
    assert found.report.figures["handovers"] == 0


async def _failing_act(carrier: Carrier, source: psycopg.AsyncConnection) -> None:
    async with source.transaction():
        await evidence.stepped_back(carrier, source, carrier.move.source_site, 1)
        await source.execute("select 1 / 0")


async def test_act_and_leaf_are_both_there_or_neither(place: Place) -> None:
    async with begun(place) as carrier:
        assert await leaves(place.source) == ["plan"]
        async with carrier.source() as source:
            with pytest.raises(psycopg.errors.DivisionByZero):
                await _failing_act(carrier, source)
        stale = replace(carrier, move=replace(carrier.move, generation=carrier.move.generation + 7))
        with pytest.raises(DomicileError) as lost:
            await evidence.paused(stale, 1, 1, 2.0)
        assert lost.value.code is ErrorCode.LEASE_LOST
        assert await leaves(place.source) == ["plan"]
        await evidence.paused(carrier, 1, 1, 2.0)
        await evidence.paused(carrier, 1, 1, 3.0)
        assert await leaves(place.source) == ["plan", "pause"], "once only"
        # A log that takes no departure: there is none, and the source serves.
        await execute(place.source, REFUSING)
        outcomes = [await run_phase(carrier, 1, phase) for phase in PHASES_OF[Mode.LIVE]]
        assert outcomes[:2] == [Outcome.DONE, Outcome.DONE]
        assert outcomes[2] is Outcome.FAILED
        assert await leaves(place.source) == ["plan", "pause", "snapshot", "verdict", "stepback"]
        assert await marks(place) == ({1: "open"}, {})
        assert await leaves(place.target) == ["copy", "stepback"]
