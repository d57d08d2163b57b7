"""What reads files and what stands in them: plans, data maps, configurations, connection strings, lists of subjects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import hashlib
import json
from pathlib import Path
from random import Random
import re
import tempfile
from typing import Any

import yaml

from domicile.commands.desk import read_subjects
from domicile.model.datamap import OwnerStep
from domicile.model.errors import DomicileError, ErrorCode
from domicile.planner import plan_file
from domicile.postgres.connect import SECRET_PARAMETERS, safe_conninfo
from domicile.settings import conninfo as libpq
from domicile.settings import load, secrets_of
from domicile.survey import datamap_file
from reliability.fuzz import samples
from reliability.fuzz.dice import MARKER, mutated_bytes, mutated_text, odd_text, one_in
from reliability.fuzz.documents import damaged, huge, json_text, nested
from reliability.fuzz.rule import ACCEPTED, Broken, Input, Target
from reliability.fuzz.yaml_text import PIECES, laughs, yaml_text

_JSON_PIECES = ("{", "}", "[", "]", ",", ":", '"', "\\", "null", "NaN", "-Infinity", "1e400", "9" * 5_000, '"\\ud800"')
_CONNINFO_PIECES = (
    " ",
    "=",
    "'",
    "\\",
    "\\'",
    "@",
    ":",
    "/",
    "?",
    "&",
    "#",
    "%",
    "%00",
    "%80",
    "[",
    "]",
    ",",
    "port=",
    "port=²",
    "host=",
    "hots=",
    "service=x",
    "sslmode=",
    "postgresql://",
    "${PW}",
    "${WHOLE}",
    "${EMPTY}",
    "${ODD}",
    "${",
    "$${",
    "${NOBODY}",
    "${a b}",
    "\0",
    "\ud800",
    "password=",
)
_COLUMNS_OF = re.compile(r"[\s\"]+")


def _make_plan(dice: Random) -> str:
    match dice.randrange(20):
        case 0:
            return mutated_text(dice, plan_file.dump(samples.plan(dice)), _JSON_PIECES)
        case 1 if one_in(dice, 10):
            return dice.choice((nested(dice, opening="[", closing="]"), nested(dice, opening='{"a":', closing="}")))
        case 2 if one_in(dice, 200):
            return json.dumps(samples.plan_document(dice) | {"made_at": huge(dice)})
        case 3:
            return plan_file.dump(samples.plan(dice))
        case _:
            document = damaged(dice, samples.plan_document(dice))
            if one_in(dice, 2):
                document = _sealed(document)
            return json_text(dice, document)


def _sealed(document: Any) -> Any:
    """With the digest of the damaged contents, so that what looks behind the digest is reached."""
    if not isinstance(document, dict):
        return document
    content = {key: value for key, value in document.items() if key != "digest"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return {**content, "digest": digest}


def _run_plan(given: Input) -> str:
    plan = plan_file.load(str(given))
    text = plan_file.dump(plan)
    if plan_file.load(text) != plan or plan_file.dump(plan_file.load(text)) != text:
        raise Broken("a plan that was accepted does not come back the same")
    text.encode()  # as it is written to a file
    return ACCEPTED


def _make_map(dice: Random) -> str:
    match dice.randrange(20):
        case 0:
            return datamap_file.dump(samples.data_map(dice), {}, ("a header",))
        case 1:
            return yaml_text(dice, samples.map_document(dice))
        case 2:
            return mutated_text(dice, datamap_file.dump(samples.data_map(dice)), PIECES)
        case 3 if one_in(dice, 10):
            return dice.choice((nested(dice, opening="[", closing="]"), nested(dice, opening="{a: ", closing="}")))
        case 4 if one_in(dice, 10):
            return laughs(dice)
        case 5 if one_in(dice, 300):
            return json.dumps(samples.map_document(dice) | {"dataset": huge(dice)}, ensure_ascii=False)
        case 6:
            return mutated_text(dice, yaml_text(dice, samples.map_document(dice)), PIECES)
        case _:
            return yaml_text(dice, damaged(dice, samples.map_document(dice)))


def _run_map(given: Input) -> str:
    data_map = datamap_file.parse(str(given))
    text = datamap_file.dump(data_map)
    try:
        again = datamap_file.parse(text)
    except DomicileError as error:
        raise Broken(f"a data map that was accepted cannot be read after dump: {error.message}") from None
    if again != data_map:
        raise Broken("a data map that was accepted does not come back the same")
    for rule in data_map.tables.values():
        for text in (*((str(rule.owner),) if rule.owner else ()), *rule.references):
            if OwnerStep.parse(text) != OwnerStep.parse(str(OwnerStep.parse(text))):
                raise Broken("an owner step does not come back the same")
    _require_whole_steps(str(given), data_map.tables)
    return ACCEPTED


def _require_whole_steps(text: str, tables: Mapping[Any, Any]) -> None:
    """What stands before the arrow is all of it columns: an independent reading of the file, by PyYAML's own rules."""
    document = yaml.load(text, Loader=yaml.BaseLoader)
    written = [rule["owner"] for rule in document["tables"].values() if isinstance(rule, dict) and "owner" in rule]
    read = [str(rule.owner) for rule in tables.values() if rule.owner is not None]
    for one, other in zip(written, read, strict=True):
        before, after = (_COLUMNS_OF.sub("", re.split("->|<-", step)[0]) for step in (one, other))
        if '"' not in one and before != after:
            raise Broken(f"an owner step was accepted and a part of it dropped: {one!r} is read as {other!r}")


def _make_draft(dice: Random) -> str:
    return str(dice.getrandbits(48))


def _run_draft(given: Input) -> str:
    """The survey writes a map of whatever names a database has; a person finds it readable."""
    data_map = samples.data_map(Random(int(str(given))))
    try:
        again = datamap_file.parse(datamap_file.dump(data_map))
    except DomicileError as error:
        raise Broken(f"a data map of names that PostgreSQL takes cannot be read: {error.message}") from None
    except ValueError as error:
        raise Broken(f"a data map of names that PostgreSQL takes cannot be read: {error!r}") from None
    if (again.dataset, again.subject, again.tables) != (data_map.dataset, data_map.subject, data_map.tables):
        raise Broken(f"a data map of names that PostgreSQL takes is read as another one: {data_map!r} as {again!r}")
    return ACCEPTED


def _make_config(dice: Random) -> bytes:
    match dice.randrange(20):
        case 0:
            return mutated_bytes(dice, _encoded(yaml_text(dice, samples.config_document(dice))))
        case 1:
            return _encoded(mutated_text(dice, yaml_text(dice, samples.config_document(dice)), PIECES))
        case 2 if one_in(dice, 10):
            return _encoded(nested(dice, opening="[", closing="]"))
        case 3 if one_in(dice, 10):
            return _encoded(laughs(dice))
        case 4 if one_in(dice, 300):
            return _encoded("version: 1\nstate: " + huge(dice)[: dice.choice((900_000, 5_000_000))])
        case 5:
            return _encoded(yaml_text(dice, samples.config_document(dice)))
        case _:
            return _encoded(yaml_text(dice, damaged(dice, samples.config_document(dice))))


def _run_config(given: Input) -> str:
    assert isinstance(given, bytes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "domicile.yaml")
        path.write_bytes(given)
        workspace = load(path, samples.ENVIRON)
        if load(path, samples.ENVIRON) != workspace:
            raise Broken("a configuration that was accepted is read differently a second time")
    hidden = secrets_of(workspace, samples.ENVIRON)
    if MARKER in repr(workspace) and not any(MARKER in secret for secret in hidden):
        raise Broken("a secret stands in what is printed of a workspace")
    return ACCEPTED


def _no_marker_in_a_key(given: Input) -> bool:
    """Keys are shown in messages, and are no place for a secret: where damage has made one a key, it is not searched
    for."""
    assert isinstance(given, bytes)
    text = given.decode(errors="replace")
    try:
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):  # no tree to look at: line by line
        lines = text.splitlines()
        return not any(MARKER in line and not re.match(r"\s*(- )?['\"]?[a-z0-9_-]+['\"]?:\s", line) for line in lines)
    return not any(MARKER in key for key in _keys(root))


def _keys(root: yaml.Node | None) -> Iterator[str]:
    """The keys of a YAML tree, whose aliases may lead around in a circle."""
    todo, seen = [root], set[int]()
    while todo:
        node = todo.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield from (str(key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            todo += [one for pair in node.value for one in pair]
        elif isinstance(node, yaml.SequenceNode):
            todo += node.value


def _make_conninfo(dice: Random) -> str:
    match dice.randrange(6):
        case 0:
            return samples.conninfo(dice)
        case 1:
            return "${WHOLE}"
        case 2:
            return "".join(dice.choice(_CONNINFO_PIECES) for _ in range(dice.randrange(8)))
        case _:
            return mutated_text(dice, samples.conninfo(dice), _CONNINFO_PIECES)


def _run_conninfo(given: Input) -> str:
    try:
        parameters = libpq.parse(str(given), samples.ENVIRON)
    except libpq.ConninfoProblem as problem:  # `settings.load` turns it into config-invalid, with its words
        raise DomicileError(ErrorCode.CONFIG_INVALID, str(problem)) from None
    if "\0" in str(given):  # libpq's texts end there
        raise Broken("a connection string was accepted of which only the part before a NUL is used")
    merged = libpq.merge(parameters)
    if libpq.parameters_of(merged) != parameters:
        raise Broken("a connection string does not come back the same")
    public = [value for name, value in parameters.items() if name not in SECRET_PARAMETERS]
    hidden = [secret for secret in libpq.secrets(merged) if MARKER in secret and not any(secret in p for p in public)]
    if any(secret in safe_conninfo(merged) for secret in hidden):
        raise Broken("a connection string that is shown holds its password")
    safe_conninfo(str(given))
    return ACCEPTED


def _make_subjects(dice: Random) -> Input:
    """A name, which comes from a plan and so may be any text, and what stands in the file that is there."""
    name = "subjects" if one_in(dice, 2) else odd_text(dice)
    return name, mutated_bytes(dice, b"1\n2\n\xc3\xa4\r\n") if one_in(dice, 2) else _encoded(odd_text(dice))


def _run_subjects(given: Input) -> str:
    name, content = given if isinstance(given, tuple) else (given, b"")
    data = content if isinstance(content, bytes) else _encoded(content)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "subjects").write_bytes(data)
        keys = read_subjects(str(Path(folder) / str(name).replace("/", "_")))
    if len(keys) != len(data.splitlines()):  # of bytes: no ends of lines but those of files
        raise Broken("not one key a line")
    return ACCEPTED


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


TARGETS = (
    Target("plan", _make_plan, _run_plan, share=120),
    Target("map", _make_map, _run_map, share=40),
    Target("draft", _make_draft, _run_draft, share=20),
    Target("config", _make_config, _run_config, share=40, secret=_no_marker_in_a_key),
    Target("conninfo", _make_conninfo, _run_conninfo, share=200),
    Target("subjects", _make_subjects, _run_subjects, share=20),
)
