"""Applications write all the while and follow DM001 to the new home: each acknowledged write is there once, at home."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
import json
import random

import psycopg
from tests.move.places import SOURCE, TARGET, Place, apply_cold, scalar
from tests.move.test_cold_move import plan_of

from domicile import commands
from domicile.model.phase import Status
from domicile.model.plan import Question

WRITERS = 3
RETRY_SECONDS = 0.01
_WRITE = "update store.user_account set profile = profile || jsonb_build_object(%s::text, 1) where id = %s returning id"


@dataclass(slots=True)
class Application:
    """Writers with a stale idea of where everybody lives: they start at the source and learn from DM001."""

    place: Place
    subjects: list[int]
    seed: int
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    homes: dict[int, str] = field(default_factory=dict)
    acknowledged: dict[int, set[str]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for no in range(WRITERS):
                group.create_task(self._writer(no))

    async def _writer(self, no: int) -> None:
        dice = random.Random(self.seed + no)
        isolation = list(psycopg.IsolationLevel)[1:][no % 3]
        connections = {}
        for site, conninfo in ((SOURCE, self.place.source), (TARGET, self.place.target)):
            connections[site] = await psycopg.AsyncConnection.connect(conninfo)
            await connections[site].set_isolation_level(isolation)
        sequence = 0
        while not self.stop.is_set():
            subject = dice.choice(self.subjects)
            sequence += 1
            mark = f"w{no}-{sequence}"
            await self._until_acknowledged(connections, subject, mark)
        for connection in connections.values():
            await connection.close()

    async def _until_acknowledged(
        self, connections: dict[str, psycopg.AsyncConnection], subject: int, mark: str
    ) -> None:
        while True:
            connection = connections[self.homes.get(subject, SOURCE)]
            try:
                row = await (await connection.execute(_WRITE, (mark, subject))).fetchone()
                await connection.commit()
                assert row is not None, f"{subject} is not where it should be"
                self.acknowledged.setdefault(subject, set()).add(mark)
                return
            except psycopg.Error as error:
                await connection.rollback()
                self.refused[error.sqlstate or ""] += 1
                if error.sqlstate not in ("DM001", "DM002", "40001"):
                    raise
                if error.sqlstate == "DM001":
                    self.homes[subject] = json.loads(error.diag.message_detail or "")["home"]
            if self.stop.is_set():
                return
            await asyncio.sleep(RETRY_SECONDS)


async def written(conninfo: str) -> dict[int, set[str]]:
    """Every mark of the writers that one site holds."""
    async with await psycopg.AsyncConnection.connect(conninfo) as conn:
        rows = await conn.execute("select id, profile from store.user_account")
        return {i: {k for k in profile if k.startswith("w")} for i, profile in await rows.fetchall()}


async def test_no_acknowledged_write_is_lost_or_doubled(either_store: Place, seed: int) -> None:
    place = either_store
    plan = await plan_of(place)
    subjects = await scalar(place.source, "select array_agg(id order by id) from store.user_account")
    assert isinstance(subjects, list)
    application = Application(place, subjects, seed)
    running = asyncio.create_task(application.run())
    moved = await apply_cold(place.workspace, plan)
    await asyncio.sleep(0.5)  # some more writes, at the new homes
    application.stop.set()
    await running
    assert moved.status is Status.WAITING, moved
    assert {w.verdict for w in moved.waves} == {"clean"}
    await commands.purge(place.workspace, moved.move_id)

    at_source, at_target = await written(place.source), await written(place.target)
    assert not set(at_source) & set(at_target), "one home each"
    found = {**at_source, **at_target}
    for subject, marks in application.acknowledged.items():
        assert found[subject] == marks, subject
    assert sum(map(len, application.acknowledged.values())) > 100
    assert application.refused["DM001"] > 0, "somebody was told the new home"


async def test_there_and_back(store: Place) -> None:
    """The same subjects move a second time, home again: epochs go up, rows are what they were."""
    traveller = str(await scalar(store.source, "select min(id) from store.user_account where market = 'IN'"))
    before = await written(store.source)
    there = await apply_cold(store.workspace, await plan_of(store, "market = 'IN'"))
    await commands.purge(store.workspace, there.move_id)
    assert (await commands.where(store.workspace, "store", traveller)).epoch == 1
    question = Question("store", TARGET, SOURCE, where="market = 'IN'")
    back = await apply_cold(store.workspace, await commands.plan(store.workspace, question))
    assert back.status is Status.WAITING, back
    await commands.purge(store.workspace, back.move_id)
    answer = await commands.where(store.workspace, "store", traveller)
    assert (answer.home, answer.epoch) == (SOURCE, 2)
    assert set(await written(store.source)) == set(before)
    rename = "update store.user_account set full_name = 'home' where id = %s returning id"
    assert await scalar(store.source, rename, traveller) is not None, "the guard lets them write at home"
    replaced = replace(question, source=SOURCE, target=TARGET)
    again = await apply_cold(store.workspace, await commands.plan(store.workspace, replaced))
    assert (again.status, (await commands.where(store.workspace, "store", traveller)).epoch) == (Status.WAITING, 3)
