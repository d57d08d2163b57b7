"""Looking after a data map: check it against a database, add what is new, exchange it with fideslang."""

from __future__ import annotations

from dataclasses import dataclass

from domicile.commands.desk import load_map
from domicile.model.datamap import DataMap
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import TableName
from domicile.model.site import DatasetName
from domicile.model.workspace import Workspace
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema
from domicile.survey import datamap_file
from domicile.survey.classify import look
from domicile.survey.discover import draft_of, explore
from domicile.survey.fides_text import Made, from_map
from domicile.survey.gaps import Level, check_map
from domicile.survey.resurvey import Found, Updated, needs_looks, update
from domicile.survey.state import holds_rows


@dataclass(frozen=True, slots=True)
class PlacedFinding:
    """A finding of the check, with the line of the map's file that it is about."""

    level: Level
    table: str
    message: str
    hint: str
    count: int
    line: int


@dataclass(frozen=True, slots=True)
class MapCheck:
    """What the check found, worst first; ``file`` is the map's."""

    file: str
    findings: tuple[PlacedFinding, ...]

    @property
    def passed(self) -> bool:
        """Whether there is no error."""
        return not any(f.level is Level.ERROR for f in self.findings)


async def map_check(workspace: Workspace, dataset: str, site: str) -> MapCheck:
    """The data map against the live schema of one site, worst findings first."""
    data_map = load_map(workspace, dataset)
    async with await connect(workspace.conninfo(dataset, site), settings=SESSION) as conn:
        found = await check_map(conn, data_map, await read_schema(conn))
    path = workspace.base_dir / workspace.dataset(dataset).map_path
    placed = (PlacedFinding(f.level, f.table, f.message, f.hint, f.count, _line(data_map, f.table)) for f in found)
    return MapCheck(str(path), tuple(placed))


def _line(data_map: DataMap, table: str) -> int:
    """The line of the table in the map; the first one for a table that the map does not know."""
    try:
        return data_map.line_of.get(TableName.parse(table), 1)
    except ValueError:  # "(database)"
        return 1


async def map_update(workspace: Workspace, dataset: str, site: str, text: str, name: str) -> Updated:
    """The map ``text`` of file ``name`` with what is new in the database; nothing is written. Raises map-invalid,
    map-incomplete."""
    old = datamap_file.parse(text, name)
    if old.dataset != dataset:
        raise DomicileError(
            ErrorCode.MAP_INVALID,
            f"{name} is the map of dataset {old.dataset}, not of {dataset}",
            facts={"file": name, "dataset": dataset},
            hint="Name the map of that dataset, or the dataset of that map.",
        )
    async with await connect(workspace.conninfo(dataset, site), settings=SESSION) as conn:
        try:
            state = await explore(conn, subject=str(old.subject.table))
        except DomicileError as error:
            raise DomicileError(
                error.code,
                f"{name}:{old.line_of[old.subject.table]}: {error.message}",
                facts=error.facts,
                hint=error.hint,
            ) from None
        proposed = await draft_of(state, DatasetName(dataset))
        tables = state.schema.tables
        looks = {n: state.looks[n] for n in needs_looks(old, tables)}
        # A survey looks at no view; a map may list a materialised one.
        looks |= {n: await look(state.measure, tables[n]) for n in looks if not holds_rows(tables[n])}
    return update(text, name, Found(proposed.data_map, proposed.comments, tables, looks))


def map_export(workspace: Workspace, dataset: str) -> Made:
    """The dataset's map as fideslang. Raises map-invalid."""
    return from_map(load_map(workspace, dataset))
