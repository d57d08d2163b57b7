"""The data map: for every table of a dataset, whose rows these are and what a move does with them.

An *owner path* is the one chain of references from a row to its subject. Each table declares only its first
step; the chain goes on through the table it leads to, so that a correction in one place holds everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
import re

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import Reference, TableName, quote_name
from domicile.model.site import DatasetName

PATH_STEPS_MAX = 12  # a longer chain of references is a mistake in the map, or a cycle


class Role(StrEnum):
    """What a move does with a table's rows."""

    SUBJECT = "subject"  # one row is one subject
    OWNED = "owned"  # every row has exactly one owner, found by its owner path
    SHARED = "shared"  # referenced by rows of several subjects; see SharedPolicy
    REFERENCE = "reference"  # the same at every site: never moved, its presence at the target is checked
    LOCAL = "local"  # belongs to the site, never moves
    UNDECIDED = "undecided"  # nobody has said yet: stops the plan


class SharedPolicy(StrEnum):
    """What happens to a shared row that a moving subject's row refers to."""

    PRESENT = "present"  # it must be at the target already, put there by other means
    COPY = "copy"  # one that the target lacks is copied there; of tables without personal columns
    REFUSE = "refuse"  # a plan that would need the row is refused


class PartyPolicy(StrEnum):
    """What happens where a row refers to a second person, who does not live where the row does."""

    REFUSE = "refuse"  # a plan in which this happens is refused
    STUB = "stub"  # the site has a row with that person's key, and nothing else of theirs
    NULL = "null"  # the reference is set to null where the row lives, before the row moves


class Direction(StrEnum):
    """Which side of the step holds the reference."""

    TO = "->"  # this table refers to the next: at most one owner by construction
    FROM = "<-"  # the next table refers to this one: single ownership is measured, not given


@dataclass(frozen=True, slots=True)
class OwnerStep:
    """One equality join towards the subject: ``columns`` of this table equal ``to_columns`` of
    ``to_table``."""

    columns: tuple[str, ...]
    direction: Direction
    to_table: TableName
    to_columns: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> OwnerStep:
        """Read ``order_id -> store.orders(id)`` or ``address_id <- public.customer(address_id)``. Raises
        ValueError."""
        match = _STEP.match(text.strip())
        if match is None:
            raise ValueError(f"not an owner step: {text!r}; write: column -> schema.table(column)")
        columns, to_columns = _names(match["cols"]), _names(match["to"])
        if len(columns) != len(to_columns):
            raise ValueError(f"{len(columns)} columns against {len(to_columns)} in owner step {text!r}")
        return cls(columns, Direction(match["arrow"]), TableName.parse(match["table"]), to_columns)

    def __str__(self) -> str:
        columns = ", ".join(map(quote_name, self.columns))
        to_columns = ", ".join(map(quote_name, self.to_columns))
        return f"{columns} {self.direction} {self.to_table}({to_columns})"


# A name is quoted, or has no blank, quote, comma, bracket or arrow in it. Possessive (*+, ++), so that no text takes
# long to refuse.
_NAME = r'(?:"(?:[^"]|"")++"|(?:(?!->|<-)[^",()\s])++)'
_NAMES = rf"{_NAME}(?:\s*+,\s*+{_NAME})*+"
_STEP = re.compile(
    rf'(?P<cols>{_NAMES})\s*+(?P<arrow>->|<-)\s*+(?P<table>(?:"(?:[^"]|"")++"|[^"()\s])++)\s*+\(\s*+(?P<to>{_NAMES})\s*+\)\Z'
)
_EACH = re.compile(_NAME)


def _names(text: str) -> tuple[str, ...]:
    return tuple(n[1:-1].replace('""', '"') if n.startswith('"') else n for n in _EACH.findall(text))


@dataclass(frozen=True, slots=True)
class TableRule:
    """What the map says of one table.

    ``categories`` gives each column of ``personal`` its categories (`model.categories`), or is empty: then the map only
    lists the columns.
    """

    table: TableName
    role: Role
    owner: OwnerStep | None = None  # for OWNED only
    policy: SharedPolicy | None = None  # for SHARED only
    personal: tuple[str, ...] = ()  # columns that hold personal values, for reports and policy
    object_keys: tuple[str, ...] = ()  # columns that hold keys of objects
    references: tuple[str, ...] = ()  # references without a foreign key, as owner-step text, proven like declared ones
    parties: Mapping[OwnerStep, PartyPolicy] = field(default_factory=dict, hash=False)  # references to a second person
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    not_personal: tuple[str, ...] | None = None  # columns looked at and found not personal; None: nobody has said
    others_not_personal: bool = False  # instead of a list: whatever column is listed nowhere, also one to come
    identities: Mapping[str, str] = field(default_factory=dict, hash=False)  # column -> what a person asks by (email)

    def is_classified(self, column: str) -> bool:
        """Whether the map says of this column what it is. Always True where it does not list what is not personal."""
        if self.not_personal is None or self.others_not_personal:
            return True
        return column in self.personal or column in self.object_keys or column in self.not_personal


@dataclass(frozen=True, slots=True)
class SubjectRule:
    """The subject table, its single-column key, and the SQL expression (over alias ``subject``) that gives
    the market, if any."""

    table: TableName
    key: str
    market: str = ""


@dataclass(frozen=True, slots=True)
class DataMap:
    """The whole map of one dataset. ``digest`` identifies the file's meaning, not its comments."""

    dataset: DatasetName
    subject: SubjectRule
    tables: Mapping[TableName, TableRule]
    digest: str = ""
    line_of: Mapping[TableName, int] = field(default_factory=dict, compare=False)

    def in_scope(self) -> tuple[TableName, ...]:
        """Subject and owned tables, the subject first, then by length of path and name: parents before
        children."""
        names = [t for t, r in self.tables.items() if r.role in (Role.SUBJECT, Role.OWNED)]
        return tuple(sorted(names, key=lambda t: (len(self.path(t)), t)))

    def copied(self) -> tuple[TableName, ...]:
        """Shared tables whose rows are copied where a site lacks them, by name."""
        return tuple(t for t in self.of_role(Role.SHARED) if self.tables[t].policy is SharedPolicy.COPY)

    def written(self) -> tuple[TableName, ...]:
        """Every table in which a move writes rows: those in scope, then the copied ones."""
        return (*self.in_scope(), *self.copied())

    def of_role(self, role: Role) -> tuple[TableName, ...]:
        """Tables of that role, by name."""
        return tuple(sorted(t for t, r in self.tables.items() if r.role is role))

    def policy_of(self, reference: Reference) -> PartyPolicy:
        """What to do where the reference leads to a person who does not live where the row does."""
        rule = self.tables.get(reference.table)
        step = OwnerStep(reference.columns, Direction.TO, reference.to_table, reference.to_columns)
        return rule.parties.get(step, PartyPolicy.REFUSE) if rule else PartyPolicy.REFUSE

    def path(self, table: TableName) -> tuple[OwnerStep, ...]:
        """The owner path of an in-scope table, row to subject; empty for the subject table itself.

        Raises DomicileError (map-invalid) when the chain is broken or runs in a circle.
        """
        steps: list[OwnerStep] = []
        at = table
        while (rule := self._rule(at)).role is not Role.SUBJECT:
            if rule.role is not Role.OWNED or rule.owner is None:
                raise self._broken(table, f"the owner path of {table} leads to {at}, whose role is {rule.role}")
            steps.append(rule.owner)
            if len(steps) > PATH_STEPS_MAX:
                raise self._broken(table, f"the owner path of {table} runs in a circle")
            at = rule.owner.to_table
        return tuple(steps)

    def _rule(self, table: TableName) -> TableRule:
        if table not in self.tables:
            raise self._broken(table, f"{table} is on an owner path but not in the data map")
        return self.tables[table]

    def _broken(self, table: TableName, message: str) -> DomicileError:
        return DomicileError(
            ErrorCode.MAP_INVALID,
            message,
            facts={"table": str(table), "line": self.line_of.get(table, 0)},
            hint="Correct the owner of the table in the data map, then run: domicile map check",
        )
