"""What a plan must refuse, by name: planted in a drawing that would otherwise move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random

from domicile.model.schema import TableName
from reliability.schemas import kinds
from reliability.schemas.names import Namer, quoted
from reliability.schemas.shape import Col, Identity, Layout, Ref, Shop, Tab

Twist = Callable[[Random, Shop], Shop | None]


def draw(dice: Random, shop: Shop) -> Shop:
    """The shop with one twist; as it is where none fits."""
    twist = dice.choice(list(TWISTS.values()))
    return twist(dice, shop) or shop


def _replaced(shop: Shop, tab: Tab, new: Tab) -> tuple[Tab, ...]:
    return tuple(new if one is tab else one for one in shop.tables)


def _shown(tab: Tab) -> str:
    """The table's name as messages have it."""
    return str(TableName(*tab.name))


def _with_col(tab: Tab, col: Col) -> Tab:
    at = len(tab.cols)
    here, there = (Layout((*one.order, at), one.by, one.parts) for one in tab.layouts)
    return replace(tab, cols=(*tab.cols, col), layouts=(here, there))


def _no_identity(dice: Random, shop: Shop) -> Shop | None:
    """Rows that the log cannot tell apart: cold only."""
    found = [t for t in shop.tables if t.identity is Identity.FULL]
    if not found:
        return None
    tab = dice.choice(found)
    tables = _replaced(shop, tab, replace(tab, identity=Identity.NONE))
    return replace(shop, tables=tables, cold=True, refused={"live": _shown(tab)})


def _cold_key(dice: Random, shop: Shop) -> Shop | None:
    """A subject's key of which equal values may differ in bytes: cold only."""
    tab = shop.subject
    key = tab.col(shop.subject_key)
    found = dict(kinds.COLD_KEYS)
    names = sorted(found)
    name = dice.choice(names)
    kind = found[name]
    if tab.layouts[0].by or tab.layouts[1].by or tab.key != (key.name,):
        return None
    new = Col(key.name, kind.type, kind="key " + name, not_null=True, fresh=True, family=kind.family)
    tables = [replace(tab, cols=tuple(new if c is key else c for c in tab.cols))]
    for one in shop.tables[1:]:
        renamed = dict[str, Col]()
        for ref in (one.owner, *one.loose):
            if ref is not None and ref.to == tab.name:
                renamed |= {c: Col(c, kind.type, not_null=one.col(c).not_null, family=kind.family) for c in ref.columns}
        tables.append(replace(one, cols=tuple(renamed.get(c.name, c) for c in one.cols)))
    # What refers to those in turn would need the type as well.
    if any(len(shop.path(t)) > 1 for t in shop.tables) or shop.crossing or any(t.loose for t in shop.tables):
        return None
    return replace(shop, tables=tuple(tables), cold=True, by_file=False, refused={"live": _shown(tab)})


def _always(dice: Random, shop: Shop) -> Shop | None:
    tab = dice.choice(shop.tables)
    tables = _replaced(shop, tab, replace(tab, trigger="always"))
    return replace(shop, tables=tables, refused={"live": _shown(tab), "cold": _shown(tab)})


def _extra_column(dice: Random, shop: Shop) -> Shop | None:
    tab = dice.choice(shop.tables)
    statement = f'alter table {quoted(*tab.name)} add column "only here" integer'
    site = dice.choice(("source_only", "target_only"))
    return replace(shop, **{site: (statement,)}, refused={"live": _shown(tab), "cold": _shown(tab)})  # type: ignore[arg-type]


def _unlogged(dice: Random, shop: Shop) -> Shop | None:
    found = [t for t in shop.tables if not t.layouts[0].by and not _referred(shop, t)]
    if not found:
        return None
    tab = dice.choice(found)
    statement = f"alter table {quoted(*tab.name)} set unlogged"
    return replace(shop, source_only=(statement,), refused={"live": _shown(tab), "cold": _shown(tab)})


def _referred(shop: Shop, tab: Tab) -> bool:
    return any(r.to == tab.name for t in shop.tables for r in (t.owner, *t.loose) if r is not None)


def _inherited(dice: Random, shop: Shop) -> Shop | None:
    """A table that inherits from one that moves: at the source, where the map must list it, or at the target."""
    at = dice.choice((0, 1))
    found = [t for t in shop.tables if not t.layouts[at].by]
    if not found:
        return None
    tab = dice.choice(found)
    heir = (tab.name[0], "heir of it")
    statements = (f"create table {quoted(*heir)} () inherits ({quoted(*tab.name)})",)
    refused = {"live": _shown(tab), "cold": _shown(tab)}
    if at:
        return replace(shop, target_only=statements, refused=refused)
    return replace(shop, source_only=statements, roles={**shop.roles, heir: "local"}, refused=refused)


def _large_objects(dice: Random, shop: Shop) -> Shop | None:
    tab = dice.choice(shop.tables)
    names = Namer(dice)
    for col in tab.cols:
        names.of(col.name)
    col = Col(names.fresh(), "oid", kind="oid")
    tables = _replaced(shop, tab, _with_col(tab, col))
    filled = {**shop.kinds, "oid": kinds.Kind("oid", kinds.one_of("1", "42"))}
    refused = {"live": _shown(tab), "cold": _shown(tab)}
    return replace(shop, tables=tables, kinds=filled, source_only=("select lo_create(0)",), refused=refused)


def _label(_: Random, shop: Shop) -> Shop | None:
    """An enum that has a label more at the source."""
    kind = shop.kinds.get("enum")
    if kind is None or not any(c.type in (kind.type, kind.type + "[]") for t in shop.tables for c in t.cols):
        return None
    statement = f"alter type {kind.type} add value 'only here'"
    return replace(shop, source_only=(statement,), refused={"live": "only here", "cold": "only here"})


def _against_the_arrow(_: Random, shop: Shop) -> Shop | None:
    """A table that the subjects name, and not the other way round: cold only."""
    if shop.tables[0].layouts[0].by or shop.tables[0].layouts[1].by:
        return None
    name = (shop.schemas[0], "against the arrow")
    key = Col("id", "bigint", kind="key int8", not_null=True, fresh=True, family="int")
    inward = Ref(("id",), shop.subject.name, ("named by",), None, inward=True)
    tab = Tab(
        name,
        (key, Col("what", "text", kind="text")),
        ("id",),
        Identity.PRIMARY,
        (Layout((0, 1)), Layout((1, 0))),
        inward,
    )
    subject = _with_col(shop.subject, Col("named by", "bigint", family="int"))
    subject = replace(subject, indexes=(*subject.indexes, 'create unique index on {table} ("named by")'))
    tables = (subject, tab, *shop.tables[1:])
    return replace(shop, tables=tables, cold=True, refused={"live": _shown(tab)})


TWISTS: Mapping[str, Twist] = {
    "no identity": _no_identity,
    "cold key": _cold_key,
    "always": _always,
    "extra column": _extra_column,
    "unlogged": _unlogged,
    "inherited": _inherited,
    "large objects": _large_objects,
    "label": _label,
    "against the arrow": _against_the_arrow,
}
