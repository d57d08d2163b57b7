"""A draft of the survey beside the truth of the world that it surveyed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from domicile.model.datamap import DataMap, Role
from domicile.model.schema import TableName
from reliability.known.spec import Truth, World


@dataclass
class Judged:
    """Counts of tables. Sums of several worlds are made with ``+``."""

    said: int = 0  # tables that the survey calls owned
    said_rightly: int = 0
    true: int = 0  # tables that are owned
    paths: int = 0  # of those said rightly, with the very path of the truth
    tables: int = 0
    asked: int = 0  # undecided, and a person must say
    to_ask: int = 0  # tables of which a person must say
    undecided: list[str] = field(default_factory=list)  # all that the survey leaves to a person, with the pattern
    wrong: list[str] = field(default_factory=list)  # said to be owned, and is not, or by another path
    missed: list[str] = field(default_factory=list)  # owned, and not said so
    silent: list[str] = field(default_factory=list)  # a person must say, and was not asked

    def __add__(self, other: Judged) -> Judged:
        return Judged(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def figures(self) -> dict[str, object]:
        """As the benchmark prints them."""
        return {
            "precision": _share(self.said_rightly, self.said),
            "recall": _share(self.said_rightly, self.true),
            "path_precision": _share(self.paths, self.said),
            "path_recall": _share(self.paths, self.true),
            "tables": self.tables,
            "owned": self.true,
            "asked_share": _share(self.asked, self.to_ask),
            "undecided": len(self.undecided),
            "undecided_rightly": self.asked,
            "wrong": self.wrong,
            "missed": self.missed,
            "silent": self.silent,
            "undecided_by_pattern": dict(Counter(u.split(": ")[1] for u in self.undecided).most_common()),
        }


def judge(world: World, found: DataMap) -> Judged:
    """What the survey found in ``world``, table by table."""
    result = Judged(tables=len(world.tables))
    if found.subject.table.name != world.subject.name:
        result.wrong.append(f"{world.family}: the subject is {world.subject.name}, not {found.subject.table}")
        result.true, result.to_ask = len(world.of(Truth.OWNED)), len(world.of(Truth.DECIDE))
        return result
    for table in world.tables:
        name, role = TableName("public", table.name), found.tables[TableName("public", table.name)].role
        label = f"{world.family} {table.name}: {table.pattern}"
        owned = table.truth is Truth.OWNED
        result.true += owned
        result.to_ask += table.truth is Truth.DECIDE
        if role is Role.UNDECIDED:
            result.undecided.append(label)
            result.asked += table.truth is Truth.DECIDE
        if role is Role.OWNED:
            result.said += 1
            result.said_rightly += owned
            right = owned and tuple(str(step) for step in found.path(name)) == table.path
            result.paths += right
            if not right:
                result.wrong.append(f"{label}; said {', '.join(map(str, found.path(name)))}")
        elif owned:
            result.missed.append(f"{label}; said {role}")
        elif role is not Role.UNDECIDED and table.truth is Truth.DECIDE:
            result.silent.append(f"{label}; said {role}")
    return result


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 1.0
