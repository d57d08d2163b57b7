"""A generated database before it is one: tables, columns with the rule that fills them, and the truth about each table.

Row ``n`` of every table is a function of ``n``: the key of row 7 of a parent is known without looking it up, so tables
are filled in any order, without a row passing through the client.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from psycopg import sql

Expression = sql.Composable

N: Expression = sql.SQL("n")
NULL: Expression = sql.SQL("null")


class Truth(StrEnum):
    """What a person who knows the application says of a table."""

    SUBJECT = "subject"
    OWNED = "owned"  # every row has one owner, by `Made.path`
    DECIDE = "decide"  # two people, several tables, rows without an owner, shared content: a person must say
    OTHER = "other"  # nobody's: must not be owned


class Key(StrEnum):
    """How rows are numbered: the type of the key, and how a row's number becomes it."""

    BIGINT = "bigint"
    UUID = "uuid"
    NAME = "text"  # @name:host
    TOKEN = "varchar(26)"


def pick(of: Expression, salt: int, size: int) -> Expression:
    """One of ``size`` row numbers, the same for the same ``of`` and ``salt``."""
    return sql.SQL("gen.pick({}, {}, {})").format(of, sql.Literal(salt), sql.Literal(max(size, 1)))


def key_of(kind: Key, salt: int, number: Expression) -> Expression:
    """The key of a row by its number; numbers have gaps, at other places in each table."""
    call = {Key.BIGINT: "gen.big({}, {})", Key.UUID: "gen.uuid({}, {})", Key.NAME: "gen.name({}, {})"}
    return sql.SQL(call.get(kind, "gen.token({}, {})")).format(number, sql.Literal(salt))


@dataclass
class Col:
    """One column. ``fill``: its value in row n. ``index``: an index of its own.

    ``refers``: a declared foreign key to (table, columns), with ``also`` the other columns of a composite one.
    """

    name: str
    type: str
    fill: Expression
    not_null: bool = True
    index: bool = False
    unique: bool = False
    refers: tuple[str, tuple[str, ...]] | None = None
    also: tuple[str, ...] = ()
    deferred: bool = False


@dataclass
class Made:
    """One table of the generated database, with the truth about it."""

    name: str
    pattern: str
    rows: int
    columns: list[Col]
    truth: Truth
    path: tuple[str, ...] = ()  # owner steps, as the data map writes them, from this table to the subject
    key: Key = Key.BIGINT
    key_column: str = "id"
    salt: int = 0
    primary: tuple[str, ...] = ()
    inherits: str = ""
    partitions: int = 0
    leaf_references: bool = False  # foreign keys on the leaves only
    owner_no: Callable[[Expression], Expression] | None = None  # the row number of the subject that owns a row

    def key_at(self, number: Expression) -> Expression:
        """The key of the row of that number."""
        return key_of(self.key, self.salt, number)


@dataclass
class World:
    """A whole database: its tables in the order in which they can be created."""

    family: str
    subject: Made
    tables: list[Made] = field(default_factory=list)

    def of(self, truth: Truth) -> dict[str, Made]:
        """Tables of that truth, by name."""
        return {t.name: t for t in self.tables if t.truth is truth}

    @property
    def rows(self) -> int:
        return sum(t.rows for t in self.tables)
