"""Which tables a column's name may mean: the ways in which common code bases write a reference. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

from domicile.model.schema import Column, Schema, Table, TableName
from domicile.survey import words as spelling
from domicile.survey.words import (
    IDENTIFIER_WORDS,
    SERVANT_WORDS,
    SUBJECT_WORDS,
    comparable,
    is_textual,
    singular,
)

SHARED_PREFIX_TABLES_MIN = 3  # as many tables of one first word, and it is an application's prefix: auth_user
GLUED_SUFFIXES = ("uuid", "guid", "id")  # userid, channelid
STAMP_TABLES_MIN = 20
STAMP_SHARE = 0.6  # of all tables
STEM_LETTERS_MIN = 3  # "paid" does not mean a table "pa"
KEYS_MAX = 3  # keys of a table that a column is compared with

words = cache(spelling.words)  # of a few thousand names, asked for again and again


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What a person is called in relation to a row. As the last word before "_id" it means a person, whoever is served.
PERSON_WORDS = SUBJECT_WORDS | _set(
    "owner author creator sender recipient receiver poster uploader inviter invitee assignee assigner reporter "
    "reviewer editor actor moderator follower followee participant buyer seller voter liker requester requestor "
    "initiator submitter commenter contributor applicant beneficiary payer payee passenger rider borrower lender "
    "tutor learner attendee organizer organiser visitor referrer donor reader writer signatory uid mxid"
)
# Who did something to a row, or made it for somebody: no sign of whose row it is.
_ACTORS = _set(
    "editor moderator reviewer assignee assigner approver updater modifier handler granter remover deleter "
    "publisher verifier creator"
)
_ACTED = _ACTORS | _set(
    "acting performed performer "
    "updated modified edited changed deleted removed approved accepted rejected locked closed verified reviewed "
    "assigned handled processed resolved moderated confirmed checked cancelled canceled archived published "
    "write writer create last"
)
# What an owner does: sent_by, postedBy. Whatever else is done by somebody (banned_by, created_by) may be done to a row
# of another one.
_OWNERS_DO = _set("owned held sent posted written authored submitted requested ordered placed bought purchased booked")
_GLUED_BY = ("edby", "enby")  # bannedby, hiddenby, but not standby
_GLUED_BY_WORDS = _set("sentby heldby boughtby madeby setby doneby paidby soldby wonby")
_MAKERS = _set("create created creator author inserted added entered")
_GLUED_LETTERS_MIN = 4  # shorter words end others by chance
_LONG_PERSON_WORDS = tuple(w for w in sorted(PERSON_WORDS) if len(w) >= _GLUED_LETTERS_MIN)
_LONG_ACTED_WORDS = tuple(w for w in sorted(_ACTED) if len(w) >= _GLUED_LETTERS_MIN and w not in {"last", "create"})
# Words at the end of a table's name that say nothing of its rows.
TAILS = frozenset({"entity", "table", "tbl", "record", "model"})
_HEADS = frozenset({"t", "tb", "tbl"})


class Said(IntEnum):
    """What a column's name says of a table; more is better."""

    NOTHING = 0
    PERSON = 1  # author_id, created_by: somebody
    TABLE = 2  # order_id: that table


@dataclass(frozen=True, slots=True)
class Meant:
    """A table that a column's name says, and how many of the name's words do. ``short``: without its prefix."""

    table: TableName
    words: int
    short: bool = False

    @property
    def clearness(self) -> tuple[int, bool]:
        """More words are clearer, and a table's whole name is."""
        return self.words, not self.short


class NameIndex:
    """The tables of a schema by what columns call them. Built once: a lookup costs what the column's name is long."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        firsts = Counter(words(n.name)[:1] for n in schema.tables)
        self._prefixes = {first for first, n in firsts.items() if first and n >= SHARED_PREFIX_TABLES_MIN}
        # "group_users" are a group's users where there are "groups": no application is called so.
        things = {singular(said[0]) for n in schema.tables if len(said := words(n.name)) == 1}
        self._apps = {first for first in self._prefixes if singular(first[0]) not in things}
        self._by_form: dict[str, dict[TableName, bool]] = defaultdict(dict)
        self._by_name: dict[str, set[TableName]] = defaultdict(set)
        self._said: dict[str, dict[TableName, Meant]] = {}
        for name, table in schema.tables.items():
            if referable(table):
                self._by_name[name.name.lower()].add(name)
                for form, short in self._forms(name).items():
                    self._by_form[form][name] = short

    def meant(self, table: Table, column: Column) -> list[Meant]:
        """Tables that the column's name says, the closest match first: its own schema's, its own application's, by the
        most words."""
        said = self._said.get(column.name)
        if said is None:
            said = self._said[column.name] = self._tables_said(column.name)
        app = words(table.name.name)[:1]
        length = len(said_words(column.name))
        short = {t for t, meant in said.items() if meant.short}
        # Without its prefix a table is called so in its own application, elsewhere only by all words of a column that
        # identifies something: "permissions" are no "notification_permissions".
        all_words = length if _identifies(column.name) else 0
        found = {
            t: meant.words
            for t, meant in said.items()
            if t != table.name and (not meant.short or meant.words == all_words or words(t.name)[:1] == app)
        }
        if not found:
            return []

        def order(t: TableName) -> tuple[bool, int, bool, bool, str, str]:
            elsewhere = words(t.name)[:1] != app or app not in self._apps
            return t.schema != table.name.schema, -found[t], elsewhere, t in short, t.name, t.schema

        near = sorted(found, key=order)
        return [Meant(t, found[t], t in short) for t in near if comparable_keys(column, self._schema.tables[t])]

    def _tables_said(self, column: str) -> dict[TableName, Meant]:
        """Tables that a name says, whoever has it."""
        said = said_words(column)
        # A column that is just called "order" says a position, not an order.
        if not said or words(column) == ("order",):
            return {}
        forms = {"".join(said[first:]): len(said) - first for first in range(len(said))}
        stem = glued_stem(column)
        found: dict[TableName, Meant] = {}
        for form, count in {**forms, **({singular(stem): 1} if stem else {})}.items():
            for name, short in self._by_form.get(form, {}).items():
                found.setdefault(name, Meant(name, count, short))
        # Where tables are numbered, only the very name says which one.
        if len(found) > 1 and (exact := self._exactly(column) & found.keys()):
            found = {t: found[t] for t in exact}
        return found

    def _exactly(self, column: str) -> set[TableName]:
        stem = column.lower().removesuffix("id").removesuffix("_")
        return {*self._by_name.get(stem, ()), *self._by_name.get(f"{stem}s", ())}

    def _forms(self, name: TableName) -> dict[str, bool]:
        """Ways to say a table, in the singular, without separators; with whether a prefix is left out."""
        said = tuple(singular(w) for w in words(name.name))
        ways = {said: False}
        if len(said) > 1 and said[0] in _HEADS:
            ways[said[1:]] = False
        elif len(said) > 1 and (words(name.name)[:1] in self._prefixes or _is_prefixed_subject(said)):
            ways[said[1:]] = True
        # Of "courses" one is a course, of "boxes" a box: either way may be meant.
        if words(name.name)[-1:] and words(name.name)[-1].endswith("es"):
            ways |= {(*w[:-1], words(name.name)[-1][:-1]): short for w, short in ways.items()}
        ways |= {w[:-1]: short for w, short in ways.items() if len(w) > 1 and w[-1] in TAILS}
        return {"".join(w): short for w, short in ways.items() if w}


def _is_prefixed_subject(said: tuple[str, ...]) -> bool:
    """``auth_user``, where ``user_account`` is no account of an application called user."""
    return said[-1] in SUBJECT_WORDS and said[0] not in SUBJECT_WORDS


def said_words(column: str) -> tuple[str, ...]:
    """The words of a column's name without those that only say that it identifies something."""
    return tuple(singular(w) for w in words(column) if w not in IDENTIFIER_WORDS)


def glued_stem(column: str) -> str:
    """``user`` of ``userid``, or ''."""
    last = words(column)[-1:] or ("",)
    for suffix in GLUED_SUFFIXES:
        if last[0].endswith(suffix) and len(last[0]) >= len(suffix) + STEM_LETTERS_MIN:
            return last[0].removesuffix(suffix)
    return ""


def _identifies(column: str) -> bool:
    """``user_id``, ``userid``, ``author``; not ``permissions``."""
    return spelling.looks_like_identifier(column) or bool(glued_stem(column)) or says_person(column)


def _apart(column: str) -> tuple[str, ...]:
    """The words of a name; ``createdby`` are two, ``createdbyid`` three."""
    found: list[str] = []
    for word in words(column):
        one, suffix = word, ""
        for ending in GLUED_SUFFIXES:
            if word.endswith(f"by{ending}"):
                one, suffix = word.removesuffix(ending), ending
                break
        if one.endswith(_GLUED_BY) or one in _GLUED_BY_WORDS:
            found += [one[:-2], "by", *([suffix] if suffix else [])]
        else:
            found.append(word)
    return tuple(found)


def _done_by(column: str) -> str:
    """What somebody did: ``banned`` of ``banned_by``, ``bannedById``, ``banned_by_user_id``; or ''."""
    found = _apart(column)
    return found[found.index("by") - 1] if "by" in found[1:] and found[0] != "by" else ""


def says_person(column: str) -> bool:
    """``author_id``, ``creatorid``, ``created_by``, ``assigned_to``: somebody, whoever that is."""
    found = _apart(column)
    while found and found[-1] != "by" and found[-1] in IDENTIFIER_WORDS:
        found = found[:-1]
    if len(found) > 1 and (found[-1] == "by" or (found[-1] in {"to", "with"} and found[-2].endswith("ed"))):
        return True
    if found and found[-1] == "by":
        return False
    said, stem = said_words(column), glued_stem(column)
    return bool(said) and (said[-1] in PERSON_WORDS or bool(stem and stem.endswith(_LONG_PERSON_WORDS)))


def acts_on(column: str) -> bool:
    """``banned_by``, ``last_editor_id``, ``created_by``: somebody who did something to the row, or made it; not whose
    it is."""
    said = said_words(column)
    if not says_person(column) and not (said and said[-1] in _ACTORS):
        return False
    if done := _done_by(column):
        return done not in _OWNERS_DO or "last" in said
    stem = glued_stem(column)
    return bool(_ACTED.intersection(_apart(column))) or bool(stem and stem.endswith(_LONG_ACTED_WORDS))


def stamps(schema: Schema) -> frozenset[str]:
    """Columns that nearly every table has to say who wrote the row: ``created_by``, ``create_uid``. They do not say
    whose it is."""
    tables = [t for t in schema.tables.values() if len(t.columns) > 1]
    counted = Counter(c.name for t in tables for c in t.columns)
    most = {name for name, n in counted.items() if n >= STAMP_TABLES_MIN and n >= STAMP_SHARE * len(tables)}
    return frozenset(n for n in most if _MAKERS.intersection((*_apart(n), glued_stem(n))) and says_person(n))


def is_about_persons(name: TableName) -> bool:
    """Whether a table's name says that its rows are people: served ones, or those who serve."""
    said = [w for w in words(name.name) if w not in TAILS]
    return bool(said) and bool({said[-1], singular(said[-1])} & (PERSON_WORDS | SERVANT_WORDS))


def referable(table: Table) -> tuple[str, ...]:
    """Columns that identify a row each: the primary key first, then unique ones."""
    # A unique column that is itself a reference says whose the row is, not which row it is.
    referring = {c for r in table.references for c in r.columns}
    keys = [
        k.columns[0]
        for k in table.unique_keys
        if len(k.columns) == 1 and not k.partial and not k.on_expression and k.columns[0] not in referring
    ]
    first = [*table.primary_key] if len(table.primary_key) == 1 else []
    # Unique, but null in some rows, still identifies those that have a value.
    never_null = [k for k in keys if table.column(k).not_null]
    return tuple(dict.fromkeys([*first, *never_null, *keys]))


def comparable_keys(column: Column, table: Table) -> tuple[str, ...]:
    """Keys of a table that values of the column could be."""
    return tuple(k for k in referable(table) if comparable(column, table.column(k)))[:KEYS_MAX]


def is_telling(column: Column) -> bool:
    """Whether a value that is found elsewhere is found there on purpose: texts and UUIDs are no small numbers."""
    return column.base_type == "uuid" or is_textual(column)


def likely_references(schema: Schema, index: NameIndex) -> Mapping[TableName, set[TableName]]:
    """For each table, those whose columns' names or foreign keys say it; columns that say of every table's rows who
    wrote them do not count. Nothing is measured."""
    referring: dict[TableName, set[TableName]] = defaultdict(set)
    stamped = stamps(schema)
    for table in schema.tables.values():
        declared = {r.columns[0] for r in table.references if len(r.columns) == 1}
        for reference in table.references:
            if reference.columns[0] not in stamped:
                referring[reference.to_table].add(table.name)
        for column in table.columns:
            if column.name not in declared | stamped and len(column.name) > 2:
                meant = index.meant(table, column)
                if len(meant) == 1 or (meant and meant[0].clearness > meant[1].clearness):
                    referring[meant[0].table].add(table.name)
    return {t: found - {t} for t, found in referring.items()}
