"""The control database keeps the rules of phases by itself, leases have one holder, the directory one
claimant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from domicile.control.database import migrations, open_control
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
    assert row == (len(migrations()),)


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
    for verdict in ("", "discrepancies"):
        await conn.execute("update domicile_control.wave set verdict = %s", (verdict,))
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
        async with hold_lease(one, database, MOVE, "host:1") as first:
            assert await living_runner(two, MOVE) == "host:1"
            with pytest.raises(DomicileError) as refused:
                async with hold_lease(two, database, MOVE, "host:2"):
                    pass
            assert refused.value.code is ErrorCode.MOVE_BUSY
            assert "host:1" in refused.value.message
        assert await living_runner(two, MOVE) == ""
        async with hold_lease(two, database, MOVE, "host:2") as second:
            assert second.generation > first.generation


@asynccontextmanager
async def carrying(conn: psycopg.AsyncConnection, database: str) -> AsyncIterator[asyncio.Task[None]]:
    """A task that holds the lease over ``conn`` for a minute."""
    begun = asyncio.Event()

    async def carry() -> None:
        async with hold_lease(conn, database, MOVE, "host:1"):
            begun.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(carry())
    await asyncio.wait_for(begun.wait(), 20)
    yield task
    task.cancel()
    await asyncio.wait([task])


async def lost(task: asyncio.Task[None]) -> bool:
    """True when the task ends in time and says that its lease is lost."""
    with pytest.raises(DomicileError) as error:
        await asyncio.wait_for(task, 20)
    return error.value.code is ErrorCode.LEASE_LOST


async def test_the_lease_goes_with_its_session(database: str) -> None:
    """As the kernel does for a process that was killed; one that lives is told."""
    dead = await open_control(database)
    await Moves(dead).create(MOVE, a_plan(), "{}", Mode.COLD, "op")
    async with carrying(dead, database) as task, await open_control(database) as alive:
        await dead.close()
        async with asyncio.timeout(20):
            while await living_runner(alive, MOVE):
                await asyncio.sleep(0.05)
        async with hold_lease(alive, database, MOVE, "host:2") as lease:
            assert lease.generation == 2
            assert await lost(task)


async def test_a_lease_without_pulse_is_taken_over(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session of a stopped process lives and holds the lock: it is ended, and writes nothing more."""
    monkeypatch.setattr("domicile.control.lease.RENEW_SECONDS", 8)
    one, two = await open_control(database), await open_control(database)
    await Moves(one).create(MOVE, a_plan(), "{}", Mode.COLD, "op")
    async with carrying(one, database) as task:
        with pytest.raises(DomicileError) as busy:
            await hold_lease(two, database, MOVE, "host:2").__aenter__()
        assert busy.value.code is ErrorCode.MOVE_BUSY
        await two.execute("update domicile_control.move set runner_seen_at = now() - interval '16 s'")
        assert await living_runner(two, MOVE) == ""
        async with hold_lease(two, database, MOVE, "host:2") as lease:
            assert lease.generation == 2
            with pytest.raises(psycopg.OperationalError):
                await one.execute("select 1")
            assert await lost(task)
    await two.close()


async def test_the_pulse_keeps_the_lease(conn: psycopg.AsyncConnection, database: str) -> None:
    await Moves(conn).create(MOVE, a_plan(), "{}", Mode.COLD, "op")
    async with hold_lease(conn, database, MOVE, "host:1"):
        await conn.execute("update domicile_control.move set runner_seen_at = now() - interval '16 s'")
        await asyncio.sleep(3)
        for _ in range(25):  # between two beats, too
            assert await living_runner(conn, MOVE) == "host:1"
            await asyncio.sleep(0.1)


async def test_the_server_ends_the_session_of_a_machine_that_was_cut_off(
    conn: psycopg.AsyncConnection, database: str
) -> None:
    """Within 30 s: the first question after idle seconds, then so many; nothing waits longer than the timeout."""
    await Moves(conn).create(MOVE, a_plan(), "{}", Mode.COLD, "op")
    async with hold_lease(conn, database, MOVE, "host:1"):
        rows = await conn.execute(
            """select name, setting::int from pg_settings
               where name ~ '^tcp_' or name = 'client_connection_check_interval'"""
        )
        of = dict(await rows.fetchall())
    assert 0 < of["tcp_keepalives_idle"] + of["tcp_keepalives_interval"] * of["tcp_keepalives_count"] < 20
    assert 0 < of["tcp_user_timeout"] <= 15_000
    assert 0 < of["client_connection_check_interval"] <= 2_000


async def test_a_machine_with_another_key_is_refused(conn: psycopg.AsyncConnection, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for _ in range(2):
        await Directory(conn, SubjectHash.of_state(ours)).require_key()
    with pytest.raises(DomicileError) as refused:
        await Directory(conn, SubjectHash.of_state(theirs)).require_key()
    assert refused.value.code is ErrorCode.CONFIG_INVALID


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
