"""Tables drawn from the kinds: people's and things', with their rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.labelled.kinds import NEGATIVE, OPAQUE, PERSONAL, PLACE, Kind
from benchmarks.labelled.values import words
from domicile.model.datamap import Role

SEED = 20140714
TABLES = 300
ROWS = 40
PEOPLE = words(
    "customer patient employee guest passenger app_user member subscriber phone_unit sim_activation orders booking "
    "payment "
    "login_event consent postal_contact delivery prescription sms_log incoming_sms ticket application enrolment "
    "claim visit"
)
THINGS = [
    "warehouse",
    "store_branch",
    "product",
    "catalogue_item",
    "job_run",
    "deployment",
    "price_list",
    "server",
    "airport",
    "shipment_rate",
]
PLACES = ("warehouse", "store_branch", "airport")
LISTED = Path(__file__).with_name("columns.tsv")


@dataclass(frozen=True, slots=True)
class LabelledColumn:
    """One column of the set; ``label`` is the category that is right, '' for not personal."""

    name: str
    type_name: str
    label: str
    values: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class LabelledTable:
    """A table of the set, with the role that a data map would give it."""

    name: str
    role: Role
    columns: tuple[LabelledColumn, ...]


def draw(seed: int = SEED, tables: int = TABLES) -> list[LabelledTable]:
    """The set. Two thirds of the tables are people's."""
    dice = Random(seed)
    return [_table(dice, number, people=number % 3 != 2) for number in range(tables)]


def listing(tables: list[LabelledTable]) -> str:
    """The columns with their labels, a line each."""
    lines = [f"{t.name}\t{t.role}\t{c.name}\t{c.type_name}\t{c.label or '-'}" for t in tables for c in t.columns]
    return "\n".join(["table\trole\tcolumn\ttype\tcategory", *lines]) + "\n"


def _table(dice: Random, number: int, *, people: bool) -> LabelledTable:
    about = dice.choice(PEOPLE if people else THINGS)
    kinds = list(_people(dice, about) if people else _things(dice, about))
    columns: dict[str, LabelledColumn] = {}
    for kind in kinds:
        name = dice.choice(kind.names)
        if name not in columns:
            junk = dice.choice((0.0, 0.0, 0.08)) if kind.types == ("text", "varchar(200)") else 0.0
            values = tuple(_value(dice, kind, junk) for _ in range(ROWS))
            columns[name] = LabelledColumn(name, dice.choice(kind.types), kind.label, values)
    role = Role.OWNED if people else Role.LOCAL
    return LabelledTable(f"{about}_{number:03d}", role, tuple(columns.values()))


def _value(dice: Random, kind: Kind, junk: float) -> str | None:
    """A value, or what people type where they want to give none."""
    if dice.random() < junk:
        return dice.choice(("-", "n/a", "unknown", "x"))
    return None if dice.random() < 0.05 else kind.make(dice)


def _people(dice: Random, about: str) -> Iterator[Kind]:
    fitting = [k for k in PERSONAL if not k.only or about in k.only]
    yield from dice.sample(fitting, 5)
    if dice.random() < 0.25:
        yield dice.choice(OPAQUE)
    if dice.random() < 0.3:  # an address whole: its parts say little alone
        yield next(k for k in PERSONAL if k.label == "user.contact.address.street")
        yield from (k for k in PERSONAL if k.only == ("postal",))
    yield from dice.sample(NEGATIVE, 6)


def _things(dice: Random, about: str) -> Iterator[Kind]:
    if about in PLACES:
        yield from PLACE
    yield from dice.sample(NEGATIVE, 8)
