"""The models of the handover: nothing is wrong in any state within the bounds, and the checkers would notice. And the
engine does what the model allows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, replace
import json
from pathlib import Path
import time

import psycopg
from psycopg import AsyncConnection
import pytest
from reliability.model import spin
from reliability.model.__main__ import main
from reliability.model.bounds import ALONE, CUT, SMALL, Bounds, Flaw, broken
from reliability.model.explore import Model, explore
from reliability.model.judge import violation
from reliability.model.recovery import decisions
from reliability.model.replay import STANDS, Observation, observations, replay
from reliability.model.replay import main as replay_main
from reliability.model.state import CLOSING, DEPARTED, MARK, OWN, RESIDENT, TRUE_OWN
from tests.move import conftest as sites
from tests.move.live_kit import (
    CATCHUP,
    COPY,
    ONE,
    PREPARE,
    begun,
    closing,
    held,
    people,
    plan_of,
    small_store,
    through,
    until,
    write,
)
from tests.move.places import Place, execute, scalar
from tests.move.test_live_owners import GIVE, ORDER
from tests.move.test_live_seam import WAITS_FOR_STANDBY, commits_hang

from domicile import commands
from domicile.commands.desk import open_desk
from domicile.model.handover import Action
from domicile.model.phase import Phase, Status
from domicile.model.plan import Mode
from domicile.move.failpoints import Failpoints
from domicile.postgres import site_schema
from domicile.sites.embedded import EmbeddedCluster

CONTROL_STATES_MAX = 60_000
place = sites.place
store_source, store_source_15, store_target = sites.store_source, sites.store_source_15, sites.store_target

# The checker


@pytest.mark.parametrize("bounds", SMALL, ids=lambda b: b.name)
def test_no_state_is_wrong_and_each_has_a_way_to_an_end(bounds: Bounds) -> None:
    found = explore(bounds)
    assert found.violation is None, "\n".join(found.violation.trace)
    assert found.complete
    assert found.ends
    assert found.states > 1_000


@pytest.mark.parametrize("flaw", list(Flaw), ids=lambda f: f.name.lower())
def test_a_broken_rule_is_found_out(flaw: Flaw) -> None:
    bounds = broken(flaw)
    found = explore(bounds, states_max=CONTROL_STATES_MAX)
    assert found.violation is not None, f"{found.states} states, and nothing was found"
    assert found.violation.trace[-1].startswith("VIOLATED")
    numbers = [int(line.split(".")[0]) for line in found.violation.trace[:-1]]
    assert numbers == list(range(len(numbers))), "every step of the trace is told"


@pytest.mark.parametrize("flaw", [Flaw.NO_TERM, Flaw.NO_LEASE, Flaw.NO_DRAIN])
def test_what_a_broken_rule_does_is_due_to_that_rule(flaw: Flaw) -> None:
    """In the same world, with the rule, nothing is found."""
    whole = explore(replace(broken(flaw), flaws=frozenset()))
    assert whole.complete
    assert whole.violation is None


def test_the_decisions_are_those_of_the_code_that_runs() -> None:
    table = decisions()
    assert table[CLOSING, 5, False, True] is Action.DEPART
    assert table[DEPARTED, 5, False, True] is Action.ARRIVE
    assert table[DEPARTED, 5, False, False] is Action.RETURN
    assert table[DEPARTED, RESIDENT, False, False] is Action.PUBLISH
    assert {Action.FINISHED, Action.STEP_BACK} <= set(table.values())


def test_what_is_wrong_with_a_state_is_said() -> None:
    begun = Model(ALONE).begin()
    assert violation(begun, ALONE) == ""
    for at, value, said in (
        (MARK + 1, RESIDENT, "two homes"),
        (OWN, 0, "is lost"),
        (OWN, 3, "never written"),
        (TRUE_OWN, 3, "is lost"),
    ):
        planted = bytearray(begun)
        planted[at] = value
        assert said in violation(bytes(planted), ALONE)


def test_the_program_tells_what_it_saw(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "round trip", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["violations"] == 0
    assert [c["complete"] for c in figures["configurations"]] == [True]


def test_the_program_fails_when_it_could_not_see_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "round trip", "--states-max", "500"]) == 1
    assert "not whole" in capsys.readouterr().out


def test_a_fault_costs_one_of_those_that_there_may_be() -> None:
    """More faults are more states: they are not forgotten."""
    sizes = [explore(replace(CUT, faults=n), liveness=False).states for n in (0, 1)]
    assert sizes[0] * 2 < sizes[1]


# Spin


@pytest.fixture
def with_spin() -> None:
    if lacking := spin.missing():
        pytest.skip(lacking)


@pytest.mark.usefixtures("with_spin")
@pytest.mark.parametrize("world", spin.SMALL, ids=lambda w: w.name)
def test_spin_finds_nothing(world: spin.World) -> None:
    found = spin.search(world)
    assert found.as_expected, found
    assert found.states > 1_000


@pytest.mark.usefixtures("with_spin")
@pytest.mark.parametrize(
    "world",
    [pytest.param(w, id=w.name, marks=[] if n < 1 else [pytest.mark.campaign]) for n, w in enumerate(spin.CONTROLS)],
)
def test_spin_finds_what_is_broken(world: spin.World) -> None:
    found = spin.search(world)
    assert found.errors, found
    assert found.wrong


def test_a_search_that_was_cut_is_not_taken_for_a_whole_one() -> None:
    said = "\n   10 states, stored\n 20 transitions (= stored+matched)\ndepth reached 5, errors: 0\n"
    world = spin.SMALL[0]
    assert spin.read(world, said, 1.0).as_expected
    assert not spin.read(world, said + "error: max search depth too small\n", 1.0).as_expected
    assert not spin.read(world, "Warning: Search not completed\n" + said, 1.0).as_expected
    with pytest.raises(RuntimeError):
        spin.read(world, "nothing", 1.0)


# Traces of the engine

_AUDIT = (
    "create schema if not exists domicile",
    """create table domicile.seen_by_test
       (n bigserial, at timestamptz default clock_timestamp(), no int, mark text, epoch bigint)""",
    """create function domicile.seen_by_test() returns trigger language plpgsql as $$ begin
        if tg_op = 'DELETE' then insert into domicile.seen_by_test (no, mark, epoch) values (old.no, 'none', 0);
        else insert into domicile.seen_by_test (no, mark, epoch) values (new.no, new.mark, new.epoch); end if;
        return null; end $$""",
    """create trigger seen_by_test after insert or delete or update of mark, epoch on domicile.wave
       for each row execute function domicile.seen_by_test()""",
    "alter table domicile.wave enable always trigger seen_by_test",
)
_AUDIT_DIRECTORY = (
    "create schema if not exists domicile",
    """create table domicile.seen_by_test
       (n bigserial, at timestamptz default clock_timestamp(), no int, reserved boolean)""",
    """create function domicile.seen_by_test() returns trigger language plpgsql as $$ begin
        insert into domicile.seen_by_test (no, reserved)
            select distinct coalesce(r.wave_no, 0), tg_op = 'INSERT' from changed as r;
        return null; end $$""",
    """create trigger noted after insert on domicile_directory.reservation referencing new table as changed
       for each statement execute function domicile.seen_by_test()""",
    """create trigger gone after delete on domicile_directory.reservation referencing old table as changed
       for each statement execute function domicile.seen_by_test()""",
)
_SEEN = "select extract(epoch from at)::float8, {} from domicile.seen_by_test where no = 1 order by n"


@asynccontextmanager
async def observed(place: Place, points: list[tuple[float, str]]) -> AsyncIterator[None]:
    """Every mark that is written at either site, and every reservation, is kept beside the failpoints in ``points``."""
    for site in (place.source, place.target):
        async with await AsyncConnection.connect(site, autocommit=True) as conn:
            await site_schema.install(conn, "bigint", "")
        await execute(site, *_AUDIT)
    async with open_desk(place.workspace):
        pass  # the control database has its tables
    assert place.workspace.control
    await execute(place.workspace.control, *_AUDIT_DIRECTORY)
    reach = Failpoints.reach

    async def noted(self: Failpoints, point: str) -> None:
        points.append((time.time(), point))
        await reach(self, point)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Failpoints, "reach", noted)
        yield


async def trace(place: Place, points: list[tuple[float, str]]) -> list[Observation]:
    """All that was observed, in the order in which it happened: one machine, one clock, each before the next."""
    found: list[tuple[float, dict[str, object]]] = [(at, {"point": p}) for at, p in points if p in STANDS]
    for site, conninfo in (("source", place.source), ("target", place.target)):
        async with await AsyncConnection.connect(conninfo) as conn:
            rows = await (await conn.execute(_SEEN.format("mark, epoch").encode())).fetchall()
        found += [(at, {"site": site, "mark": mark, "epoch": epoch}) for at, mark, epoch in rows]
    async with await AsyncConnection.connect(place.workspace.control) as conn:
        rows = await (await conn.execute(_SEEN.format("reserved").encode())).fetchall()
    found += [(at, {"reserved": reserved}) for at, reserved in rows]
    seen = observations(fields for _, fields in sorted(found, key=lambda one: one[0]))
    # The source's own record is there before the move is carried, and the model begins with it.
    assert seen[0] == Observation(site="source", mark="open")
    return seen[1:]


@asynccontextmanager
async def writing(place: Place) -> AsyncIterator[None]:
    """Somebody of the wave writes wherever the wave is served, all the time."""
    somebody = await scalar(place.source, "select min(id) from store.user_account where market = 'IN'")
    assert isinstance(somebody, int)
    accepted = []

    async def run() -> None:
        while True:
            for site in (place.source, place.target):
                with suppress(psycopg.OperationalError):
                    accepted.append(await write(site, somebody))

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert "" in accepted


@pytest.fixture
async def recorded(place: Place, request: pytest.FixtureRequest) -> list[Observation]:
    """A move there and back, and what is left removed; ``param``: with a failure on the way."""
    points: list[tuple[float, str]] = []
    workspace = replace(place.workspace, failpoint=getattr(request, "param", ""))
    async with observed(place, points), writing(place):
        now = await commands.apply(workspace, await plan_of(place, limits=ONE), mode=Mode.LIVE)
        if workspace.failpoint:
            assert now.status is Status.FAILED
            now = await commands.resume(place.workspace, now.move_id)
        assert now.waves[0].phase is Phase.SOAK, now
        back = await commands.rollback(place.workspace, now.move_id)
        assert back.status is Status.ABORTED
        await commands.purge(place.workspace, now.move_id)
    return await trace(place, points)


@pytest.mark.parametrize("recorded", ["", "live.departed:error"], ids=["smooth", "with a failure"], indirect=True)
async def test_a_real_move_and_its_rollback_are_a_path_of_the_model(
    recorded: list[Observation], tmp_path: Path
) -> None:
    marks = [o.mark for o in recorded if o.mark]
    assert marks.count("departed") >= 2
    assert "live.locked" in [o.point for o in recorded]
    followed = replay(recorded)
    assert followed.accepted, (followed.refused, recorded)
    for what, tampered in tamperings(recorded).items():
        assert not replay(tampered).accepted, what
    file = tmp_path / "trace.json"
    for lines, code in ((recorded, 0), (tamperings(recorded)["the arrival first"], 1)):
        file.write_text(json.dumps([asdict(o) for o in lines]))
        assert replay_main([str(file), "--json"]) == code


def tamperings(recorded: list[Observation]) -> dict[str, list[Observation]]:
    """The same with something in it that must not happen."""
    arrived = next(n for n, o in enumerate(recorded) if o.mark == "resident")
    departed = max(n for n, o in enumerate(recorded[:arrived]) if o.mark == "departed")
    closing = max(n for n, o in enumerate(recorded[:arrived]) if o.mark == "closing")
    locked = max(n for n, o in enumerate(recorded[:arrived]) if o.point == "live.locked")
    first = list(recorded)
    first.insert(departed, first.pop(arrived))
    return {
        "the arrival first": first,
        "no closing": recorded[:closing] + recorded[closing + 1 :],
        "no departure": recorded[:departed] + recorded[departed + 1 :],
        "the lock behind the departure": [
            *recorded[:locked], *recorded[locked + 1 : departed + 1], recorded[locked], *recorded[departed + 1 :],
        ],
        "an epoch too many": [
            replace(o, epoch=o.epoch + 1) if n == arrived else o for n, o in enumerate(recorded)
        ],
        "the source opens behind the arrival": [
            *recorded[: arrived + 1], Observation(site="source", mark="open"), *recorded[arrived + 1 :],
        ],
    }  # fmt: skip


# What the checker found in the engine (`Flaw.PASSED_BY`)

ITEM = """insert into store.order_item (order_id, line_no, product_id, quantity, unit_price) values ({}, 77, 1, 1, 1)"""
LOOK_SECONDS = 1.0  # the stream brings it within milliseconds
ITEMS = "select count(*) from store.order_item where line_no = 77"


@pytest.mark.parametrize(
    "hanging",
    [
        pytest.param(False, id="control"),
        pytest.param(True, id="in the log, not visible"),
    ],
)
async def test_a_row_that_enters_brings_what_the_stream_had_passed_by(
    pg15: EmbeddedCluster,
    pg18: EmbeddedCluster,
    store_source_15: str,
    store_target: str,
    scratch: Path,
    hanging: bool,
) -> None:
    """An item of an outsider's order is committed in the log and not visible yet, when the order is given to a member:
    the stream has passed the item by, as an outsider's, and the snapshot in which the order is read must see it."""
    state = scratch / ("passed_by" if hanging else "passed_by_control")
    async with small_store((pg15, pg18), (store_source_15, store_target), state, ONE) as place:
        database = await scalar(place.source, "select current_database()")
        member, outsider = (await people(place.source))[0], (await people(place.source, "CN"))[0]
        order = await scalar(place.source, f"select {ORDER.format(outsider)}")
        async with begun(place) as carrier:
            await through(carrier, PREPARE, COPY)
            await execute(place.source, f"alter database {database} set synchronous_commit = local")
            async with held(place, carrier) as in_the_way:
                moving = asyncio.create_task(through(carrier, CATCHUP))
                await closing(place)
                if hanging:
                    await given_while_invisible(place, ITEM.format(order), GIVE.format(outsider, member), order)
                else:
                    await execute(place.source, ITEM.format(order), GIVE.format(outsider, member))
                assert await scalar(place.source, ITEMS) == 1, "it was acknowledged"
                await in_the_way.rollback()
                await moving
        assert await scalar(place.target, f"select user_id from store.orders where id = {order}") == member
        assert await scalar(place.target, ITEMS) == 1


async def given_while_invisible(place: Place, item: str, give: str, order: object) -> None:
    """``item`` is committed in the log, then ``give``, which is visible at once; then the item is visible, too."""
    async with commits_hang(place.source):
        waiting = await scalar(place.source, WAITS_FOR_STANDBY)
        late = asyncio.create_task(execute(place.source, "set synchronous_commit = on", item))

        async def in_the_log() -> bool:
            return bool(await scalar(place.source, WAITS_FOR_STANDBY) != waiting)

        async def carried() -> object:
            return await scalar(place.target, f"select count(*) from store.orders where id = {order}")

        await until(in_the_log)
        assert await scalar(place.source, ITEMS) == 0
        await execute(place.source, give)
        await asyncio.sleep(LOOK_SECONDS)
        assert not await carried(), "it was read in a snapshot that cannot see the item"
    await late
    await until(carried)
