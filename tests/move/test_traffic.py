"""A move under the traffic of the whole store, judged by an oracle that asks domicile nothing."""

from __future__ import annotations

import asyncio

import pytest
from tests.move.places import SOURCE, TARGET, Place, scalar

from domicile import commands
from domicile.model.phase import Status
from domicile.model.plan import Mode, Question
from domicile.world import oracle
from domicile.world.oracle import Copies, Law
from domicile.world.process import writers
from domicile.world.traffic import Config

ABROAD = "market <> 'CN'"
MINE_TO_ANSWER = {"DM001", "DM002", "40001", "40P01"}
WEIGHTS = {"sign up": 3.0, "leave": 1.0, "give order": 4.0}


@pytest.mark.campaign  # the demo does the same, and is a test
@pytest.mark.parametrize("mode", list(Mode))
async def test_every_acknowledged_write_is_at_home_once(either_store: Place, seed: int, mode: Mode) -> None:
    place = either_store
    sites = {SOURCE: place.source, TARGET: place.target}
    plan = await commands.plan(place.workspace, Question(place.dataset, SOURCE, TARGET, where=ABROAD))
    config = Config(sites, seed=seed, writers=8, rate=300.0, weights=WEIGHTS, doors=False)
    async with writers(config) as busy:
        await asyncio.sleep(0.5)
        moving = asyncio.create_task(commands.apply(place.workspace, plan, mode=mode))
        while not await scalar(place.source, "select to_regclass('domicile.member') is not null"):
            await asyncio.sleep(0.05)
        while not await scalar(place.source, "select exists (select from domicile.member)"):
            await asyncio.sleep(0.05)
        await busy.open_doors()  # the cohort is written down: from here on users may come and go
        moved = await moving
        await asyncio.sleep(0.5)
        account = await busy.stop()

    assert moved.status is Status.WAITING, [(w.no, w.error_code, w.error_message) for w in moved.waves if w.error_code]
    found = await oracle.verdict(account, sites, Law(staying=("CN",)))
    assert found.clean, found
    assert set(account.refused) <= MINE_TO_ANSWER
    assert account.refused["DM001"] > 0
    assert not account.failures, account.failures
    members = await scalar(place.source, "select jsonb_object_agg(subject, wave) from domicile.member")
    assert isinstance(members, dict)
    waves = {int(user): int(wave) for user, wave in members.items()}
    pauses = account.pauses(waves)
    assert pauses.count > 0
    assert pauses.max is not None
    moved_users = [u for u, home in account.ledger.homes.items() if home.site == TARGET and SOURCE in home.ever]
    assert moved_users

    await commands.purge(place.workspace, moved.move_id)
    found = await oracle.verdict(account, sites, Law(Copies.NONE, staying=("CN",)))
    assert found.clean, found
