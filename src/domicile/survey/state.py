"""The draft in the making: roles decided so far, with the reasons that become comments in the file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from domicile.model.datamap import Direction, OwnerStep, Role, TableRule
from domicile.model.schema import Reference, Table, TableKind, TableName
from domicile.survey.classify import with_columns
from domicile.survey.facts import Facts
from domicile.survey.measure import Path

CANDIDATE = "candidate:"


@dataclass
class State(Facts):
    """What is decided; grows while the survey goes on; `discover.draft` turns it into a data map."""

    # Tables with an owner path whose rows several subjects use, with that path's first step and what shows it.
    hubs: dict[TableName, tuple[OwnerStep, str]] = field(default_factory=dict)
    # Tables whose rows have several owners by equally good steps.
    ties: dict[TableName, list[OwnerStep]] = field(default_factory=dict)
    rules: dict[TableName, TableRule] = field(default_factory=dict)
    comments: dict[TableName, list[str]] = field(default_factory=lambda: defaultdict(list))
    # Undecided tables that have an owner, only not a certain path to it: what hangs from them waits too.
    waiting: set[TableName] = field(default_factory=set)

    def forget(self, tables: Iterable[TableName]) -> None:
        """Take back what was decided and said of tables, to look at them again."""
        for table in tables:
            self.rules.pop(table, None)
            self.comments.pop(table, None)
            self.waiting.discard(table)
            self.ties.pop(table, None)

    def pending(self) -> list[Table]:
        """Tables that hold rows of their own and have no role yet, by name."""
        return [t for n, t in sorted(self.schema.tables.items()) if n not in self.rules and holds_rows(t)]

    def say_last(self) -> None:
        """Move the candidates to the end of each comment, where a person chooses."""
        for table, said in self.comments.items():
            self.comments[table] = sorted(said, key=lambda line: line.startswith(CANDIDATE))

    def say(self, table: TableName, *comments: str) -> None:
        """Add reasons to a table's comment; one that is there already is not repeated."""
        self.comments[table] += [c for c in comments if c not in self.comments[table]]

    def decide(self, table: TableName, role: Role, owner: OwnerStep | None = None) -> None:
        """Give a table its role, or another one."""
        self.rules[table] = with_columns(TableRule(table, role, owner), self.table(table), self.looks[table])

    def leave_open(self, table: TableName, candidates: Sequence[OwnerStep] = ()) -> None:
        """Undecided, with owner steps for the reader to choose from."""
        self.decide(table, Role.UNDECIDED)
        for step in candidates:
            self.say(table, f"{CANDIDATE} role: owned, owner: {step}")
        if candidates:
            self.waiting.add(table)

    def in_scope(self, table: TableName) -> bool:
        return table in self.rules and self.rules[table].role in (Role.SUBJECT, Role.OWNED)

    def path(self, table: TableName) -> Path:
        """The owner path of an in-scope table, from the roles decided so far."""
        steps: list[OwnerStep] = []
        while table != self.subject:
            owner = self.rules[table].owner
            assert owner is not None, table
            steps.append(owner)
            table = owner.to_table
        return tuple(steps)

    def passes(self, table: TableName, through: TableName) -> bool:
        """Whether the owner path of ``table`` leads through another table."""
        return through in {table, *(s.to_table for s in self.path(table))} if self.in_scope(table) else False

    def by_inverse(self, table: TableName) -> bool:
        """Whether the owner path has a ``<-`` step, so that a row may have no owner though its columns are
        filled."""
        return any(s.direction is Direction.FROM for s in self.path(table))


def holds_rows(table: Table) -> bool:
    """Views and materialised views are made of other tables' rows: they need no role."""
    return table.kind not in (TableKind.VIEW, TableKind.MATERIALIZED_VIEW)


def step_to(reference: Reference) -> OwnerStep:
    """The reference as an owner step."""
    return OwnerStep(reference.columns, Direction.TO, reference.to_table, reference.to_columns)


def step_from(reference: Reference) -> OwnerStep:
    """The reference as an owner step of the table that it refers to."""
    return OwnerStep(reference.to_columns, Direction.FROM, reference.table, reference.columns)
