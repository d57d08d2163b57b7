"""A purge waits for standbys: what they have not replayed is not gone there."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from reliability.chaos.promotion import site

from domicile.postgres import reclaim
from domicile.sites.embedded import EmbeddedCluster

END_OF_LOG = "select pg_current_wal_flush_lsn()::text"
TOUCH = "create table touched as select generate_series(1, 10)"


@pytest.fixture
async def stopped(scratch: Path) -> EmbeddedCluster:
    async with await EmbeddedCluster.create(scratch, "standing-by") as cluster:
        pass
    return cluster


async def test_a_standby_that_lags_is_waited_for_and_told(
    stopped: EmbeddedCluster, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reclaim, "REPLAY_S_MAX", 1.0)
    async with (
        site(stopped, scratch, "lagging") as pair,
        await psycopg.AsyncConnection.connect(pair.primary.conninfo(), autocommit=True) as primary,
        await psycopg.AsyncConnection.connect(pair.standby.conninfo(), autocommit=True) as standby,
    ):
        await pair.caught_up()
        await standby.execute("select pg_wal_replay_pause()")
        await primary.execute(TOUCH)
        row = await (await primary.execute(END_OF_LOG)).fetchone()
        assert row is not None
        assert (await reclaim.wait_replayed(primary, row[0])).refused == "1 have not replayed it"
        await standby.execute("select pg_wal_replay_resume()")
        monkeypatch.setattr(reclaim, "REPLAY_S_MAX", 30.0)
        assert not (await reclaim.wait_replayed(primary, row[0])).refused
        assert await (await standby.execute("select count(*) from touched")).fetchone() == (10,)
