"""A wave that stands at two sites, to be compared: filled alike, then spoilt by a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from psycopg import AsyncConnection
from tests.conftest import SitePair

from domicile.model.datamap import DataMap, OwnerStep, Role, SubjectRule, TableRule
from domicile.model.plan import Cohort, Limits, Plan
from domicile.model.schema import TableName
from domicile.model.site import DatasetName, MoveId, SiteName
from domicile.model.verdict import Verdict
from domicile.move import verify
from domicile.move.context import Move, WaveAtSites
from domicile.move.failpoints import Failpoints
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema

NOTHING = ""


def data_map(subject: str, owned: Mapping[str, str], **references: Sequence[str]) -> DataMap:
    """``owned``: table -> owner step. ``references``: bare table name -> references without a foreign key."""
    tables = {TableName.parse(subject): TableRule(TableName.parse(subject), Role.SUBJECT)}
    for text, step in owned.items():
        name = TableName.parse(text)
        without = tuple(references.get(name.name, ()))
        tables[name] = TableRule(name, Role.OWNED, OwnerStep.parse(step), references=without)
    return DataMap(DatasetName("shop"), SubjectRule(TableName.parse(subject), "id"), tables)


@dataclass
class Sites:
    """Both sites, each with the wave registered under an id of its own."""

    pair: SitePair
    source: AsyncConnection[Any]
    target: AsyncConnection[Any]

    async def both(self, statements: str) -> None:
        """The same statements at both sites."""
        await self.source.execute(statements.encode())
        await self.target.execute(statements.encode())

    async def register(self, subjects: Sequence[object], subject_type: str = "bigint") -> None:
        """Members of wave 3 at the source, and of wave 8 at the target."""
        schema = files("domicile.postgres").joinpath("sql/site.sql").read_text()
        await self.both(schema.replace("{subject_type}", subject_type))
        for conn, wave in ((self.source, 3), (self.target, 8)):
            await conn.execute("delete from domicile.member")
            rows = [(wave, n, subject) for n, subject in enumerate(subjects, 1)]
            async with conn.cursor() as cursor:
                await cursor.executemany("insert into domicile.member values (%s, %s, %s)", rows)
            await conn.execute("analyze domicile.member")

    async def move(self, mapped: DataMap, failpoint: str = "") -> Move:
        """The move as its phases see it."""
        blank = dict.fromkeys(
            ("config_digest", "map_digest", "source_schema_digest", "target_schema_digest", "estimate_basis"), ""
        )
        plan = Plan(
            version=1,
            dataset=mapped.dataset,
            source=SiteName("source"),
            target=SiteName("target"),
            cohort=Cohort("", "", 0, ""),
            tables=(),
            waves=(),
            checks=(),
            limits=Limits(),
            made_at="",
            **blank,
        )
        schemas = await read_schema(self.source), await read_schema(self.target)
        conninfos = self.pair.source, self.pair.target
        return Move(MoveId("m1"), plan, mapped, *conninfos, *schemas, 1, Failpoints(failpoint))

    async def verify(self, mapped: DataMap, subjects: int | None = None) -> Verdict:
        """The verdict on the wave."""
        move = await self.move(mapped)
        return await verify.run(move, await self.wave(subjects))

    async def wave(self, subjects: int | None = None) -> WaveAtSites:
        """The wave with as many members as the source has, or ``subjects``."""
        row = await (await self.source.execute("select count(*) from domicile.member")).fetchone()
        assert row is not None
        return WaveAtSites(1, 3, 8, row[0] if subjects is None else subjects, 1)


@asynccontextmanager
async def open_sites(pair: SitePair) -> AsyncIterator[Sites]:
    """Connections to both sites, as the engine opens them."""
    async with (
        await connect(pair.source, settings=SESSION) as source,
        await connect(pair.target, settings=SESSION) as target,
    ):
        yield Sites(pair, source, target)


def with_failpoint(move: Move, spec: str) -> Move:
    """The same move with a failpoint armed."""
    return replace(move, failpoints=Failpoints(spec))
