"""`domicile survey --update`: what is new in the database is added to a map that people keep; nothing else is touched.

The file is edited as text, at the places that need it: whoever reviews the difference sees the new tables and columns,
and decisions, comments and layout stay as they are. Nothing is taken out; what the database lacks is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from textwrap import wrap
from typing import Any

from domicile.model.datamap import DataMap, Role, TableRule
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import Table, TableKind, TableName
from domicile.survey import datamap_file
from domicile.survey.classify import Looks, with_columns
from domicile.survey.datamap_text import MEANING_OF, WIDTH, Comments, commented, rule_lines
from domicile.survey.drift import gone_columns, unclassified
from domicile.survey.text_edits import Edits, TableNode, table_nodes

NO_ROWS = "without rows, so classified by names only"


@dataclass(frozen=True, slots=True)
class Updated:
    """The map with what was added. ``columns``: as ``schema.table.column``. ``gone``: in the map, not in the database;
    kept. ``unread``: new columns that were left out, because no value of their table could be looked at."""

    text: str
    tables: tuple[TableName, ...]
    columns: tuple[str, ...]
    gone: tuple[str, ...]
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What a survey found: the draft of all tables, and what the columns of those in `needs_looks` look like."""

    draft: DataMap
    comments: Comments
    tables: Mapping[TableName, Table]
    looks: Mapping[TableName, Looks]


def needs_looks(old: DataMap, tables: Mapping[TableName, Table]) -> tuple[TableName, ...]:
    """Tables of the map whose columns must be looked at: there are some that it does not classify."""
    present = {n: r for n, r in old.tables.items() if n in tables}
    return tuple(n for n, r in present.items() if r.not_personal is None or unclassified(r, tables[n]))


def update(text: str, name: str, found: Found) -> Updated:
    """The map of file ``name`` with the tables and columns of ``found`` that it lacks. Twice gives the same as once.

    Raises DomicileError (map-invalid) where ``text`` is no map, or is written so that nothing can be added there.
    """
    root = datamap_file.compose(text, name)
    old = datamap_file.read(root)
    edits, nodes = Edits(text, root), table_nodes(root)
    by_name = {n.table: n for n in nodes}
    added: dict[TableName, tuple[str, ...]] = {}
    unread: list[str] = []
    for table in needs_looks(old, found.tables):
        if found.looks[table].unread:
            unread += [f"{table}.{c}" for c in _wanted(old.tables[table], found)]
        else:
            added[table] = _add_columns(edits, by_name[table], old.tables[table], found)
    fresh = {n: r for n, r in found.draft.tables.items() if n not in old.tables}
    rules = _consistent(old, fresh)
    comments = {n: _comments(found, fresh[n], rules[n]) for n in rules}
    for role in Role:
        _add_tables(edits, nodes, {n: r for n, r in sorted(rules.items()) if r.role is role}, comments)
    made = edits.apply()
    _require_as_meant(made, name, old, rules, added)
    gone = [str(n) for n in old.tables if n not in found.tables]
    gone += [f"{n}.{c}" for n, r in old.tables.items() if n in found.tables for c in gone_columns(r, found.tables[n])]
    columns = tuple(f"{n}.{c}" for n, names in added.items() for c in names)
    return Updated(made, tuple(sorted(rules)), columns, tuple(gone), tuple(unread))


def _require_as_meant(
    made: str,
    name: str,
    old: DataMap,
    rules: Mapping[TableName, TableRule],
    added: Mapping[TableName, tuple[str, ...]],
) -> None:
    """Read the new text: it must say what the old one said, and what was added, and nothing else. YAML can be written
    in more ways than are known here."""
    try:
        new = datamap_file.parse(made, name)
    except DomicileError:
        new = None
    if (
        new is None
        or new.subject != old.subject
        or new.tables.keys() != old.tables.keys() | rules.keys()
        or any(new.tables[n].role is not r.role or new.tables[n].owner != r.owner for n, r in rules.items())
        or any(not _only_added(r, new.tables[n], added.get(n, ())) for n, r in old.tables.items())
    ):
        raise DomicileError(
            ErrorCode.MAP_INVALID,
            f"{name} is written in a way that cannot be added to; it is as it was",
            facts={"file": name},
            hint="Make a new map with: domicile survey --output FILE; then carry the decisions over.",
        )


def _only_added(before: TableRule, after: TableRule, columns: tuple[str, ...]) -> bool:
    """Whether a table's rule differs in the classification of those columns only."""
    unlisted: dict[str, Any] = {"personal": (), "categories": {}, "object_keys": (), "not_personal": None}
    if replace(before, **unlisted) != replace(after, **unlisted):
        return False
    if any(after.categories.get(c) != said for c, said in before.categories.items()):
        return False
    lists = [
        (before.personal, after.personal),
        (before.object_keys, after.object_keys),
        (before.not_personal or (), after.not_personal or ()),
    ]
    new = [c for was, now in lists for c in now if c not in was]
    return all(set(was) <= set(now) for was, now in lists) and set(new) == set(columns)


def _wanted(rule: TableRule, found: Found) -> tuple[str, ...]:
    """The columns that the map does not classify; where it has no list yet, all but those it names."""
    return unclassified(replace(rule, not_personal=rule.not_personal or ()), found.tables[rule.table])


def _add_columns(edits: Edits, node: TableNode, rule: TableRule, found: Found) -> tuple[str, ...]:
    """Classify a table's new columns in their place: those that look personal, and all others."""
    table = found.tables[rule.table]
    looked = with_columns(TableRule(rule.table, rule.role), table, found.looks[rule.table])
    wanted = _wanted(rule, found)
    personal = {c: looked.categories[c] for c in looked.personal if c in wanted}
    keys = [c for c in looked.object_keys if c in wanted]
    plain = [c for c in looked.not_personal or () if c in wanted]
    edits.add_personal(node, personal)
    edits.add_names(node, "object_keys", keys)
    edits.add_names(node, "not_personal", plain)
    names = tuple(dict.fromkeys((*personal, *keys, *plain)))
    if names and _is_empty(table):
        edits.note(node, commented(wrap(f"{NO_ROWS}: {', '.join(names)}", WIDTH), "  "))
    return names


def _is_empty(table: Table) -> bool:
    return table.rows_estimate == 0 and table.kind is not TableKind.FOREIGN


def _consistent(old: DataMap, fresh: Mapping[TableName, TableRule]) -> dict[TableName, TableRule]:
    """The new rules; undecided where an owner path leads through a table that people have decided otherwise. There is
    one subject already."""
    rules = {n: _undecided(r) if r.role is Role.SUBJECT else r for n, r in fresh.items()}
    while broken := [n for n in rules if not _path_leads(replace(old, tables={**old.tables, **rules}), n)]:
        rules |= {n: _undecided(rules[n]) for n in broken}
    return rules


def _path_leads(data_map: DataMap, table: TableName) -> bool:
    if data_map.tables[table].role is not Role.OWNED:
        return True
    try:
        data_map.path(table)
    except DomicileError:
        return False
    return True


def _undecided(rule: TableRule) -> TableRule:
    return replace(rule, role=Role.UNDECIDED, owner=None, policy=None)


def _comments(found: Found, fresh: TableRule, rule: TableRule) -> list[str]:
    said = list(found.comments.get(rule.table, ()))
    if _is_empty(found.tables[rule.table]) and not found.tables[rule.table].bytes_heap:  # else it may be unread
        said.insert(1, NO_ROWS)  # behind the size
    if rule == fresh:
        return said
    candidate = [f"candidate: role: owned, owner: {fresh.owner}"] if fresh.owner else []
    return [*said, "its owner path leads through a table that this map has decided otherwise", *candidate]


def _add_tables(
    edits: Edits, nodes: list[TableNode], rules: Mapping[TableName, TableRule], comments: Mapping[TableName, list[str]]
) -> None:
    """Add tables of one role, each behind the one it follows by name."""
    if not rules:
        return
    role = next(iter(rules.values())).role
    same = [n for n in nodes if n.role is role]
    for table, rule in rules.items():
        lines = [*commented(comments[table], "  "), *rule_lines(rule)]
        before = [n for n in same if n.table < table]
        if before:
            edits.behind(before[-1], ["", *lines])
        elif same:
            edits.in_front(same[0], [*lines, ""])
        else:
            order = list(Role)
            others = [n for n in nodes if order.index(n.role) < order.index(role)] or nodes
            header = ["", f"  # --- {role}: {MEANING_OF[role]}"] if table == next(iter(rules)) else []
            edits.behind(others[-1], [*header, "", *lines])
