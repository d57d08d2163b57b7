"""A rollback that fails or dies half-way, and whatever is ordered after it: nothing written at the target is lost,
every wave keeps one home, and there is a way on."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.move.live_kit import FEW, INDIA, ONE, Owned, marks, one_home, owned, plan_of, rows_of, traces, write
from tests.move.mover import Mover
from tests.move.places import SOURCE, TARGET, Place, every_row, execute, scalar
from tests.move.test_live_owners import NEW_ORDER, ORDER, PAYMENT, PAYS, STRANGER

from domicile import commands
from domicile.commands.desk import open_desk
from domicile.model.erasure import ErasureWish
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase, Status
from domicile.model.plan import Mode, Plan, Question, WayBack
from domicile.model.report import MoveStatus
from domicile.move import stepback
from domicile.stream import catchup

OF_WAVE = """
    select array_agg(m.subject order by m.subject) from domicile.member as m
    join domicile.wave as w on w.id = m.wave where w.no = %s"""
REVIEW = "insert into store.review (user_id, product_id, stars, body) values ({}, 1, 5, 'written after the handover')"
REVIEWS = "select count(*) from store.review where body = 'written after the handover'"
WRITTEN_BY = "select xmin::text from store.user_account where id = %s"
ROLL_BACK_FAILS = "live.departed:error"


def failing(place: Place, point: str) -> Place:
    """The same place for a process that stumbles there."""
    return replace(place, workspace=replace(place.workspace, failpoint=point))


async def half_moved(place: Place) -> MoveStatus:
    """A move whose first wave lives at the target, and whose second one has failed."""
    workspace = failing(place, "copy.before:error:2").workspace
    failed = await commands.apply(workspace, await plan_of(place), mode=Mode.LIVE)
    assert failed.status is Status.FAILED
    assert [w.phase for w in failed.waves] == [Phase.SOAK, Phase.PLANNED, Phase.PLANNED]
    return failed


async def moved(place: Place, plan: Plan | None = None) -> MoveStatus:
    """A move whose waves all live at the target."""
    found = await commands.apply(place.workspace, plan or await plan_of(place), mode=Mode.LIVE)
    assert found.status is Status.WAITING, found
    return found


async def member(place: Place, wave: int) -> int:
    """Somebody of a wave."""
    found = await scalar(place.source, OF_WAVE, wave)
    assert isinstance(found, list)
    return int(found[0])


async def write_at_target(place: Place, *waves: int) -> None:
    """One review by somebody of each of these waves."""
    await execute(place.target, *[REVIEW.format(await member(place, no)) for no in waves])


async def rows_of_wave(place: Place, conninfo: str, wave: int) -> Owned:
    """What a site has of a wave's members."""
    found = await scalar(place.source, OF_WAVE, wave)
    assert isinstance(found, list)
    return rows_of(await owned(conninfo), found)


async def home_of(place: Place, subject: int) -> tuple[object, int]:
    """What the directory and the sites agree on."""
    answer = await commands.where(place.workspace, place.dataset, str(subject))
    return answer.home, answer.epoch


# A rollback that died


@pytest.mark.parametrize("order", [pytest.param("abort", marks=pytest.mark.campaign), "resume"])
@pytest.mark.parametrize(
    "undone",
    [pytest.param(True, id="killed"), pytest.param(False, id="its step back cut, too", marks=pytest.mark.campaign)],
)
async def test_what_was_written_at_the_target_survives_the_next_order(
    place: Place, process: Mover, order: str, undone: bool
) -> None:
    move = (await half_moved(place)).move_id
    somebody = await member(place, 1)
    await write_at_target(place, 1)
    there = await rows_of_wave(place, place.target, 1)
    written_by = await scalar(place.target, WRITTEN_BY, somebody)
    assert (await process.do("rollback", move, failpoint="live.departed:kill")).killed
    assert ((await marks(place))[0][1], (await marks(place))[1][1]) == ("arriving", "departed")
    if not undone:
        async with open_desk(place.workspace) as desk:
            await desk.moves.fail(move, 1, DomicileError(ErrorCode.SITE_UNREACHABLE, "cut"))
    now = await getattr(commands, order)(place.workspace, move)
    assert now.waves[0].phase is Phase.SOAK, now
    assert now.status is (Status.ABORTED if order == "abort" else Status.WAITING)
    assert await rows_of_wave(place, place.target, 1) == there
    assert await scalar(place.target, WRITTEN_BY, somebody) == written_by, "it is not another copy"
    assert await write(place.target, somebody) == ""
    assert await write(place.source, somebody) == "DM001"
    assert await home_of(place, somebody) == (TARGET, 1)
    back = await commands.rollback(place.workspace, move)
    assert back.status is Status.ABORTED
    assert await scalar(place.source, REVIEWS) == 1
    assert await home_of(place, somebody) == (SOURCE, 2)
    with pytest.raises(DomicileError, match="rolled back: what its copy leaves") as refused:
        await commands.purge(place.workspace, move, wish=ErasureWish())
    assert refused.value.code is ErrorCode.PHASE_FORBIDS


@pytest.mark.parametrize("order", ["abort", "resume"])
async def test_a_wave_that_is_home_again_stays_there(place: Place, process: Mover, order: str) -> None:
    """Killed between the arrival at the source and the directory."""
    move = (await half_moved(place)).move_id
    somebody = await member(place, 1)
    await write_at_target(place, 1)
    assert (await process.do("rollback", move, failpoint="live.arrived:kill")).killed
    now = await getattr(commands, order)(place.workspace, move)
    assert (now.waves[0].phase, now.waves[0].status) == (Phase.PLANNED, Status.ABORTED)
    await one_home(place)
    assert await scalar(place.source, REVIEWS) == 1
    assert await home_of(place, somebody) == (SOURCE, 2)
    assert await write(place.source, somebody) == ""
    assert await write(place.target, somebody) == "DM001"


async def test_without_a_way_back_a_wave_on_it_returns_to_where_it_lives(place: Place, process: Mover) -> None:
    move = (await moved(place)).move_id
    assert (await process.do("rollback", move, failpoint="live.departed:kill")).killed
    with pytest.raises(DomicileError) as early:
        await commands.purge(place.workspace, move)
    assert early.value.code is ErrorCode.PHASE_FORBIDS
    await execute(
        place.target,
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()",
    )
    with pytest.raises(DomicileError) as refused:
        await commands.rollback(place.workspace, move)
    assert refused.value.code is ErrorCode.WAY_BACK_CLOSED
    for no in (1, 2, 3):
        assert await write(place.target, await member(place, no)) == ""
    assert (await commands.purge(place.workspace, move)).waves == 3


# A rollback that failed


@pytest.mark.parametrize("order", ["abort", "resume"])
async def test_waves_that_have_not_moved_are_not_stranded(place: Place, order: str) -> None:
    failed = await half_moved(place)
    with pytest.raises(DomicileError, match="failpoint"):
        await commands.rollback(failing(place, ROLL_BACK_FAILS).workspace, failed.move_id)
    (now,) = await commands.status(place.workspace, failed.move_id)
    assert (now.status, now.waves[0].phase) == (Status.FAILED, Phase.SOAK)
    now = await getattr(commands, order)(place.workspace, failed.move_id)
    if order == "abort":
        assert now.status is Status.ABORTED
        assert {w.phase for w in now.waves} == {Phase.SOAK, Phase.PLANNED}
        assert not {"slot", "publication"} & (await traces(place.source)).keys()
    else:
        assert now.status is Status.WAITING
        assert {w.phase for w in now.waves} == {Phase.SOAK}


STUMBLING = """
    create sequence domicile.step;
    create function domicile.stumble() returns trigger language plpgsql as $$begin
        if nextval('domicile.step') > 12 then raise exception 'no'; end if; return old; end$$;
    create trigger stumble before delete on store.user_account for each row execute function domicile.stumble();
    alter table store.user_account enable always trigger stumble"""


async def test_the_leaf_of_a_cut_purge_counts_every_row(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a rollback left goes in pieces; the rows that went before the purge died are told with the others."""
    monkeypatch.setattr(stepback, "CLEAN_SUBJECTS", 5)
    before = await moved(place, await plan_of(place, limits=ONE))
    await commands.rollback(place.workspace, before.move_id)
    copy = await owned(place.target)
    await execute(place.target, STUMBLING)
    with pytest.raises(DomicileError, match="P0001"):
        await commands.purge(place.workspace, before.move_id)
    left = await owned(place.target)
    assert left.total() < copy.total(), "a part is gone"
    await execute(place.target, "drop trigger stumble on store.user_account")
    done = await commands.purge(place.workspace, before.move_id)
    gone = (copy - await owned(place.target)).total()
    told = (await commands.evidence_bundle(place.workspace, before.move_id)).report.figures
    assert done.rows == told["rows_purged"] == gone > copy.total() - left.total()


async def test_a_wave_that_was_rolled_back_is_not_carried_again(place: Place) -> None:
    """The rest of its move may go on; it is home."""
    workspace = failing(place, "copy.before:error:3").workspace
    half = await commands.apply(workspace, await plan_of(place), mode=Mode.LIVE)
    assert [w.phase for w in half.waves] == [Phase.SOAK, Phase.SOAK, Phase.PLANNED]
    with pytest.raises(DomicileError, match="failpoint"):
        await commands.rollback(failing(place, "rollback.prepared:error:2").workspace, half.move_id)
    now = await commands.resume(place.workspace, half.move_id)
    assert now.status is Status.WAITING, now
    assert [w.phase for w in now.waves] == [Phase.SOAK, Phase.PLANNED, Phase.SOAK]
    somebody = await member(place, 2)
    assert await home_of(place, somebody) == (SOURCE, 2)
    assert await write(place.source, somebody) == ""


async def test_after_a_failed_rollback_its_waves_can_be_purged(place: Place) -> None:
    move = (await moved(place)).move_id
    await write_at_target(place, 1, 2, 3)
    with pytest.raises(DomicileError, match="failpoint"):
        await commands.rollback(failing(place, ROLL_BACK_FAILS).workspace, move)
    assert (await commands.verify(place.workspace, move)).clean
    purged = await commands.purge(place.workspace, move)
    assert (purged.waves, purged.left_at_source, purged.site) == (3, 0, SOURCE)


# Soaking


async def soaking_plan(place: Place) -> Plan:
    """A plan whose source copies may be kept current."""
    question = Question(place.dataset, SOURCE, TARGET, where=INDIA, way_back=WayBack.STREAM)
    return await commands.plan(place.workspace, question, limits=FEW)


async def one_round(place: Place, move: str) -> None:
    """Bring the copies up to date once."""
    stop = asyncio.Event()
    stop.set()
    await commands.soak(place.workspace, move, stop=stop)


async def test_after_a_killed_soak_its_waves_can_be_purged(place: Place) -> None:
    """What brings the copies up to date seals them when it stops; this one has sealed the first of three."""
    move = (await moved(place, await soaking_plan(place))).move_id
    await write_at_target(place, 1, 2, 3)
    stop = asyncio.Event()
    stop.set()
    with pytest.raises(DomicileError, match="failpoint"):
        await commands.soak(failing(place, "live.sealed:error").workspace, move, stop=stop)
    assert await scalar(place.source, REVIEWS) == 3
    found = await commands.verify(place.workspace, move)
    assert found.clean, found
    assert (await commands.purge(place.workspace, move)).waves == 3


async def test_a_purge_takes_along_what_a_soak_has_read_ahead(place: Place) -> None:
    """A payment came to a member, and to a new order of his. The copy cannot have that order, so that the payment
    stands below a stranger's."""
    move = (await moved(place, await soaking_plan(place))).move_id
    one, stranger = await member(place, 1), await scalar(place.source, STRANGER)
    payment = await scalar(place.target, PAYMENT.format(await scalar(place.target, STRANGER)))
    await execute(place.source, NEW_ORDER.format(stranger))
    await execute(place.target, PAYS.format(ORDER.format(one), payment))
    await execute(place.target, NEW_ORDER.format(one) + ";" + PAYS.format("7000001", payment))
    with pytest.raises(DomicileError) as refused:
        await one_round(place, move)
    assert refused.value.code is ErrorCode.KEYS_COLLIDE
    assert await scalar(place.source, f"select count(*) from store.payment where id = {payment}") == 1
    assert (await commands.purge(place.workspace, move)).left_at_source == 0
    assert await scalar(place.source, f"select count(*) from store.payment where id = {payment}") == 0
    assert await scalar(place.source, "select user_id from store.orders where id = 7000001") == stranger
    assert await scalar(place.target, f"select count(*) from store.payment where id = {payment}") == 1


async def test_a_copy_that_was_written_past_the_guard_is_refused_while_there_is_a_way_back(place: Place) -> None:
    move = (await moved(place)).move_id
    somebody = await member(place, 2)
    past = f"set session_replication_role = replica; update store.user_account set locale = %s where id = {somebody}"
    locale = await scalar(place.source, "select locale from store.user_account where id = %s", somebody)
    await execute(place.source, past % "'xx-XX'")
    with pytest.raises(DomicileError) as refused:
        await commands.purge(place.workspace, move)
    assert refused.value.code is ErrorCode.VERDICT_MISSING
    assert {w.phase for w in (await commands.status(place.workspace, move))[0].waves} == {Phase.SOAK}
    await execute(place.source, past % f"'{locale}'")
    await write_at_target(place, 2)
    assert (await commands.rollback(place.workspace, move)).status is Status.ABORTED
    assert await scalar(place.source, REVIEWS) == 1


async def test_soaking_keeps_the_log_of_waves_that_it_does_not_follow(
    place: Place, process: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catchup, "ACKNOWLEDGE_SECONDS", 0.0)
    died = await process.do("apply", await soaking_plan(place), mode=Mode.LIVE, failpoint="live.arrived:kill:2")
    assert died.killed, died
    (now,) = await commands.status(place.workspace)
    assert [w.phase for w in now.waves] == [Phase.SOAK, Phase.HANDOVER, Phase.PLANNED]
    await write_at_target(place, 2)
    for _ in range(3):
        await write_at_target(place, 1)
        await one_round(place, now.move_id)
    assert await scalar(place.source, REVIEWS) == 3, "the first wave is followed"
    assert (await commands.resume(place.workspace, now.move_id)).status is Status.WAITING
    back = await commands.rollback(place.workspace, now.move_id)
    assert back.status is Status.ABORTED
    assert await scalar(place.source, REVIEWS) == 4


async def test_soaking_after_a_killed_rollback_follows_its_wave_again(place: Place, process: Mover) -> None:
    move = (await moved(place, await soaking_plan(place))).move_id
    assert (await process.do("rollback", move, failpoint="live.departed:kill")).killed
    await one_round(place, move)
    await write_at_target(place, 1, 2, 3)
    await one_round(place, move)
    assert (await commands.rollback(place.workspace, move)).status is Status.ABORTED
    assert await scalar(place.source, REVIEWS) == 3


# Purged


async def test_the_way_back_is_closed_before_anything_is_removed(place: Place) -> None:
    move = (await moved(place)).move_id
    assert "slot" in await traces(place.target)
    with pytest.raises(DomicileError, match="failpoint"):
        await commands.purge(failing(place, "purge.before:error").workspace, move)
    assert "slot" not in await traces(place.target)
    with pytest.raises(DomicileError) as refused:
        await commands.rollback(place.workspace, move)
    assert refused.value.code is ErrorCode.WAY_BACK_CLOSED
    assert (await commands.purge(place.workspace, move)).waves == 3


async def test_a_copy_in_doubt_is_not_removed_from_the_target_either(place: Place) -> None:
    move = (await moved(place)).move_id
    await commands.rollback(place.workspace, move)
    before = await every_row(place.target)
    async with open_desk(place.workspace) as desk:
        await desk.moves.doubts.doubt(move, 1)
    with pytest.raises(DomicileError) as caught:
        await commands.purge(place.workspace, move)
    assert caught.value.code is ErrorCode.VERDICT_MISSING
    assert await every_row(place.target) == before
    async with open_desk(place.workspace) as desk:
        await desk.moves.doubts.accept(move, 1)
    assert (await commands.purge(place.workspace, move)).rows > 0


async def test_a_purge_after_a_rollback_says_what_it_deletes_and_where(place: Place) -> None:
    move = (await moved(place)).move_id
    before = await commands.report(place.workspace, move)
    await commands.rollback(place.workspace, move)
    told = await commands.report(place.workspace, move)
    assert before.verdict != told.verdict
    assert "rolled back" in told.verdict
    assert f"kept at {TARGET}" in told.purged
    assert any("back at beijing" in sentence for sentence in told.stayed), told.stayed
    purged = await commands.purge(place.workspace, move)
    assert (purged.site, purged.home, purged.waves, purged.left_at_source) == (TARGET, SOURCE, 3, None)
    assert purged.rows > 0
    assert not any("source" in sentence for sentence in purged.remains)
    assert f"deleted at {TARGET}" in (await commands.report(place.workspace, move)).purged
