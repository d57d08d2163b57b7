"""Files of fideslang datasets as data maps: categories, references and identities. What a map cannot carry is counted
and said, never dropped in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import yaml

from domicile.model.categories import is_category, nearest
from domicile.model.datamap import DataMap, Direction, OwnerStep, Role, SubjectRule, TableRule
from domicile.model.schema import TableName
from domicile.model.site import DatasetName
from domicile.survey import datamap_file
from domicile.survey.fides_text import UNKNOWN
from domicile.survey.yaml_nodes import Node, Source

_FIELD_META = ("references", "identity", "primary_key")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the operator says where the file does not: the subject table, its key, the schema of the collections."""

    subject: str = ""
    key: str = ""
    schema: str = "public"


@dataclass(frozen=True, slots=True)
class Imported:
    """The map as text, and what it could not carry, a sentence each."""

    data_map: DataMap
    text: str
    lost: tuple[str, ...]

    @property
    def undecided(self) -> tuple[TableName, ...]:
        """What a person must still decide."""
        return self.data_map.of_role(Role.UNDECIDED)


@dataclass(slots=True)
class _Column:
    categories: tuple[str, ...] = ()
    plain: bool = False  # system.*: says nothing about a person
    identity: str = ""
    primary_key: bool = False
    references: list[tuple[str, str, str, Node]] = field(default_factory=list)  # dataset, collection, field, where


@dataclass(slots=True)
class _Reading:
    """What is read while the file is walked through."""

    wanted: Wanted
    tables: dict[TableName, dict[str, _Column]] = field(default_factory=dict)
    datasets: dict[str, str] = field(default_factory=dict)  # fides_key -> schema
    parents: dict[str, str] = field(default_factory=dict)  # categories that the file defines itself
    structure: Node | None = None  # what `fides_text` wrote under meta
    lost: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)

    def lose(self, what: str, where: Node) -> None:
        self.lost[what] += 1
        self.first.setdefault(what, where.line)

    def rest(self, node: Node, known: tuple[str, ...], what: str) -> dict[str, Node]:
        """The known keys of a mapping; others that say something are lost."""
        found = {}
        for key, value in node.pairs(what):
            name = key.text("a key")
            if name in known:
                found[name] = value
            elif not _empty(value):
                self.lose(f"{name} of {what}", key)
        return {k: v for k, v in found.items() if not _empty(v)}


def to_map(text: str, name: str, wanted: Wanted) -> Imported:
    """The datasets of a file as one data map. Raises DomicileError (map-invalid) with file and line."""
    root = Source(name, "Correct the file, then import it again.").compose(text)
    reading = _Reading(wanted)
    top = reading.rest(root, ("dataset", "data_category"), "the file")
    if "dataset" not in top:
        raise root.refuse("there is no dataset in it", "A fideslang file has a list under: dataset")
    for item in top["data_category"].items("data_category") if "data_category" in top else ():
        _read_category(reading, item)
    for item in top["dataset"].items("dataset"):
        _read_dataset(reading, item)
    made = _from_structure(reading) if reading.structure else _from_references(reading, root)
    made = replace(made, digest=datamap_file.digest_of(made.dataset, made.subject, made.tables))
    said = [f"{what} ({times} times, first in line {reading.first[what]})" for what, times in reading.lost.items()]
    header = [f"Made of {name} by `domicile map import`. Compare it with a database: domicile map check"]
    return Imported(made, datamap_file.dump(made, None, header), tuple(said))


def _empty(node: Node) -> bool:
    raw = node.raw
    if isinstance(raw, yaml.ScalarNode):
        return raw.tag == "tag:yaml.org,2002:null" or raw.value == "default_organization"
    return isinstance(raw, yaml.CollectionNode) and not raw.value


def _read_category(reading: _Reading, node: Node) -> None:
    given = reading.rest(node, ("fides_key", "parent_key", "name", "description"), "data_category")
    if "fides_key" in given and "parent_key" in given:
        reading.parents[given["fides_key"].text("fides_key")] = given["parent_key"].text("parent_key")


def _read_dataset(reading: _Reading, node: Node) -> None:
    known = ("fides_key", "name", "collections", "fides_meta", "fidesops_meta", "meta", "data_categories")
    given = reading.rest(node, known, "dataset")
    if "fides_key" not in given or "collections" not in given:
        raise node.refuse("a dataset has a fides_key and collections")
    schema = reading.wanted.schema
    meta = given.get("fides_meta", given.get("fidesops_meta"))
    if meta is not None and (found := reading.rest(meta, ("namespace",), "fides_meta of dataset")):
        namespace = reading.rest(found["namespace"], ("schema",), "namespace")
        schema = namespace["schema"].text("schema") if "schema" in namespace else schema
    if "meta" in given and isinstance(given["meta"].raw, yaml.MappingNode):
        own = reading.rest(given["meta"], ("domicile",), "meta of dataset")
        reading.structure = own.get("domicile", reading.structure)
    reading.datasets[given["fides_key"].text("fides_key")] = schema
    inherited = _categories(reading, given["data_categories"]) if "data_categories" in given else ((), False)
    for item in given["collections"].items("collections"):
        _read_collection(reading, item, schema, inherited)


def _read_collection(reading: _Reading, node: Node, schema: str, inherited: tuple[tuple[str, ...], bool]) -> None:
    given = reading.rest(node, ("name", "fields", "data_categories", "fides_meta"), "collection")
    if "name" not in given:
        raise node.refuse("a collection has a name")
    if "fides_meta" in given:
        reading.rest(given["fides_meta"], (), "fides_meta of collection")
    table = TableName(schema, given["name"].text("name"))
    if table in reading.tables:
        raise given["name"].refuse(f"{table} comes twice")
    own = _categories(reading, given["data_categories"]) if "data_categories" in given else inherited
    columns = reading.tables[table] = {}
    for item in given["fields"].items("fields") if "fields" in given else ():
        name, column = _read_field(reading, item)
        if name in columns:
            raise item.refuse(f"{name} comes twice in {table}")
        if not column.categories and not column.plain:
            column.categories, column.plain = own
        columns[name] = column


def _read_field(reading: _Reading, node: Node) -> tuple[str, _Column]:
    given = reading.rest(node, ("name", "data_categories", "fides_meta", "fidesops_meta", "fields"), "field")
    if "name" not in given:
        raise node.refuse("a field has a name")
    column = _Column()
    if "data_categories" in given:
        column.categories, column.plain = _categories(reading, given["data_categories"])
    meta = given.get("fides_meta", given.get("fidesops_meta"))
    if meta is not None:
        said = reading.rest(meta, _FIELD_META, "fides_meta of field")
        column.identity = said["identity"].text("identity") if "identity" in said else ""
        column.primary_key = "primary_key" in said and said["primary_key"].text("primary_key").lower() == "true"
        for item in said["references"].items("references") if "references" in said else ():
            column.references.append(_read_reference(reading, item))
    for item in given["fields"].items("fields") if "fields" in given else ():
        _, inner = _read_field(reading, item)
        column.categories = tuple(dict.fromkeys((*column.categories, *inner.categories)))
        reading.lose("fields within a field (their categories are given to the column)", item)
    return given["name"].text("name"), column


def _read_reference(reading: _Reading, node: Node) -> tuple[str, str, str, Node]:
    given = reading.rest(node, ("dataset", "field", "direction"), "reference")
    if "dataset" not in given or "field" not in given:
        raise node.refuse("a reference has a dataset and a field")
    collection, _, column = given["field"].text("field").partition(".")
    if not column:
        raise given["field"].refuse("a reference's field is written: collection.field")
    return given["dataset"].text("dataset"), collection, column, node


def _categories(reading: _Reading, node: Node) -> tuple[tuple[str, ...], bool]:
    """The categories of personal data among them; and whether all the others say that nothing is personal."""
    found: dict[str, None] = {}
    plain = False
    for item in node.items("data_categories"):
        said = text = item.text("a category")
        while not is_category(text) and not _is_system(text) and text in reading.parents:
            text = reading.parents[text]
        if text != said:
            reading.lose(f"category {said}, which the file defines itself: its parent {text} is taken", item)
        if _is_system(text):
            plain = True
            if text != "system.operations":
                reading.lose(f"category {text}: the column is listed as not personal", item)
        elif is_category(text):
            found[text] = None
        else:
            near = nearest(text)
            raise item.refuse(f"{text!r} is no category of personal data", f"Did you mean {near!r}?" if near else "")
    return tuple(found), plain and not found


def _is_system(category: str) -> bool:
    return category == "system" or category.startswith("system.")


def _from_structure(reading: _Reading) -> DataMap:
    """A map that `fides_text` wrote: its structure, with the categories and identities of the fields."""
    assert reading.structure is not None, "found under meta"
    old = datamap_file.read(reading.structure)
    rules = {n: _with_columns(r, reading.tables.get(n, {})) for n, r in old.tables.items()}
    for name in reading.tables.keys() - rules.keys():
        rules[name] = _with_columns(TableRule(name, Role.UNDECIDED, not_personal=()), reading.tables[name])
    return replace(old, tables=rules)


def _with_columns(rule: TableRule, columns: Mapping[str, _Column]) -> TableRule:
    identities = {n: c.identity for n, c in columns.items() if c.identity}
    categories = {n: c.categories for n, c in columns.items() if c.categories}
    plain = tuple(n for n, c in columns.items() if c.plain)
    if rule.not_personal is not None and not rule.others_not_personal:
        rule = replace(rule, not_personal=plain)
    if set(categories.values()) == {(UNKNOWN,)} and set(categories) == set(rule.personal):
        return replace(rule, identities=identities)  # the map only lists them
    return replace(rule, personal=tuple(categories), categories=categories, identities=identities)


def _from_references(reading: _Reading, root: Node) -> DataMap:
    """A map of any other file: the subject where the identities are, and owner paths along the references."""
    subject = _subject(reading, root)
    rules = {subject.table: TableRule(subject.table, Role.SUBJECT, not_personal=())}
    steps = _steps(reading)
    reached = [subject.table]
    for at in reached:
        for table, step in steps:
            if step.to_table == at and table not in rules:
                rules[table] = TableRule(table, Role.OWNED, step, not_personal=())
                reached.append(table)
    for table in sorted(reading.tables.keys() - rules.keys()):
        rules[table] = TableRule(table, Role.UNDECIDED, not_personal=())
    for table, step in steps:
        rule = rules[table]
        if step.direction is Direction.TO and step != rule.owner and str(step) not in rule.references:
            rules[table] = replace(rule, references=(*rule.references, str(step)))
    filled = {n: _with_columns(r, reading.tables[n]) for n, r in rules.items()}
    return DataMap(DatasetName(next(iter(reading.datasets))), subject, filled)


def _subject(reading: _Reading, root: Node) -> SubjectRule:
    with_identity = [t for t, columns in reading.tables.items() if any(c.identity for c in columns.values())]
    try:
        named = [TableName.parse(reading.wanted.subject)] if reading.wanted.subject else with_identity
    except ValueError as error:
        raise root.refuse(str(error), "Write it with its schema: --subject store.customer") from None
    if len(named) != 1 or named[0] not in reading.tables:
        several = ", ".join(map(str, named)) or "none"
        raise root.refuse(f"the subject table is not clear; with an identity: {several}", "Name it: --subject TABLE")
    keys = [n for n, c in reading.tables[named[0]].items() if c.primary_key]
    key = reading.wanted.key or (keys[0] if len(keys) == 1 else "")
    if not key:
        raise root.refuse(f"{named[0]} has no field that is its one primary key", "Name it: --key COLUMN")
    return SubjectRule(named[0], key)


def _steps(reading: _Reading) -> list[tuple[TableName, OwnerStep]]:
    """Each reference as a step from either side. The side whose field is a primary key is the one referred to."""
    steps = []
    for table, columns in sorted(reading.tables.items()):
        for name, column in columns.items():
            for dataset, collection, theirs, node in column.references:
                other = TableName(reading.datasets.get(dataset, reading.wanted.schema), collection)
                if dataset not in reading.datasets or other not in reading.tables:
                    reading.lose(f"reference to {dataset}.{collection}, which is not in the file", node)
                    continue
                target = reading.tables[other].get(theirs, _Column())
                here, there = Direction.TO, Direction.FROM
                if column.primary_key and not target.primary_key:
                    here, there = there, here
                steps.append((table, OwnerStep((name,), here, other, (theirs,))))
                steps.append((other, OwnerStep((theirs,), there, table, (name,))))
    # A reference that says whose a row is goes before one that says what a row refers to.
    return sorted(steps, key=lambda s: s[1].direction is Direction.FROM)
