"""Which columns look personal, and which look like keys of objects: by name, by type, and by their values.

Precision first: a category is given where the name says it and the values do not deny it, or where the values alone
leave no doubt. The form of values is looked at on the server. Where a form proves nothing (a run of
digits), up to `VALUES_MAX` values are judged in this process' memory (`survey.checks`); none is kept, shown or logged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from psycopg import sql

from domicile.model.datamap import Role, TableRule
from domicile.model.schema import Column, Table, TableKind
from domicile.survey import forms
from domicile.survey import vocabulary as v
from domicile.survey.forms import ENOUGH_SHARE, ENOUGH_VALUES, Form, Forms
from domicile.survey.hints import Hint, hint, tokens
from domicile.survey.measure import Measure, sample
from domicile.survey.words import SERVANT_WORDS, is_textual, words

DENIED_SHARE = 0.2  # fewer values than this have the form that the name promises: the name means something else
VALUES_MAX = 40  # of a column, judged in memory

_OBJECT_KEY_NAMES = frozenset({("object", "key"), ("storage", "key"), ("blob", "key")})
_OF_PEOPLE_ONLY = frozenset({v.USERNAME, v.PROFILE, v.JOB, v.IMAGE, v.IMPRECISE})  # where they are weak
_FAX = (v.FAX, v.PHONE)  # such a number looks like any other
_PEOPLE = (v.NAME, v.BIRTH, v.PHONE, v.USERNAME, v.PASSWORD, v.NATIONAL, v.PASSPORT)


@dataclass(frozen=True, slots=True)
class Looks:
    """What a table's columns look like: name of the column -> why. ``strong`` ones say that the table is
    about people; ``categories`` has the category of each strong and weak one."""

    strong: dict[str, str] = field(default_factory=dict)
    weak: dict[str, str] = field(default_factory=dict)
    object_keys: dict[str, str] = field(default_factory=dict)
    unread: bool = False  # values could not be looked at: the names alone speak
    categories: dict[str, str] = field(default_factory=dict)


def personal_of(looks: Looks, role: Role) -> dict[str, str]:
    """The columns to list as personal in a table of that role, with their categories: the weak ones only where the rows
    are a subject's."""
    kept = {**looks.strong, **looks.weak} if role in (Role.SUBJECT, Role.OWNED) else looks.strong
    return {name: looks.categories[name] for name in kept}


def with_columns(rule: TableRule, table: Table, looks: Looks) -> TableRule:
    """The rule with every column of its table classified, in the table's order.

    References are not listed: their columns are classified where they lead. What may be personal waits until the role
    of an undecided table is known.
    """
    personal = personal_of(looks, rule.role)
    elsewhere = {*personal, *looks.object_keys, *referring(table)}
    if rule.role is Role.UNDECIDED:
        elsewhere |= looks.weak.keys()
    if rule.role is Role.SUBJECT:
        elsewhere |= set(table.primary_key)
    names = [c.name for c in table.columns]
    return replace(
        rule,
        personal=tuple(n for n in names if n in personal),
        categories={n: (personal[n],) for n in names if n in personal},
        object_keys=tuple(n for n in names if n in looks.object_keys),
        not_personal=tuple(n for n in names if n not in elsewhere),
    )


def referring(table: Table) -> set[str]:
    """Columns that a declared foreign key is made of."""
    return {c for r in table.references for c in r.columns}


def strong_category(column: Column, table: Table) -> str:
    """The category that name and type alone say for sure, or ''."""
    found = hint(column, table.name)
    return found.category if found and not found.weak and not found.unsure else ""


async def look(measure: Measure, table: Table, markets: Sequence[str] = ()) -> Looks:
    """Classify the columns of one table. Columns of references are left out: what they point at is classified there.

    ``markets``: countries (ISO 3166) whose telephone numbers may stand in rows that do not say their country.
    """
    columns = [c for c in table.columns if c.name not in referring(table)]
    hints = {c.name: h for c in columns if (h := hint(c, table.name))}
    looked_at = _may_have_rows(table)
    textual = [c for c in columns if looked_at and is_textual(c)]
    seen = await forms.look(measure, table, [c.name for c in textual]) if textual else {}
    if seen is None:
        return _judge(table, columns, hints, {}, {}, unread=True)
    asked = [c for c in columns if looked_at and _needs_values(hints.get(c.name), seen.get(c.name))]
    values = await _values(measure, table, asked) if asked else {}
    if not values:
        return _judge(table, columns, hints, seen, {}, unread=values is None)
    from domicile.survey import judge  # it loads the countries' plans of numbers: not for every command

    judged = {c.name: judge.category(table, c, hints.get(c.name), values[c.name], markets) for c in asked}
    return _judge(table, columns, hints, seen, judged, unread=False)


def with_more(first: Looks, again: Looks) -> Looks:
    """What either look has found: the second may have seen other rows."""
    strong = {**again.strong, **first.strong}
    weak = {name: why for name, why in {**again.weak, **first.weak}.items() if name not in strong}
    object_keys = {**again.object_keys, **first.object_keys}
    # Of a column that the first was sure of, its word counts; else that of the second, which knew more.
    categories = {**first.categories, **again.categories, **{n: first.categories[n] for n in first.strong}}
    return Looks(strong, weak, object_keys, first.unread, categories)


def asks_for_countries(table: Table, looks: Looks) -> bool:
    """Whether columns may hold telephone numbers, for all that their names and their own rows say: the countries of the
    subjects may tell."""
    if looks.unread or not _may_have_rows(table):
        return False
    known = {*looks.categories, *looks.object_keys, *referring(table)}
    hints = (hint(c, table.name) for c in table.columns if c.name not in known)
    return any(h is not None and h.unsure and h.category == v.PHONE for h in hints)


def _may_have_rows(table: Table) -> bool:
    """Of thousands of tables many are empty. One that may not be read can have bytes and no known rows."""
    return table.rows_estimate > 0 or table.bytes_heap > 0 or table.kind is TableKind.FOREIGN


def _needs_values(found: Hint | None, seen: Forms | None) -> bool:
    """Whether only the values themselves can tell."""
    if found is not None and found.unsure:
        return True
    if seen is None or seen.filled < ENOUGH_VALUES:
        return False
    checked = (Form.PLUS_PHONE, Form.DIGITS, Form.CARD, Form.IBAN, Form.CPF, Form.CHINESE_ID)
    return seen.share(*checked) >= ENOUGH_SHARE and not (
        found is not None
        and not found.weak
        and found.category in (v.PHONE, v.IMEI, v.MSISDN)
        and seen.share(Form.DIGITS) == 0
    )


async def _values(
    measure: Measure, table: Table, columns: Sequence[Column]
) -> Mapping[str, list[tuple[str, str]]] | None:
    """Some values of each column, with the country of the row where a column says it; {}: there are none; None: it took
    too long or is forbidden."""
    country = next((c.name for c in table.columns if _says_country(c)), None)
    names = [c.name for c in columns] + ([country] if country else [])
    row = await measure.row(
        sql.SQL("select {} from {} as t").format(
            sql.SQL(", ").join(
                sql.SQL("pg_catalog.array_agg(left(t.{}::text, 64))").format(sql.Identifier(n)) for n in names
            ),
            sample(table, [sql.Identifier(n) for n in dict.fromkeys(names)], forms.LOOKED_AT_MAX),
        )
    )
    if row is None:
        return None
    if row[0] is None:
        return {}
    countries = [(c or "").strip().upper() for c in row[-1]] if country else [""] * len(row[0])
    found = {}
    for column, values in zip(columns, row, strict=False):
        pairs = dict.fromkeys((x.strip(), c) for x, c in zip(values, countries, strict=True) if x and x.strip())
        found[column.name] = list(pairs)[:VALUES_MAX]
    return found


def _says_country(column: Column) -> bool:
    said = words(column.name)
    return (
        is_textual(column)
        and bool(said)
        and (said[-1] in ("country", "market", "land", "pais") or said[-2:] in (("country", "code"), ("iso", "code")))
    )


def _judge(
    table: Table,
    columns: Sequence[Column],
    hints: Mapping[str, Hint],
    seen: Mapping[str, Forms],
    judged: Mapping[str, str],
    *,
    unread: bool,
) -> Looks:
    looks = Looks(unread=unread)
    weak: dict[str, Hint] = {}
    for column in columns:
        name, found, form = column.name, hints.get(column.name), seen.get(column.name)
        if tuple(words(name)[-2:]) in _OBJECT_KEY_NAMES:
            looks.object_keys[name] = "key of an object, by its name"
        if by_values := _by_values(name, form, judged.get(name, ""), table):
            category, why = by_values
            # The name may say more: not only a telephone number, but the one that the network knows (MSISDN).
            more = found is not None and (found.category.startswith(category) or (found.category, category) == _FAX)
            said = found.category if found is not None and more else category
            looks.strong[name], looks.categories[name] = why, said
        elif form and form.filled >= ENOUGH_VALUES and form.share(Form.OBJECT_KEY) >= ENOUGH_SHARE:
            looks.object_keys[name] = f"key of an object, by the form of {form.said(Form.OBJECT_KEY)} values"
        elif found is not None and not found.unsure and not (form and _denied(found, form)):
            if found.weak:
                weak[name] = found
            else:
                looks.strong[name] = f"by its {found.by}"
                looks.categories[name] = found.category
    about_people = _about_people(table, looks)
    for column in columns:
        found = weak.get(column.name)
        if column.name == "name" and column.name not in looks.categories and about_people and is_textual(column):
            found = Hint(v.NAME, weak=True)
        if found is not None and not about_people and found.category in _OF_PEOPLE_ONLY:
            continue
        if found is not None and _plausible(found, column.name, looks, weak):
            looks.weak[column.name] = f"by its {found.by}"
            looks.categories[column.name] = found.category
    return looks


def _by_values(name: str, form: Forms | None, judged: str, table: Table) -> tuple[str, str] | None:
    """The category that values show, and by how many."""
    if judged:
        return judged, "by its values"
    if form is None or form.filled < ENOUGH_VALUES:
        return None
    said = {*tokens(name), *tokens(table.name.name)}
    for kind, category in ((Form.EMAIL, v.EMAIL), (Form.IP, v.IP), (Form.MAC, v.DEVICE), (Form.PASSWORD, v.PASSWORD)):
        if form.share(kind) >= ENOUGH_SHARE:
            machine = kind in (Form.IP, Form.MAC) and v.MACHINE_WORDS.intersection(said)
            message = (
                kind is Form.EMAIL and {"message", "thread"}.intersection(tokens(name)[:1]) and name.endswith("id")
            )
            return None if machine or message else (category, f"by the form of {form.said(kind)} values")
    return None


def _denied(found: Hint, form: Forms) -> bool:
    """Whether the values are something else than the name says. Hashed or encrypted ones deny nothing."""
    if form.filled < ENOUGH_VALUES:
        return False
    if found.category == v.STATE:
        return form.share(Form.STATUS) >= DENIED_SHARE
    expected = forms.EXPECTED.get(found.category)
    if expected is None:
        return False
    return form.share(*expected, Form.OPAQUE) < DENIED_SHARE


def _about_people(table: Table, looks: Looks) -> bool:
    said = {*tokens(table.name.name)} - {"account"}
    if v.PLACE_WORDS.intersection(said):
        return False
    by_columns = any(c.startswith(_PEOPLE) for c in looks.categories.values())
    return by_columns or bool((v.PERSON_WORDS | SERVANT_WORDS | {"address", "addresses"}).intersection(said))


def _plausible(found: Hint, name: str, looks: Looks, weak: Mapping[str, Hint]) -> bool:
    """``city`` and ``state`` are part of an address only where other parts are."""
    if not found.category.startswith(f"{v.ADDRESS}.") and not (found.category == v.ADDRESS and name == "lines"):
        return True
    others = [c for n, c in looks.categories.items() if n != name]
    others += [h.category for n, h in weak.items() if n != name]
    return any(c.startswith(v.ADDRESS) for c in others)
