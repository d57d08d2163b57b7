"""A source and a target with a wave registered at both, ready to be copied."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from tests.conftest import SitePair

from domicile.model.datamap import DataMap, OwnerStep, Role, SubjectRule, TableRule
from domicile.model.plan import Cohort, Limits, Plan, TablePlan
from domicile.model.schema import Schema, TableName
from domicile.model.site import DatasetName, MoveId, SiteName
from domicile.move import copy
from domicile.move.context import Move, WaveAtSites
from domicile.move.failpoints import Failpoints
from domicile.postgres import site_schema
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema
from domicile.postgres.ownership import rows_of_wave
from domicile.postgres.rows import choose_format

MOVE = MoveId("m1")
_REGISTER = """
    insert into domicile.move (move_id, dataset, here, role, peer, generation)
    values ('m1', 'shop', %(here)s, %(role)s, %(peer)s, 7);
    insert into domicile.wave (move_id, no, mark, home, epoch) values ('m1', 1, %(mark)s, 'source', 0)"""


def data_map(subject: str, owned: Mapping[str, str], key: str = "id") -> DataMap:
    """``owned`` maps a table to its owner step."""
    tables = {TableName.parse(subject): TableRule(TableName.parse(subject), Role.SUBJECT)}
    for name, step in owned.items():
        table = TableName.parse(name)
        tables[table] = TableRule(table, Role.OWNED, OwnerStep.parse(step))
    return DataMap(DatasetName("shop"), SubjectRule(TableName.parse(subject), key), tables)


@dataclass
class Rig:
    """What a test of the copy works with."""

    pair: SitePair
    source: AsyncConnection[Any]
    target: AsyncConnection[Any]
    data_map: DataMap = field(default_factory=lambda: data_map("public.users", {}))
    move: Move = None  # type: ignore[assignment]  # set by register()
    wave: WaveAtSites = None  # type: ignore[assignment]  # set by register()
    reported: list[tuple[int, int]] = field(default_factory=list)

    async def both(self, ddl: str) -> None:
        """The same statements at both sites."""
        await self.source.execute(ddl.encode())
        await self.target.execute(ddl.encode())

    async def register(self, mapped: DataMap, subjects: Sequence[Any], **limits: Any) -> None:
        """The wave of ``subjects``, in that order, at both sites, and the move that carries it."""
        self.data_map = mapped
        source_schema, target_schema = await read_schema(self.source), await read_schema(self.target)
        key = source_schema.tables[mapped.subject.table].column(mapped.subject.key)
        wave_ids = []
        for conn, here, peer, role, mark in (
            (self.source, "source", "target", "source", "fenced"),
            (self.target, "target", "source", "target", "arriving"),
        ):
            await site_schema.install(conn, key.type_name)
            values = {"here": here, "role": role, "peer": peer, "mark": mark}
            await psycopg.AsyncClientCursor(conn).execute(_REGISTER, values)
            row = await (await conn.execute("select max(id) from domicile.wave")).fetchone()
            assert row is not None
            wave_ids.append(row[0])
            async with conn.cursor().copy("copy domicile.member (wave, ordinal, subject) from stdin") as rows:
                for ordinal, subject in enumerate(subjects, 1):
                    await rows.write_row((row[0], ordinal, subject))
        self.wave = WaveAtSites(1, wave_ids[0], wave_ids[1], len(subjects), 1)
        self.move = await self._move(source_schema, target_schema, len(subjects), Limits(**limits))

    async def copy(self, failpoint: str = "") -> None:
        """The copy phase, with the failpoint armed."""
        self.move = _with_failpoint(self.move, failpoint)

        async def report(rows: int, size: int) -> None:
            self.reported.append((rows, size))

        await copy.run(self.move, self.wave, report)

    async def texts(self, conn: AsyncConnection[Any], query: str) -> list[tuple[Any, ...]]:
        """A query's rows."""
        return list(await (await conn.execute(query.encode())).fetchall())

    async def same(self, query: str) -> list[tuple[Any, ...]]:
        """Assert that both sites answer alike; returns the answer."""
        ours, theirs = await self.texts(self.source, query), await self.texts(self.target, query)
        assert ours == theirs
        return ours

    async def _move(self, source_schema: Schema, target_schema: Schema, subjects: int, limits: Limits) -> Move:
        plans = []
        for name in self.data_map.in_scope():
            table = source_schema.tables[name]
            row_format, why = choose_format(table, target_schema.tables[name])
            columns = tuple(c.name for c in table.stored_columns)
            of_wave = sql.SQL("select count(*) {} where m.wave = {}").format(
                rows_of_wave(self.data_map, name), sql.Literal(self.wave.source_id)
            )
            [(rows,)] = await (await self.source.execute(of_wave)).fetchall()
            plans.append(TablePlan(name, columns, rows, 0, row_format, why))
        blank = dict.fromkeys(
            ("config_digest", "map_digest", "source_schema_digest", "target_schema_digest", "estimate_basis"), ""
        )
        plan = Plan(
            version=1,
            dataset=self.data_map.dataset,
            source=SiteName("source"),
            target=SiteName("target"),
            cohort=Cohort("", "", subjects, ""),
            tables=tuple(plans),
            waves=(),
            checks=(),
            limits=limits,
            made_at="",
            **blank,
        )
        return Move(
            MOVE, plan, self.data_map, self.pair.source, self.pair.target, source_schema, target_schema, 7, Failpoints()
        )


@asynccontextmanager
async def rig(pair: SitePair) -> AsyncIterator[Rig]:
    """Connections to both sites, as the engine opens them."""
    source = await connect(pair.source, settings=SESSION)
    target = await connect(pair.target, settings=SESSION)
    try:
        yield Rig(pair, source, target)
    finally:
        await source.close()
        await target.close()


def _with_failpoint(move: Move, spec: str) -> Move:
    return Move(
        move.move_id,
        move.plan,
        move.data_map,
        move.source,
        move.target,
        move.source_schema,
        move.target_schema,
        move.generation,
        Failpoints(spec),
    )
