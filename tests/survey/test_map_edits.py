"""What is new is added to maps as people write them: block scalars, trailing commas, empty lists, anchors. Pure."""

from __future__ import annotations

import pytest

from domicile.model.datamap import DataMap, Role, TableRule
from domicile.model.errors import DomicileError
from domicile.model.schema import Column, Table, TableKind, TableName
from domicile.survey.classify import Looks
from domicile.survey.datamap_file import parse
from domicile.survey.resurvey import NO_ROWS, Found, Updated, update

HEAD = """\
version: 1
dataset: app
subject: {table: app.a, key: id}
tables:
  app.a: {role: subject, not_personal: [id]}
"""


def name(table: str) -> TableName:
    return TableName("app", table)


def found(text: str, columns: dict[str, tuple[str, ...]], *, rows: int = 9, unread: bool = False) -> Found:
    """A database with these columns; tables that the map lacks are new and local. What is called email is one."""
    old = parse(text)
    tables = {
        name(t): Table(name(t), TableKind.ORDINARY, tuple(Column(c, "text", "text") for c in names), rows_estimate=rows)
        for t, names in columns.items()
    }
    fresh = {n: TableRule(n, Role.LOCAL, not_personal=("id",)) for n in tables if n not in old.tables}
    looks = {
        n: Looks({c.name: "" for c in t.columns if c.name == "email"}, unread=unread, categories={"email": "user"})
        for n, t in tables.items()
    }
    return Found(DataMap(old.dataset, old.subject, {**old.tables, **fresh}), {}, tables, looks)


def updated(rules: str, columns: dict[str, tuple[str, ...]]) -> str:
    """The rules behind the subject's, after the update; a second one finds nothing."""
    text = HEAD + rules
    known = {"a": ("id",), **columns}
    tables = found(text, known)
    once = update(text, "map", tables).text
    assert update(once, "map", tables).text == once
    return once.removeprefix(HEAD)


def test_behind_a_block_scalar() -> None:
    rules = "  app.b:\n    role: owned\n    owner: >-\n      a_id ->\n      app.a(id)\n"
    next_one = "\n  # about d\n  app.d:\n    role: local\n"
    made = updated(rules + next_one, {"b": ("a_id",), "d": ("id",)})
    assert made == f"{rules}    not_personal: []\n{next_one}    not_personal: [id]\n"
    tight = f"{rules}  app.d:\n    role: local\n"
    made = updated(tight, {"b": ("a_id", "email"), "d": ("id",)})
    grown = f"{rules}    personal:\n      email: user\n    not_personal: []\n"
    assert made == f"{grown}  app.d:\n    role: local\n    not_personal: [id]\n"


def test_behind_a_block_scalar_in_a_list() -> None:
    rules = "  app.b:\n    role: local\n    not_personal:\n      - |-\n        one\n"
    next_one = "\n  # about d\n  app.d: {role: local, not_personal: [id]}\n"
    made = updated(rules + next_one, {"b": ("one", "two"), "d": ("id",)})
    assert made == f"{rules}      - two\n{next_one}"


def test_a_new_table_behind_a_block_scalar() -> None:
    rules = "  app.b:\n    role: local\n    not_personal:\n    - |\n      one\n"
    next_one = "\n\n  # about d\n  app.d: {role: local, not_personal: [id]}\n"
    made = updated(rules + next_one, {"b": ("one",), "c": ("id",), "d": ("id",)})
    assert made == f"{rules}\n  app.c:\n    role: local\n    not_personal: [id]\n{next_one}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{role: local,}", "{role: local, not_personal: [x, z]}"),
        ("{role: local, }", "{role: local, not_personal: [x, z]}"),
        ("{role: local, not_personal: [x,]}", "{role: local, not_personal: [x, z]}"),
        ("{role: local, not_personal: [x , ]}", "{role: local, not_personal: [x , z]}"),
        ("{role: local, not_personal: [ ],}", "{role: local, not_personal: [ x, z],}"),
        (
            "{role: local, not_personal: [\n      x,  # one, of two\n    ]}",
            "{role: local, not_personal: [\n      x,  # one, of two\n      z,\n    ]}",
        ),
        (
            "{role: local, not_personal: [\n      x  # one, of two\n    ]}",
            "{role: local, not_personal: [\n      x, z  # one, of two\n    ]}",
        ),
        (
            "\n    role: local\n    not_personal: [x,\n    ]",
            "\n    role: local\n    not_personal: [x,\n      z,\n    ]",
        ),
    ],
)
def test_trailing_commas(before: str, after: str) -> None:
    assert updated(f"  app.b: {before}\n", {"b": ("x", "z")}) == f"  app.b: {after}\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{role: local,}", "{role: local, personal: {email: user}, not_personal: [x]}"),
        ("{role: local, personal: []}", "{role: local, personal: {email: user}, not_personal: [x]}"),
        ("{role: local, personal: [ ],}", "{role: local, personal: { email: user}, not_personal: [x]}"),
        (
            "\n    role: local\n    personal: [  # none\n      ]",
            "\n    role: local\n    personal: {  # none\n      email: user}\n    not_personal: [x]",
        ),
        ("{role: local, personal: {}}", "{role: local, personal: {email: user}, not_personal: [x]}"),
        (
            "\n    role: local\n    personal: []",
            "\n    role: local\n    personal: {email: user}\n    not_personal: [x]",
        ),
    ],
)
def test_empty_lists_of_personal_columns(before: str, after: str) -> None:
    assert updated(f"  app.b: {before}\n", {"b": ("x", "email")}) == f"  app.b: {after}\n"


SHARED = "  app.b: {role: local, not_personal: &l [x]}\n  app.c:\n    role: local\n    not_personal: *l\n"


@pytest.mark.parametrize("grown", ["b", "c"])
def test_a_list_that_tables_share_is_not_added_to(grown: str) -> None:
    columns = {"b": ("x",), "c": ("x",)}
    with pytest.raises(DomicileError, match=f"not_personal of app.{grown} cannot be added to"):
        updated(SHARED, {**columns, grown: ("x", "email", "z")})
    whole = "  app.b: &r {role: local, not_personal: [x]}\n  app.c: *r\n"
    with pytest.raises(DomicileError, match=f"map:{6 if grown == 'b' else 7}: app.{grown} cannot be added to"):
        updated(whole, {**columns, grown: ("x", "z")})


def test_around_an_alias_other_things_are_added() -> None:
    made = updated(SHARED, {"b": ("x",), "c": ("x", "email"), "d": ("id",)})
    grown = SHARED.replace("local\n    not", "local\n    personal:\n      email: user\n    not")
    assert made == f"{grown}\n  app.d:\n    role: local\n    not_personal: [id]\n"


def test_what_is_written_in_another_way_says_so() -> None:
    text = HEAD + "  ? app.b\n  : {role: local, not_personal: [x]}\n...\n"
    tables = found(text, {"a": ("id",), "b": ("x",), "c": ("id",)})
    with pytest.raises(DomicileError, match="map is written in a way that cannot be added to; it is as it was"):
        update(text.replace("...", "# end\n..."), "map", tables)


def test_columns_that_nobody_looked_at_are_left_out() -> None:
    text = HEAD + "  app.b: {role: local, not_personal: [x]}\n  app.c: {role: local}\n"
    tables = found(text, {"a": ("id",), "b": ("x", "z", "email"), "c": ("t",)}, unread=True)
    assert update(text, "map", tables) == Updated(text, (), (), (), ("app.b.z", "app.b.email", "app.c.t"))


def test_columns_of_empty_tables_say_that_names_decided() -> None:
    text = HEAD + "  # mine\n  app.b: {role: local, not_personal: [x]}\n"
    tables = found(text, {"a": ("id",), "aa": ("id",), "b": ("x", "z", "email")}, rows=0)
    made = update(text, "map", tables).text
    assert f"  # mine\n  # {NO_ROWS}: email, z\n  app.b: {{role: local, not_personal: [x, z], personal:" in made
    assert f"  # {NO_ROWS}\n  app.aa:\n" in made
    assert update(made, "map", tables).text == made
