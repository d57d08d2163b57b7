"""Where a stub says that its person lives: the last of his moves tells it, not the first."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest
from tests.conftest import SitePair
from tests.move.chat_kit import LIMITS, make_chat, stubs, write
from tests.move.places import SOURCE, TARGET, execute
from tests.move.test_parties_gone import _HELLO, forget, moved

from domicile import commands
from domicile.model.phase import Status
from domicile.model.plan import Mode, Question

TOUCH = "update chat.person set credit = 1 where id = 3"


async def test_a_stub_of_who_has_moved_twice_says_where_he_lives_now(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str
) -> None:
    """He has come back, each site has purged what he left there, and somebody who has written to him leaves."""
    place = await make_chat(site_pair, scratch / tmp_path.name, control)
    await forget(place.source, 3)
    there = await moved(place, "id = 3")
    assert (await commands.purge(place.workspace, there.move_id)).left_at_source == 0
    home = Question("chat", TARGET, SOURCE, where="id = 3")
    plan = await commands.plan(place.workspace, home, limits=LIMITS)
    back = await commands.apply(place.workspace, plan, mode=Mode.LIVE)
    assert back.status is Status.WAITING, back
    assert (await commands.purge(place.workspace, back.move_id)).left_at_source == 0
    assert await write(place.source, _HELLO, 6, 3) == ""
    await moved(place, "id = 6")
    assert 3 in await stubs(place.target)
    with pytest.raises(psycopg.Error) as told:
        await execute(place.target, TOUCH)
    assert told.value.sqlstate == "DM001"
    assert json.loads(told.value.diag.message_detail or "")["home"] == SOURCE
    assert await write(place.source, TOUCH) == ""
