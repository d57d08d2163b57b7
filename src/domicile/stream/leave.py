"""Rows that came to an owner outside the wave leave the destination, with everything that hangs from them.

They are named by key and must still belong to the wave there, or to nobody, when a parent has gone before them in the
same transaction; what hangs from them is found by its owner path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg import sql
from psycopg.pq.abc import PGresult

from domicile.model.datamap import OwnerStep
from domicile.postgres.ownership import Fragment, column, ident
from domicile.stream.change import Key
from domicile.stream.dml import Dml
from domicile.stream.params import TEXT_OID, array, by_column, field
from domicile.stream.pipeline import Statement

_DELETE = "delete from {table} as t using {rows} {chain} where {conditions} returning {key}"


def leave(dmls: Sequence[Dml], no: int, keys: Sequence[Key]) -> Iterator[tuple[int, Statement]]:
    """The deletions, children before parents, each with the number of its table; their answers are for `gone`.

    Rows that are not there, or are somebody else's, are passed over: so it is idempotent. Not for a table without a
    key: nothing can hang from its rows, and a DELETE of the row does the same.
    """
    root = dmls[no]
    places = root.table.key_at
    oids = [root.columns[at].oid if root.binary else TEXT_OID for at in places]
    arrays = [array(column, oid) for column, oid in zip(by_column(keys, len(places)), oids, strict=True)]
    for dml in reversed(dmls):
        steps = _steps(dml, root)
        if steps is None:
            continue
        text = _text(dml, root, steps).as_bytes(None)
        yield dml.table.no, Statement(text, arrays, binary=True, binary_answer=root.binary)


def gone(answer: PGresult) -> list[Key]:
    """The keys of the rows that a deletion removed."""
    columns = range(answer.nfields)
    return [b"".join(field(answer.get_value(row, at)) for at in columns) for row in range(answer.ntuples)]


def _steps(dml: Dml, root: Dml) -> list[OwnerStep] | None:
    """The steps of the owner path from the table up to ``root``; None when it does not lead there."""
    if dml is root:
        return []
    steps: list[OwnerStep] = []
    for step in dml.data_map.path(dml.table.name):
        steps.append(step)
        if step.to_table == root.table.name:
            return steps
    return None


def _text(dml: Dml, root: Dml, steps: Sequence[OwnerStep]) -> Fragment:
    """Aliases: ``t`` is the row that goes; ``s1``, ``s2``, ... lead from it to the root's row."""
    chain: list[Fragment] = []
    conditions: list[Fragment] = []
    at = "t"
    for number, step in enumerate(steps, 1):
        following = f"s{number}"
        chain.append(sql.SQL(", {} as {}").format(ident(step.to_table), sql.Identifier(following)))
        conditions += (
            sql.SQL("{} = {}").format(column(following, theirs), column(at, ours))
            for ours, theirs in zip(step.columns, step.to_columns, strict=True)
        )
        at = following
    conditions += (root.match(at), root.nobody_elses(at))
    return sql.SQL(_DELETE).format(
        table=ident(dml.table.name),
        rows=root.rows(root.table.key_at),
        chain=sql.SQL("").join(chain),
        conditions=sql.SQL(" and ").join(conditions),
        key=sql.SQL(", ").join(column("t", name) for name in dml.table.key),
    )
