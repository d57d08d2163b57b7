"""What a live database looks like to domicile: tables, columns, keys, references. Facts only, read by
``postgres/introspect``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
import re

_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*\Z")
_PART = re.compile(r'"(?:[^"]|"")+"|[^".\s]+')


def quote_name(name: str) -> str:
    """Show an identifier as a person would write it: quoted only when it must be."""
    return name if _PLAIN.match(name) else '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """A schema-qualified name, unquoted inside, quoted when shown."""

    schema: str
    name: str

    @classmethod
    def parse(cls, text: str) -> TableName:
        """Read ``schema.table`` (parts may be double-quoted); a bare name is in ``public``. Raises
        ValueError."""
        parts = _PART.findall(text.strip())
        if ".".join(parts) != text.strip() or len(parts) not in (1, 2):
            raise ValueError(f"not a table name: {text!r}")
        names = [p[1:-1].replace('""', '"') if p.startswith('"') else p for p in parts]
        return cls("public", names[0]) if len(names) == 1 else cls(names[0], names[1])

    def __str__(self) -> str:
        return f"{quote_name(self.schema)}.{quote_name(self.name)}"


class TableKind(StrEnum):
    ORDINARY = "ordinary"
    PARTITIONED = "partitioned"
    VIEW = "view"
    MATERIALIZED_VIEW = "materialized view"
    FOREIGN = "foreign"


class Persistence(StrEnum):
    PERMANENT = "permanent"
    UNLOGGED = "unlogged"
    TEMPORARY = "temporary"


@dataclass(frozen=True, slots=True)
class Column:
    """One column. ``base_*`` describe the type under any domains; ``base_kind`` is ``pg_type.typtype`` of
    that type.

    ``element_*`` describe the element of an array type. ``type_name`` is ``format_type`` with modifiers, for
    comparison between sites.
    """

    name: str
    type_name: str
    base_type: str
    base_schema: str = "pg_catalog"
    base_kind: str = "b"
    element_type: str = ""
    element_schema: str = ""
    element_kind: str = ""
    has_binary: bool = True
    not_null: bool = False
    generated: bool = False
    identity: str = ""  # '', 'a' (always) or 'd' (by default)
    collation: str = ""  # '' when the default of the database
    collation_deterministic: bool = True
    default_sequence: TableName | None = None


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """A unique index over plain columns. ``partial`` or ``on_expression`` ones carry their definition in
    ``definition``."""

    name: str
    columns: tuple[str, ...]
    primary: bool = False
    partial: bool = False
    on_expression: bool = False
    nulls_not_distinct: bool = False
    definition: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    """``columns`` of ``table`` refer to ``to_columns`` of ``to_table``.

    ``declared`` is False for a reference that only measurement shows. A foreign key declared on the leaves of
    a partitioned table is reported once, on its root; ``leaves`` then names (as text) the leaves that declare
    it. ``validated`` is False where rows from before it may refer to nothing (NOT VALID).
    """

    table: TableName
    columns: tuple[str, ...]
    to_table: TableName
    to_columns: tuple[str, ...]
    name: str = ""
    on_delete: str = "a"  # pg_constraint.confdeltype: a no action, r restrict, c cascade, n set null, d set default
    deferrable: bool = False
    declared: bool = True
    leaves: tuple[str, ...] = ()
    validated: bool = field(default=True, compare=False)  # it is one reference, validated at one site or at both

    @property
    def proves(self) -> bool:
        """True when no row of the table can refer to nothing, whichever its partition and however old it is."""
        return self.declared and self.validated and not self.leaves

    def proves_now(self, table: Table) -> bool:
        """The same of the ``table`` as it stands: each of its partitions may declare it for itself, and one that comes
        later need not."""
        return self.declared and self.validated and len(self.leaves) in (0, len(table.partitions))


@dataclass(frozen=True, slots=True)
class Trigger:
    """A user trigger; ``enabled`` is ``pg_trigger.tgenabled``: O origin, D disabled, R replica, A always."""

    name: str
    enabled: str


@dataclass(frozen=True, slots=True)
class Table:
    """One table; a partitioned root stands for all its leaves (rows, bytes and references are those of the
    leaves together)."""

    name: TableName
    kind: TableKind
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    unique_keys: tuple[UniqueKey, ...] = ()
    references: tuple[Reference, ...] = ()
    index_prefixes: tuple[tuple[str, ...], ...] = ()  # columns of each usable btree/hash index, in order
    triggers: tuple[Trigger, ...] = ()
    partitions: tuple[TableName, ...] = ()
    inherits: tuple[TableName, ...] = ()
    persistence: Persistence = Persistence.PERMANENT
    row_security: bool = False
    rows_estimate: int = 0
    bytes_total: int = 0  # heap, indexes and TOAST
    bytes_heap: int = 0

    def column(self, name: str) -> Column:
        """The column of that name; KeyError when there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    @property
    def stored_columns(self) -> tuple[Column, ...]:
        """The columns that travel: all but generated ones, which the target computes again."""
        return tuple(c for c in self.columns if not c.generated)


@dataclass(frozen=True, slots=True)
class Schema:
    """A database as found: every table outside the system's and domicile's own schemas."""

    tables: Mapping[TableName, Table]
    server_version: int  # e.g. 150018, 180004
    enums: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # "schema.type" -> labels in order
    large_objects: int = 0
    encoding: str = "UTF8"
    collation: str = ""

    @property
    def inherited(self) -> Mapping[TableName, tuple[TableName, ...]]:
        """Tables from which others inherit (partitions do not count), each with those that do, by name."""
        found: dict[TableName, tuple[TableName, ...]] = {}
        for name, table in sorted(self.tables.items()):
            for parent in table.inherits:
                found[parent] = (*found.get(parent, ()), name)
        return found
