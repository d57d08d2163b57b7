"""Valid documents to begin with: plans, data maps and configurations, different ones from each throw of the dice."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from functools import cache
import json
from random import Random
from typing import Any

from domicile.model.datamap import DataMap, Direction, OwnerStep, Role, SharedPolicy, SubjectRule, TableRule
from domicile.model.plan import Check, Cohort, Format, Limits, Mode, Plan, SignUps, TablePlan, WavePlan, WayBack
from domicile.model.schema import TableName
from domicile.model.site import DatasetName, SiteName
from domicile.planner import plan_file
from reliability.fuzz.dice import MARKER, odd_text, one_in

_NAMES = ("id", "user_id", "Größe", 'Odd "name"', "select", "a b", "x" * 63, "a,b", "a.b", "_", "N", "y", "台灣")
_HEX = "0123456789abcdef"
PASSWORDS = (f"password={MARKER}", f"password='{MARKER} x'", f"password = {MARKER} sslpassword={MARKER}")
URLS = (f"postgresql://u:{MARKER}@h:5/d", f"postgres://u@h/d?password={MARKER}", f"postgresql://u:{MARKER}%40@[::1]/d")


def plan(dice: Random) -> Plan:
    """A sealed plan. Its condition holds the marker: it may name a person."""
    waves, at = [], 0
    for no in range(1, dice.randrange(1, 4) + 1):
        size = dice.randrange(1, 1_000)
        waves.append(WavePlan(no, at, at + size, size, dice.randrange(10**6), dice.randrange(10**9), dice.random()))
        at += size
    tables = tuple(
        TablePlan(
            _table(dice), _columns(dice), dice.randrange(10**6), dice.randrange(10**9), dice.choice([*Format]), "why"
        )
        for _ in range(dice.randrange(1, 4))
    )
    checks = tuple(
        Check(f"check {n}", one_in(dice, 2), "found", "do this", one_in(dice, 2), mode=dice.choice([None, *Mode]))
        for n in range(dice.randrange(3))
    )
    made = Plan(
        version=1,
        dataset=DatasetName(_word(dice)),
        source=SiteName(_word(dice)),
        target=SiteName(_word(dice)),
        cohort=Cohort(f"email = '{MARKER}'", dice.choice(("", f"/{MARKER}.txt")), at, _digest(dice)),
        tables=tables,
        waves=tuple(waves),
        checks=checks,
        limits=Limits(streams=dice.randrange(1, 64)),
        config_digest=_digest(dice),
        map_digest=_digest(dice),
        source_schema_digest=_digest(dice),
        target_schema_digest=_digest(dice),
        estimate_basis="measured",
        made_at="2026-01-01T00:00:00+00:00",
        way_back=dice.choice([*WayBack]),
        sign_ups=dice.choice([*SignUps]),
    )
    return plan_file.seal(made)


def plan_document(dice: Random) -> dict[str, Any]:
    """A plan as data: one of a hundred."""
    return _plan_document(dice.randrange(100))


@cache
def _plan_document(number: int) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(plan_file.dump(plan(Random(number))))
    return document


def data_map(dice: Random) -> DataMap:
    """A data map whose owner paths lead to the subject. Names are any that PostgreSQL takes."""
    subject = _table(dice)
    rules: dict[TableName, TableRule] = {subject: TableRule(subject, Role.SUBJECT, personal=_columns(dice))}
    owned = [subject]
    for _ in range(dice.randrange(5)):
        name = _table(dice)
        if name in rules:
            continue
        role = dice.choice((Role.OWNED, Role.OWNED, Role.SHARED, Role.REFERENCE, Role.LOCAL, Role.UNDECIDED))
        step = _step(dice, dice.choice(owned), dice.choice([*Direction])) if role is Role.OWNED else None
        references = (str(_step(dice, subject, Direction.TO)),) if one_in(dice, 3) else ()
        policy = dice.choice([*SharedPolicy]) if role is Role.SHARED else None
        personal, keys = _columns(dice), _columns(dice)
        if policy is SharedPolicy.COPY:  # nothing in it is anybody's
            rules[name] = TableRule(name, role, step, policy, references=references, not_personal=personal)
        else:
            rules[name] = TableRule(name, role, step, policy, personal, keys, references)
        if role is Role.OWNED:
            owned.append(name)
    market = dice.choice(("", "subject.market", f"case email\n  when '{MARKER}' then 'a' end", "  x  ||\t'y'"))
    rule = SubjectRule(subject, _name(dice), market.strip())
    return DataMap(DatasetName(_word(dice)), rule, rules)


def map_document(dice: Random) -> dict[str, Any]:
    """A data map as data, as a person would write it: one of a thousand."""
    return _map_document(dice.randrange(1_000))


@cache
def _map_document(number: int) -> dict[str, Any]:
    made = data_map(Random(number))
    tables: dict[str, Any] = {}
    for name, rule in made.tables.items():
        fields: dict[str, Any] = {"role": str(rule.role)}
        if rule.owner is not None:
            fields["owner"] = str(rule.owner)
        if rule.policy is not None:
            fields["policy"] = str(rule.policy)
        listed = {"personal": rule.personal, "object_keys": rule.object_keys, "references": rule.references}
        if rule.not_personal is not None:
            fields["not_personal"] = list(rule.not_personal)
        tables[str(name)] = fields | {key: list(values) for key, values in listed.items() if values}
    subject = {"table": str(made.subject.table), "key": made.subject.key, "market": made.subject.market or "market"}
    return {"version": 1, "dataset": str(made.dataset), "subject": subject, "tables": tables}


def config_document(dice: Random) -> dict[str, Any]:
    """A configuration as data; its connection strings hold the marker as password."""
    sites = {
        _word(dice) + str(n): {"jurisdiction": "CN", "conninfo": conninfo(dice), "provider": "x", "description": "y"}
        for n in range(dice.randrange(1, 4))
    }
    names = list(sites)
    held: list[str] | dict[str, str | None] = names
    if one_in(dice, 2):
        held = {name: dice.choice((None, conninfo(dice), "port=7")) for name in names}
    limits = {
        field.name: field.default for field in dataclasses.fields(Limits) if field.name != "streams" and one_in(dice, 4)
    }
    return {
        "version": 1,
        "control": dice.choice(("embedded", conninfo(dice))),
        "state": dice.choice((".domicile", "/tmp/x y", "ä")),
        "sites": sites,
        "datasets": {"store": {"map": "store.map.yaml", "dbname": "store", "at": held}},
        "limits": limits,
    }


def conninfo(dice: Random) -> str:
    """A connection string with the marker as password."""
    if one_in(dice, 3):
        return dice.choice(URLS)
    parts = [f"host={_word(dice)}", f"port={dice.randrange(1, 65_536)}", "dbname=d", "user='u v'", "sslmode=require"]
    kept = [part for part in parts if one_in(dice, 2)]
    return dice.choice((" ", "  ", "\n")).join([*kept, dice.choice(PASSWORDS)])


ENVIRON: Mapping[str, str] = {"PW": MARKER, "WHOLE": f"host=h password={MARKER}", "EMPTY": "", "ODD": "a'b \\c"}


def _table(dice: Random) -> TableName:
    return TableName(dice.choice(("public", "store", "Odd schema")), _name(dice) + str(dice.randrange(50)))


def _columns(dice: Random) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_name(dice) for _ in range(dice.randrange(1, 4))))


def _step(dice: Random, to: TableName, direction: Direction) -> OwnerStep:
    count = dice.choice((1, 1, 1, 2))
    return OwnerStep(tuple(_name(dice) for _ in range(count)), direction, to, tuple(_name(dice) for _ in range(count)))


def _name(dice: Random) -> str:
    """A name that PostgreSQL would take: UTF-8, not empty, without NUL."""
    if one_in(dice, 30):
        return odd_text(dice).encode(errors="ignore").decode().replace("\0", "")[:63] or "x"
    return dice.choice(_NAMES)


def _word(dice: Random) -> str:
    return dice.choice(("shop", "beijing", "singapore", "a-b_c", "x1"))


def _digest(dice: Random) -> str:
    return "".join(dice.choice(_HEX) for _ in range(64))
