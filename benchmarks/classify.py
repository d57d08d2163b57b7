"""How many personal columns does the classification find, and how often is it wrong? The labelled set of `labelled`, as
tables of a real server; precision and recall, overall and by category, and the time for all tables.

A column counts as found if it is given the category of its label, in a table of the role that a data map would give it.
Exits 1 when the precision is below 0.98 or the recall below 0.9.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import sys
import time
from typing import Any

from psycopg import AsyncConnection, sql

from benchmarks import _bench
from benchmarks.labelled import tables as labelled
from benchmarks.labelled.tables import LabelledTable
from domicile.model.schema import TableName
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema
from domicile.survey.classify import look, personal_of
from domicile.survey.measure import Measure

QUESTION = "how many personal columns does the classification find, and how often is it wrong?"
PRECISION, RECALL = 0.98, 0.9


@dataclass(frozen=True, slots=True)
class Answer:
    """One column: what it is, and what was said of it; '' is not personal."""

    table: str
    column: str
    label: str
    said: str


async def build(conn: AsyncConnection[Any], tables: Sequence[LabelledTable]) -> None:
    """Make the tables with their rows, and the statistics that a live database has."""
    for table in tables:
        columns = [sql.SQL("{} {}").format(sql.Identifier(c.name), _type(c.type_name)) for c in table.columns]
        name = sql.Identifier("public", table.name)
        await conn.execute(
            sql.SQL("create table {} (id bigserial primary key, {})").format(name, sql.SQL(", ").join(columns))
        )
        names = sql.SQL(", ").join(sql.Identifier(c.name) for c in table.columns)
        async with conn.cursor().copy(sql.SQL("copy {} ({}) from stdin").format(name, names)) as copy:
            for row in zip(*(c.values for c in table.columns), strict=True):
                await copy.write_row(row)
    await conn.execute("analyze")


def _type(name: str) -> sql.SQL:
    return sql.SQL(name)  # one of the few in labelled/kinds.py


async def classify(conn: AsyncConnection[Any], tables: Sequence[LabelledTable]) -> tuple[list[Answer], float]:
    """What is said of every labelled column, and the seconds it took."""
    schema = await read_schema(conn)
    began = time.perf_counter()
    looks = {t.name: await look(Measure(conn), schema.tables[TableName("public", t.name)]) for t in tables}
    seconds = time.perf_counter() - began
    answers = []
    for table in tables:
        said = personal_of(looks[table.name], table.role)
        answers += [Answer(table.name, c.name, c.label, said.get(c.name, "")) for c in table.columns]
    return answers, seconds


def figures(answers: Sequence[Answer]) -> dict[str, Any]:
    """Precision and recall, exact category first; then whether personal at all."""
    right = Counter(a.label for a in answers if a.label and a.said == a.label)
    said = Counter(a.said for a in answers if a.said)
    labels = Counter(a.label for a in answers if a.label)
    personal = sum(bool(a.label and a.said) for a in answers)
    return {
        "columns": len(answers),
        "personal": labels.total(),
        "precision": _share(right.total(), said.total()),
        "recall": _share(right.total(), labels.total()),
        "precision_personal_or_not": _share(personal, said.total()),
        "recall_personal_or_not": _share(personal, labels.total()),
        "by_category": {
            c: {"precision": _share(right[c], said[c]), "recall": _share(right[c], labels[c]), "columns": labels[c]}
            for c in sorted(labels.keys() | said.keys())
        },
    }


def missed(result: Mapping[str, Any]) -> list[str]:
    """The figures that do not reach their targets; one of nothing (None) does not."""
    targets = {"precision": PRECISION, "recall": RECALL}
    return [name for name, least in targets.items() if result[name] is None or result[name] < least]


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def wrong(answers: Sequence[Answer]) -> Mapping[tuple[str, str, str], int]:
    """Names with what they are and what was said instead, most often first."""
    return Counter((a.column, a.label or "-", a.said or "-") for a in answers if a.label != a.said)


async def run(count: int, seed: int, *, show_wrong: bool) -> dict[str, Any]:
    """The benchmark's figures."""
    tables = labelled.draw(seed, count)
    async with _bench.clusters("classify") as (cluster,), await connect(cluster.conninfo(), settings=SESSION) as conn:
        await build(conn, tables)
        answers, seconds = await classify(conn, tables)
    if show_wrong:
        for (name, label, said), times in sorted(wrong(answers).items(), key=lambda x: -x[1]):
            _bench.say(f"{times:3} {name}: {label}, said {said}")
    return {**figures(answers), "tables": count, "seed": seed, "seconds": round(seconds, 2)}


def main() -> int:
    """The command."""
    options = _bench.parser("classify", QUESTION, labelled.TABLES)
    options.add_argument("--seed", type=int, default=labelled.SEED, help="another seed draws another set")
    options.add_argument("--wrong", action="store_true", help="list what was said wrongly, on stderr")
    options.add_argument("--list", action="store_true", help="write labelled/columns.tsv, and measure nothing")
    given = options.parse_args()
    if given.list:
        labelled.LISTED.write_text(labelled.listing(labelled.draw()), encoding="utf-8")
        return 0
    result = asyncio.run(run(given.rows, given.seed, show_wrong=given.wrong))
    _bench.show(result, as_json=given.json)
    return 1 if missed(result) else 0


if __name__ == "__main__":
    sys.exit(main())
