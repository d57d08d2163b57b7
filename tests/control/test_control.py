"""The control database keeps the rules of phases by itself, leases have one holder, the directory one
claimant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from domicile.control.database import open_control
from domicile.control.figures import Figures
from domicile.control.lease import hold_lease, living_runner
from domicile.control.moves import Moves
from domicile.directory.directory import Directory, Home, SubjectHash
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase, Status
from domicile.model.plan import Cohort, Limits, Mode, Plan, WavePlan
from domicile.model.site import DatasetName, MoveId, SiteName

MOVE = MoveId("store-a-b-1")
STORE = DatasetName("store")


def a_plan(digest: str = "d1") -> Plan:
    waves = (WavePlan(1, 0, 2, 2, 10, 100, 0.1), WavePlan(2, 2, 5, 3, 20, 200, 0.1))
    return Plan(
        version=1, dataset=STORE, source=SiteName("a"), target=SiteName("b"),
        cohort=Cohort("email = 'x@example.org'", "", 5, "c"), tables=(), waves=waves, checks=(), limits=Limits(),
        config_digest="", map_digest="", source_schema_digest="", target_schema_digest="", estimate_basis="",
        made_at="", digest=digest,
    )  # fmt: skip


@pytest.fixture
async def conn(database: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await open_control(database) as connection:
        yield connection


async def test_opening_twice_changes_nothing(database: str) -> None:
    async with await open_control(database), await open_control(database) as second:
        row = await (await second.execute("select count(*) from public.domicile_schema_version")).fetchone()
    assert row == (1,)


async def test_a_plan_is_applied_once_until_aborted(conn: psycopg.AsyncConnection) -> None:
    moves = Moves(conn)
    await moves.create(MOVE, a_plan(), "{}", Mode.COLD, "op")
    with pytest.raises(DomicileError) as refused:
        await moves.create(MoveId("other"), a_plan(), "{}", Mode.COLD, "op")
    assert refused.value.code is ErrorCode.PLAN_APPLIED
    assert MOVE in refused.value.message
    await moves.set_status(MOVE, Status.ABORTED)
    await moves.create(MoveId("other"), a_plan(), "{}", Mode.COLD, "op")


@pytest.mark.parametrize(
    "statement",
    [
        "update domicile_control.wave set phase = 'copy'",  # skips prepare and fence
        "update domicile_control.wave set phase = 'nonsense'",
        "update domicile_control.wave set status = 'failed'",  # without saying why
        "update domicile_control.wave set status = 'done'",  # without being done
        "update domicile_control.wave set error_code = 'x'",  # without having failed
        "update domicile_control.move set status = 'done'",  # without an end
        "update domicile_control.move set target = source",
    ],
)
async def test_sql_itself_refuses_what_the_rules_forbid(conn: psycopg.AsyncConnection, statement: str) -> None:
    await Moves(conn).create(MOVE, a_plan(), "{}", Mode.COLD, "op")
    with pytest.raises(psycopg.errors.CheckViolation):
        await conn.execute(statement)


async def test_no_handover_without_a_clean_verdict(conn: psycopg.AsyncConnection) -> None:
    moves = Moves(conn)
    await moves.create(MOVE, a_plan(), "{}", Mode.COLD, "op")
    for phase in (Phase.PREPARE, Phase.FENCE, Phase.COPY, Phase.VERIFY):
        await moves.enter(MOVE, 1, phase)
    with pytest.raises(psycopg.errors.CheckViolation):
        await moves.enter(MOVE, 1, Phase.HANDOVER)


async def test_a_failed_wave_keeps_its_reason_through_the_step_back(conn: psycopg.AsyncConnection) -> None:
    moves, figures = Moves(conn), Figures(conn)
    await moves.create(MOVE, a_plan(), "{}", Mode.COLD, "op")
    await moves.enter(MOVE, 1, Phase.PREPARE)
    await figures.copied(MOVE, 1, 5, 50)
    await moves.fail(MOVE, 1, DomicileError(ErrorCode.DISK_FULL, "full"))
    await moves.back_to_planned(MOVE, 1, Status.FAILED)
    wave = await figures.wave(MOVE, 1)
    assert (wave.phase, wave.status, wave.error_code, wave.rows_copied) == (
        Phase.PLANNED, Status.FAILED, "disk-full", 0,
    )  # fmt: skip
    await moves.enter(MOVE, 1, Phase.PREPARE)
    assert (await figures.wave(MOVE, 1)).error_code == ""


async def test_one_lease_at_a_time_and_a_higher_generation_each_time(database: str) -> None:
    async with await open_control(database) as one, await open_control(database) as two:
        await Moves(one).create(MOVE, a_plan(), "{}", Mode.COLD, "op")
        async with hold_lease(one, MOVE, "host:1") as first:
            assert await living_runner(two, MOVE) == "host:1"
            with pytest.raises(DomicileError) as refused:
                async with hold_lease(two, MOVE, "host:2"):
                    pass
            assert refused.value.code is ErrorCode.MOVE_BUSY
            assert "host:1" in refused.value.message
        assert await living_runner(two, MOVE) == ""
        async with hold_lease(two, MOVE, "host:2") as second:
            assert second > first


async def test_the_lease_goes_with_its_session(database: str) -> None:
    dead = await open_control(database)
    await Moves(dead).create(MOVE, a_plan(), "{}", Mode.COLD, "op")
    lease = hold_lease(dead, MOVE, "host:1")
    await lease.__aenter__()
    await dead.close()  # as the kernel does for a process that was killed
    async with await open_control(database) as alive:
        assert await living_runner(alive, MOVE) == ""
        async with hold_lease(alive, MOVE, "host:2") as generation:
            assert generation == 2


async def subjects(*keys: str) -> AsyncIterator[tuple[int, str]]:
    for ordinal, key in enumerate(keys, start=1):
        yield ordinal, key


async def test_two_moves_cannot_claim_one_subject(conn: psycopg.AsyncConnection, tmp_path: Path) -> None:
    directory = Directory(conn, SubjectHash.of_state(tmp_path))
    await directory.reserve(STORE, MOVE, 1, subjects("1", "2"))
    await directory.reserve(STORE, MOVE, 1, subjects("1", "2"))  # again, after a crash
    with pytest.raises(DomicileError) as refused:
        await directory.reserve(STORE, MoveId("other"), 1, subjects("2", "3"))
    assert refused.value.code is ErrorCode.COHORT_RESERVED
    assert MOVE in refused.value.message
    assert await directory.reserved(MoveId("other"), 1) == 0, "all or none"
    await directory.release(MOVE, 1)
    await directory.reserve(STORE, MoveId("other"), 1, subjects("2", "3"))


async def test_homes_follow_epochs_and_never_go_back(conn: psycopg.AsyncConnection, tmp_path: Path) -> None:
    directory = Directory(conn, SubjectHash.of_state(tmp_path))
    assert await directory.look_up(STORE, "1") is None
    await directory.reserve(STORE, MOVE, 1, subjects("1"))
    assert await directory.publish(STORE, MOVE, 1, Home(SiteName("b"), 2)) == 1
    await directory.publish(STORE, MOVE, 1, Home(SiteName("b"), 2))
    await directory.reserve(STORE, MoveId("late"), 1, subjects("1"))
    await directory.publish(STORE, MoveId("late"), 1, Home(SiteName("a"), 1))
    assert await directory.look_up(STORE, "1") == Home(SiteName("b"), 2)


async def test_the_directory_names_nobody(conn: psycopg.AsyncConnection, tmp_path: Path) -> None:
    directory = Directory(conn, SubjectHash.of_state(tmp_path))
    await directory.reserve(STORE, MOVE, 1, subjects("someone@example.org"))
    row = await (await conn.execute("select subject from domicile_directory.reservation")).fetchone()
    assert row is not None
    assert b"someone" not in row[0]
    other = SubjectHash.of_state(tmp_path / "other")
    assert other(STORE, "someone@example.org") != row[0]
    assert SubjectHash.of_state(tmp_path)(STORE, "someone@example.org") == row[0]
    assert (tmp_path / "directory.key").stat().st_mode & 0o777 == 0o600
