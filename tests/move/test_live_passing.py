"""What another was faster with: a key that passes from row to row, a process that was taken over while it slept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.move.live_kit import (
    CATCHUP,
    COPY,
    PREPARE,
    TOUCH,
    arrived_whole,
    begun,
    owned,
    people,
    refused,
    through,
)
from tests.move.places import Place, execute, scalar

from domicile.model.errors import DomicileError, ErrorCode
from domicile.move import due, live_verify, live_wave, streams
from domicile.move.live_wave import open_live
from domicile.stream.reader import Reader

PHOTO = """
    select min(p.id) from store.photo as p join store.user_account as u on u.id = p.user_id
    where {0} (u.market = 'IN')"""


async def test_a_key_that_a_row_has_still_to_give_up_is_met_in_passing(place: Place) -> None:
    """A photo comes into the wave, and takes the key of one that was deleted behind that. It is read as it is now,
    while the other still stands at the target. The wave steps back, is due again, and arrives."""
    residents = await owned(place.target)
    theirs, ours = [await scalar(place.source, PHOTO.format(who)) for who in ("not", "")]
    key = await scalar(place.source, f"select object_key from store.photo where id = {ours}")
    member = await scalar(place.source, f"select user_id from store.photo where id = {ours}")
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        await execute(
            place.source,
            f"update store.photo set user_id = {member} where id = {theirs}",
            f"delete from store.photo where id = {ours}",
            f"update store.photo set object_key = '{key}' where id = {theirs}",
        )
        wave = await refused(carrier)
        assert (wave.error_code, wave.error_code in due.PASSING) == (ErrorCode.KEYS_IN_PASSING, True)
        assert key not in f"{wave.error_message} {wave.error_hint}"
        await streams.begin(carrier)
        await through(carrier, PREPARE, COPY, CATCHUP)
        await arrived_whole(place, residents)


async def test_a_process_that_slept_while_it_opened_a_stream_sends_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another has carried the wave on meanwhile. The first one's index is too old: rows that members have given away
    since would count as theirs."""
    one = (await people(place.source))[0]
    opened = live_wave.open_reader

    @asynccontextmanager
    async def late(*args: Any, **settings: Any) -> AsyncIterator[Reader]:
        monkeypatch.setattr(live_wave, "open_reader", opened)
        async with open_live(carrier, 1) as another:
            await execute(place.source, TOUCH.format(one))
            await live_verify.mark(another)
        async with opened(*args, **settings) as reader:
            yield reader

    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        monkeypatch.setattr(live_wave, "open_reader", late)
        with pytest.raises(DomicileError) as told:
            async with open_live(carrier, 1):
                pytest.fail("it would send what it takes for the wave's")
        assert told.value.code is ErrorCode.LEASE_LOST
        await through(carrier, CATCHUP)
