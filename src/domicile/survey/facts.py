"""What the survey knows before it decides anything: the schema, and the references that hold, declared or proven."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

from domicile.model.datamap import OwnerStep
from domicile.model.schema import Reference, Schema, Table, TableName
from domicile.survey.classify import Looks
from domicile.survey.measure import Measure
from domicile.survey.names import acts_on, stamps
from domicile.survey.undeclared import Undeclared

T = TypeVar("T")


@dataclass
class Facts:
    """A schema with one subject. ``proven`` is complete before `incoming` is asked for."""

    schema: Schema
    measure: Measure
    looks: Mapping[TableName, Looks]
    subject: TableName
    key: str
    # References that no foreign key declares, but that values prove: followed like declared ones.
    proven: dict[TableName, list[Undeclared]] = field(default_factory=lambda: defaultdict(list))
    # Believed, not proven: candidates.
    guessed: dict[TableName, list[Undeclared]] = field(default_factory=lambda: defaultdict(list))
    # Measurements that a second walk would repeat.
    known: dict[Hashable, Any] = field(default_factory=dict)

    def table(self, name: TableName) -> Table:
        return self.schema.tables[name]

    def references(self, name: TableName) -> tuple[Reference, ...]:
        """All references out of a table that may be followed, declared ones first."""
        return (*self.table(name).references, *(u.reference_of(name) for u in self.proven.get(name, ())))

    def proof(self, table: TableName, step: OwnerStep) -> Undeclared | None:
        """What shows a step that no foreign key declares."""
        return next((u for u in self.proven.get(table, ()) if u.step == step), None)

    def acts_only(self, step: OwnerStep) -> bool:
        """A step to the subject by a column that says who did something to the row, which need not be whose it is."""
        name = step.columns[0]
        return step.to_table == self.subject and (acts_on(name) or name in self.stamps)

    @cached_property
    def incoming(self) -> Mapping[TableName, list[Reference]]:
        """References into each table, declared and proven, in the order of the referring tables' names."""
        found: dict[TableName, list[Reference]] = defaultdict(list)
        for name in sorted(self.schema.tables):
            for reference in self.references(name):
                found[reference.to_table].append(reference)
        return found

    async def once(self, about: Hashable, measuring: Callable[[], Awaitable[T]]) -> T:
        """A measurement, or what it was when it was asked before."""
        if about not in self.known:
            self.known[about] = await measuring()
        return cast("T", self.known[about])

    @cached_property
    def stamps(self) -> frozenset[str]:
        """Columns that say of nearly every table's rows who wrote them."""
        return stamps(self.schema)

    @cached_property
    def inherited(self) -> Mapping[TableName, TableName]:
        """Tables that another one inherits, each with one that does."""
        return {parent: heirs[0] for parent, heirs in self.schema.inherited.items()}
