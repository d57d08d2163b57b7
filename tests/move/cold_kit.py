"""Cold moves stopped half-way, and who their users are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.move.places import SOURCE, TARGET, Place, apply_cold, scalar

from domicile import commands
from domicile.commands.desk import carrier_for, open_desk
from domicile.commands.moves import create, freeze_cohort
from domicile.model.phase import PHASES_OF, Phase, Status
from domicile.model.plan import Limits, Mode, Question, SignUps
from domicile.model.report import MoveStatus
from domicile.move import begin
from domicile.move.carrier import Carrier
from domicile.move.eject import leavers
from domicile.move.run import Outcome, run_phase
from domicile.postgres import waves

PREPARE, FENCE, COPY, VERIFY, HANDOVER = PHASES_OF[Mode.COLD]
INDIA = "market = 'IN'"
INDIANS = "select array_agg(id order by id) from store.user_account where market = 'IN'"
SIGN_UP = """
    insert into store.user_account (email, phone, full_name, market, locale, created_at)
    values ('new@example.org', '+91 0000', 'New', 'IN', 'en_IN', now()) returning id"""
# What an application does to a user, in the order of its foreign keys.
DELETE = """
    delete from store.payment where order_id in (select id from store.orders where user_id = {0});
    delete from store.order_item where order_id in (select id from store.orders where user_id = {0});
    delete from store.orders where user_id = {0};
    delete from store.address where user_id = {0};
    delete from store.device where user_id = {0};
    delete from store.review where user_id = {0};
    delete from store.cart_item where cart_id in (select id from store.cart where user_id = {0});
    delete from store.cart where user_id = {0};
    delete from store."Wishlist" where user_id = {0};
    delete from store.photo where user_id = {0};
    delete from store.referral where inviter_id = {0};
    delete from store.user_account where id = {0}"""
MERGE = """
    update store.orders set user_id = {1} where user_id = {0};
    update store.address set user_id = {1} where user_id = {0};
    update store.device set user_id = {1} where user_id = {0};
    update store.review set user_id = {1} where user_id = {0};
    update store.photo set user_id = {1} where user_id = {0};
    update store.referral set inviter_id = {1} where inviter_id = {0}"""
PRESENT = "select count(*) from store.user_account where id = %s"
ORDERS = "select count(*) from store.orders where user_id = %s"


async def paused(place: Place, where: str = INDIA, sign_ups: SignUps = SignUps.REFUSE) -> MoveStatus:
    """A move that has begun, stopped between two waves: sign-ups are refused, the last wave has not begun."""
    plan = await commands.plan(place.workspace, Question(place.dataset, SOURCE, TARGET, where, sign_ups=sign_ups))
    stop = asyncio.Event()
    stop.set()
    now = await apply_cold(place.workspace, plan, stop=stop)
    assert now.status is Status.PAUSED, now
    return now


async def people(place: Place) -> list[int]:
    """The Indians of the source, in key order."""
    found = await scalar(place.source, INDIANS)
    assert isinstance(found, list)
    return found


@asynccontextmanager
async def carried(place: Place, where: str = INDIA, limits: Limits | None = None) -> AsyncIterator[Carrier]:
    """A move that has begun, whose phases the test carries out by itself."""
    question = Question(place.dataset, SOURCE, TARGET, where)
    plan = await commands.plan(place.workspace, question, limits=limits)
    async with open_desk(place.workspace) as desk:
        record = await create(desk, plan, Mode.COLD)
        async with carrier_for(desk, record.move_id) as carrier:
            await freeze_cohort(desk, carrier, plan)
            await begin.run(carrier)
            yield carrier


ONE_WAVE = Limits(wave_subjects_max=500, canary_subjects_max=0, chunk_rows=50, purge_chunk_rows=50, settle_seconds=0)


async def through(carrier: Carrier, no: int, *phases: Phase) -> None:
    for phase in phases:
        outcome = await run_phase(carrier, no, phase)
        wave = await carrier.figures.wave(carrier.move.move_id, no)
        assert outcome is Outcome.DONE, wave.error_message


async def wave_at(carrier: Carrier, no: int = 1) -> tuple[int, int]:
    """The wave's ids at source and target."""
    async with carrier.sites() as (source, target):
        here = await waves.find_wave(source, carrier.move.move_id, no)
        there = await waves.find_wave(target, carrier.move.move_id, no)
    assert here is not None
    return here.id, there.id if there else 0


async def gone_from(carrier: Carrier, no: int = 1) -> list[int]:
    at_source, _ = await wave_at(carrier, no)
    async with carrier.source() as source:
        return await leavers(source, carrier.move.move_id, at_source, carrier.move.data_map)


async def finished(place: Place, move_id: str) -> None:
    """Purged, and done."""
    assert (await commands.purge(place.workspace, move_id)).left_at_source == 0
    (now,) = await commands.status(place.workspace, move_id)
    assert now.status is Status.DONE, now
