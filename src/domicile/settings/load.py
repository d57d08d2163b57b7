"""Read ``domicile.yaml`` into a Workspace, or say everything that is wrong with it, each with its line and
column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import difflib
import hashlib
import json
from pathlib import Path
import re
from types import MappingProxyType

from pydantic import BaseModel, SecretStr, ValidationError

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.plan import Limits
from domicile.model.site import Dataset, DatasetName, Site, SiteName
from domicile.model.workspace import CONTROL_EMBEDDED, Workspace
from domicile.settings import conninfo as libpq
from domicile.settings.document import Document, Mark, Place, Problem, ProblemsFound, parse
from domicile.settings.file import ConfigFile, DatasetEntry, LimitsEntry, SiteEntry

CONFIG_NAME = "domicile.yaml"
SIZE_MAX_BYTES = 200_000  # read in about a second
_HINT = "Correct the file; docs/reference/config.md lists every key."


def load(path: Path, environ: Mapping[str, str], *, state: Path | None = None) -> Workspace:
    """The configuration in ``path``, its connection strings filled in from ``environ``; ``state`` replaces
    the file's.

    Raises DomicileError (config-invalid) whose message starts with file:line:column and whose facts list
    every problem. No secret is in any of them.
    """
    text = _read(path)
    try:
        document = parse(text)
        entry = _validated(document)
        return _Reader(path, environ, document, entry).workspace(state)
    except ProblemsFound as found:
        raise _refused(path, found.problems) from None


def secrets_of(workspace: Workspace, environ: Mapping[str, str]) -> frozenset[str]:
    """Every secret value that this configuration and libpq's environment hold, so that a face can keep them
    off its output.
    """
    found = {environ["PGPASSWORD"]} if environ.get("PGPASSWORD") else set()
    if workspace.control != CONTROL_EMBEDDED:
        found |= libpq.secrets(workspace.control)
    for dataset in workspace.datasets.values():
        for at in dataset.at.values():
            found |= libpq.secrets(at)
    return frozenset(found)


class _Reader:
    """Turns the checked form into the workspace, collecting problems that only the whole file shows."""

    def __init__(self, path: Path, environ: Mapping[str, str], document: Document, entry: ConfigFile) -> None:
        self._path = path
        self._environ = environ
        self._document = document
        self._entry = entry
        self._problems: list[Problem] = []

    def workspace(self, state: Path | None) -> Workspace:
        """Raises ProblemsFound."""
        base = self._path.resolve().parent
        at_site = {
            name: self._parameters(("sites", name, "conninfo"), s.conninfo) for name, s in self._entry.sites.items()
        }
        datasets = {name: self._dataset(name, entry, at_site) for name, entry in self._entry.datasets.items()}
        control = self._control()
        if self._problems:
            raise ProblemsFound(*self._problems)
        return Workspace(
            sites=MappingProxyType({SiteName(n): _site(n, s) for n, s in self._entry.sites.items()}),
            datasets=MappingProxyType({DatasetName(n): d for n, d in datasets.items()}),
            state_dir=(base / self._entry.state if state is None else state).absolute(),
            config_digest=_digest(self._entry, datasets, control),
            base_dir=base,
            limits=Limits(**self._entry.limits.model_dump()),
            control=control,
            postgres=Path(self._entry.postgres) if self._entry.postgres else None,
        )

    def _control(self) -> str:
        if self._entry.control.get_secret_value().strip() == CONTROL_EMBEDDED:
            return CONTROL_EMBEDDED
        return libpq.merge(self._parameters(("control",), self._entry.control))

    def _dataset(self, name: str, entry: DatasetEntry, at_site: Mapping[str, libpq.Parameters]) -> Dataset:
        named = {"dbname": entry.dbname} if entry.dbname else {}
        at: dict[SiteName, str] = {}
        places: dict[str, str] = {}
        for position, (site, override) in enumerate(_sites_of(entry)):
            place: Place = ("datasets", name, "at", position if isinstance(entry.at, list) else site)
            if site not in self._entry.sites:
                near = _near(site, self._entry.sites)
                self._problem(place, f"dataset {name} is at site {site}, which sites does not name{near}", of_key=True)
                continue
            parameters = {**at_site[site], **named, **self._parameters(place, override)}
            if self._problems:  # without its parts, nobody can say which database this is
                continue
            identity = json.dumps(libpq.without_secrets(parameters), sort_keys=True)
            if site in at or identity in places:
                other = places.get(identity, site)
                self._problem(
                    place,
                    f"dataset {name} is at {site} where it is at {other}: the same database",
                    of_key=True,
                )
                continue
            places[identity] = site
            at[SiteName(site)] = libpq.merge(parameters)
        return Dataset(DatasetName(name), entry.map, MappingProxyType(at))

    def _parameters(self, place: Place, value: SecretStr | None) -> libpq.Parameters:
        try:
            return libpq.parse(value.get_secret_value(), self._environ) if value is not None else {}
        except libpq.ConninfoProblem as problem:
            self._problem(place, f"{_dotted(place)}: {problem}")
            return {}

    def _problem(self, place: Place, message: str, *, of_key: bool = False) -> None:
        mark = self._document.key_mark(place) if of_key and place in self._document.keys else None
        self._problems.append(Problem(mark or self._document.value_mark(place), message))


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > SIZE_MAX_BYTES:
            raise _refused(path, [Problem(Mark(1, 1), f"larger than {SIZE_MAX_BYTES} bytes: not a configuration")])
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DomicileError(
            ErrorCode.CONFIG_INVALID,
            f"there is no {path}",
            facts={"file": str(path)},
            hint="Write one with: domicile init; or name another with --config or DOMICILE_CONFIG.",
        ) from None
    except OSError as error:
        raise DomicileError(
            ErrorCode.CONFIG_INVALID,
            f"{path} cannot be read: {error.strerror}",
            facts={"file": str(path)},
            hint="Correct the path or its rights.",
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _refused(path, [Problem(Mark(line, 1), "not UTF-8 text")]) from None


def _validated(document: Document) -> ConfigFile:
    if not isinstance(document.data, dict):
        what = "empty" if document.data is None else "not a mapping"
        raise ProblemsFound(Problem(Mark(1, 1), f"the file is {what}; it starts with: version: 1"))
    try:
        return ConfigFile.model_validate(document.data)
    except ValidationError as error:
        raise ProblemsFound(*_problems(error, document)) from None


def _problems(error: ValidationError, document: Document) -> Iterator[Problem]:
    """Pydantic's findings in our words. Its own message is used only where it cannot quote the input."""
    seen: set[tuple[Mark, str]] = set()
    for found in error.errors(include_url=False, include_context=True, include_input=False):
        *above, last = found["loc"] or ("",)
        # A key that nobody knows is as it was written; any other part may be the name of a union's member.
        place = (*_place(above), last) if found["type"] == "extra_forbidden" else _place(found["loc"])
        if _other_form_of_at(found["loc"], document):
            continue
        kind = found["type"]
        if kind == "extra_forbidden":
            mark = document.key_mark(place)
            message = f"unknown key {place[-1]} in {_dotted(place[:-1])}{_near(str(place[-1]), _known(place[:-1]))}"
        elif kind == "missing":
            mark, message = document.key_mark(place), f"{_dotted(place[:-1])} has no {place[-1]}"
        elif found["loc"][-1] == "[key]":
            mark = document.key_mark(place)
            message = f"{_dotted(place)}: a name is lower case, starts with a letter, then letters, digits, - and _"
        else:
            mark, message = (
                document.value_mark(place),
                f"{_dotted(place)}: {_wording(kind, found['msg'], place)}",
            )
        if (mark, message) not in seen:
            seen.add((mark, message))
            yield Problem(mark, message)


def _place(loc: Iterable[str | int]) -> Place:
    """The path in the file of a pydantic location, which also names the members of unions."""
    place: Place = ()
    for part in loc:
        if part != "[key]" and not re.search(r"[\[\](]", str(part)):
            place = (*place, part)
    return place


def _other_form_of_at(loc: tuple[str | int, ...], document: Document) -> bool:
    """True for what pydantic says of the form of ``at`` that was not written: it reports both."""
    if len(loc) < 4 or loc[0] != "datasets" or loc[2] != "at":
        return False
    written = document.values_at(("datasets", loc[1], "at"))
    return isinstance(written, dict if str(loc[3]).startswith("list") else list)


def _known(place: Place) -> tuple[str, ...]:
    model: type[BaseModel]
    match place:
        case ():
            model = ConfigFile
        case ("sites", _):
            model = SiteEntry
        case ("datasets", _):
            model = DatasetEntry
        case _:
            model = LimitsEntry
    return tuple(model.model_fields)


def _sites_of(entry: DatasetEntry) -> Iterator[tuple[str, SecretStr | None]]:
    if isinstance(entry.at, list):
        yield from ((site, None) for site in entry.at)
    else:
        yield from entry.at.items()


def _site(name: str, entry: SiteEntry) -> Site:
    return Site(SiteName(name), entry.jurisdiction, entry.provider, entry.description, tuple(entry.scan_agent))


def _digest(entry: ConfigFile, datasets: Mapping[str, Dataset], control: str) -> str:
    """SHA-256 over what the configuration means: no comments, no descriptions, no secrets, no state
    directory.
    """

    def public(text: str) -> object:
        return text if text == CONTROL_EMBEDDED else libpq.without_secrets(libpq.parameters_of(text))

    meaning = {
        "version": entry.version,
        "control": public(control),
        "sites": {name: [s.jurisdiction, s.provider] for name, s in entry.sites.items()},
        "datasets": {
            n: {"map": d.map_path, "at": {s: public(c) for s, c in d.at.items()}} for n, d in datasets.items()
        },
        "limits": dataclasses.asdict(Limits(**entry.limits.model_dump())),
    }
    return hashlib.sha256(json.dumps(meaning, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _refused(path: Path, problems: Iterable[Problem]) -> DomicileError:
    lines = [f"{path}:{p.mark.line}:{p.mark.column}: {p.message}" for p in sorted(problems, key=lambda p: p.mark)]
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return DomicileError(
        ErrorCode.CONFIG_INVALID, lines[0] + more, facts={"file": str(path), "problems": lines}, hint=_HINT
    )


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _dotted(place: Place) -> str:
    return ".".join(map(str, place)) or "the file"


def _wording(kind: str, message: str, place: Place) -> str:
    match kind, place:
        case (("list_type" | "dict_type"), ("datasets", _, "at")):
            return "must be a list of sites, or site: conninfo"
        case "too_short", _:
            return "must not be empty"
        case _:
            plain = re.sub(r" or instance of \w+", "", message.replace("Input should be", "must be"))
            return plain.replace("a valid dictionary", "a mapping")
