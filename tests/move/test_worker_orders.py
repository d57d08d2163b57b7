"""Workers under orders: moves left to them, paused, given up or taken back; and how they leave when asked to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
import json
from pathlib import Path
import signal

import pytest
from tests.move.places import execute, scalar
from tests.move.test_kill import judge, total
from tests.move.test_worker import TAKEN_OVER_SECONDS_MAX, Firm, firm_of, purged, until

from domicile.sites.embedded import EmbeddedCluster


@pytest.fixture
async def firm(
    pg18: EmbeddedCluster, store_source: str, store_target: str, scratch: Path, tmp_path: Path
) -> AsyncIterator[Firm]:
    async with firm_of(pg18, (store_source, store_target), scratch, tmp_path) as found:
        yield found


async def test_ordered_moves_are_carried_and_purged(firm: Firm) -> None:
    """Ordered before any worker is there; the worker leaves when asked, and nothing of it stays."""
    before = await total(firm.company)
    move = await firm.ordered()
    worker = await firm.worker()
    await firm.over(move, "waiting")
    assert json.loads(await firm.company.ok("purge", move, "--detach", "--yes", "--json"))["ordered"] == "purge"
    await firm.over(move, "done")
    await judge(firm.company, before)
    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0, worker.said()
    assert "@" not in worker.said()

    async def alone() -> bool:
        others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        return await scalar(firm.control, others) == 0

    await until(alone, 10)


async def test_a_worker_that_is_asked_to_leave_hands_over_at_a_pause_point(firm: Firm) -> None:
    before = await total(firm.company)
    first = await firm.worker()
    move = await firm.ordered()
    await firm.copying(move)
    first.signal(signal.SIGTERM)
    second = await firm.worker()
    assert await first.ended() == 0, first.said()
    assert "left at a pause point" in first.said()
    assert await scalar(firm.control, "select count(*) from domicile_control.wave where phase = 'copy'") == 0
    await firm.carried(move, second, TAKEN_OVER_SECONDS_MAX)
    await purged(firm, move, before)


@pytest.mark.campaign
async def test_the_second_signal_ends_a_worker_at_once(firm: Firm) -> None:
    before = await total(firm.company)
    first = await firm.worker(failpoint="copy.before:pause:2")
    move = await firm.ordered()
    await firm.copying(move, rows=0)
    for _ in range(2):
        first.signal(signal.SIGINT)
        await asyncio.sleep(0.5)
    assert await first.ended() == 130, first.said()
    second = await firm.worker()
    await firm.carried(move, second, TAKEN_OVER_SECONDS_MAX)
    await purged(firm, move, before)


async def test_a_move_that_cannot_be_carried_fails_and_is_not_handed_around(firm: Firm) -> None:
    """Its schema has changed; mended, it is ordered again."""
    move = await firm.ordered()
    at_target = firm.company.target
    await execute(at_target, "alter table store.user_account add column surplus integer")
    worker = await firm.worker()
    await firm.over(move, "failed")
    assert await firm.of(move, "error_code") == "schema-changed"
    assert "cannot be carried from here" in worker.said()
    await execute(at_target, "alter table store.user_account drop column surplus")
    await firm.company.ok("resume", move, "--detach")
    await firm.over(move, "waiting")


async def test_pause_and_abort_reach_a_worker(firm: Firm) -> None:
    before = await total(firm.company)
    worker = await firm.worker()
    move = await firm.ordered()
    await firm.copying(move)
    worker.process.send_signal(signal.SIGSTOP)  # or it may be done before the order has been written
    await firm.company.ok("pause", move)
    worker.process.send_signal(signal.SIGCONT)
    await firm.over(move, "paused")
    await firm.company.ok("resume", move, "--detach")
    await firm.company.ok("abort", move, "--yes")
    await firm.over(move, "aborted")
    assert await total(firm.company) != before  # the waves that had arrived stay there, with their source copies


async def test_orders_wait_for_a_worker_and_can_be_taken_back(firm: Firm) -> None:
    move = await firm.ordered()
    await firm.company.ok("pause", move)
    assert (await firm.of(move, "status"), await firm.of(move, "ordered")) == ("paused", "")
    await firm.company.ok("resume", move)  # in the operator's own process
    assert (await firm.of(move, "status"), await firm.of(move, "ordered")) == ("waiting", "")


async def test_without_a_shared_control_database_there_are_no_workers(firm: Firm) -> None:
    company = firm.company
    await company.ok("-c", "embedded.yaml", "plan", "store", "--from", "beijing", "--to", "singapore",
                     "--where", "market = 'SG'", "-o", "plan.json")  # fmt: skip
    for command in (["worker", "--site", "beijing"], ["apply", "plan.json", "--cold", "--detach", "--yes"]):
        code, _, err = await company.run("-c", "embedded.yaml", *command)
        assert code == 2
        assert "control:" in err
    code, _, err = await company.run("worker", "--site", "atlantis")
    assert code == 2
    assert "atlantis" in err
