"""Tables as wide and values as large as PostgreSQL lets them be, moved live; large objects, refused by name."""

from __future__ import annotations

from pathlib import Path
import resource

import pytest
from tests.conftest import SitePair
from tests.move.live_kit import CATCHUP, COPY, PREPARE, begun, through
from tests.move.places import SOURCE, TARGET, execute, scalar
from tests.move.types_kit import APP, MAP, MOVERS, PEOPLE, TOGETHER, place_of

from domicile import commands
from domicile.model.phase import Phase
from domicile.model.plan import Mode, Question

COLUMNS = 1_600  # as many as a table may have
MEGABYTES = 24
LARGE = 400


@pytest.mark.parametrize("key", ["primary key", ""])
async def test_a_table_of_1600_columns(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str, key: str
) -> None:
    """With a key, and as rows that only all of their columns tell apart."""
    kinds = ("int", "text", "numeric", "boolean")
    columns = ", ".join(f"c{n} {kinds[n % len(kinds)]}" for n in range(COLUMNS - 2))
    values = ", ".join(("n", "'t' || n", "n + 0.10", "n % 3 = 0")[n % len(kinds)] for n in range(COLUMNS - 2))
    schema = (APP, f"create table odd (id int {key}, app int not null references app, {columns})")
    if not key:
        schema = (*schema, "alter table odd replica identity full")
    insert = f"insert into odd select n, 1 + n % 6, {values} from generate_series({{}}, {{}}) as n"
    place = await place_of(
        site_pair, scratch / f"state-{tmp_path.name}", MAP, control, schema, (PEOPLE, insert.format(1, 24))
    )
    async with begun(place, MOVERS, TOGETHER) as carrier:
        await through(carrier, PREPARE, COPY)
        await execute(
            place.source,
            insert.format(25, 36),
            "update odd set c1595 = not c1595, c1 = null where id % 2 = 1",
            "delete from odd where id between 8 and 11",
            "update odd set app = 3 - app where app in (1, 2)",
        )
        await through(carrier, CATCHUP, Phase.VERIFY, Phase.HANDOVER)
    texts = "select string_agg(md5(odd::text), '|' order by id) from odd where mod(app, 2) = 0"
    assert await scalar(place.target, texts) == await scalar(place.source, texts)
    assert await scalar(place.target, "select count(*) from odd") == await scalar(
        place.source, "select count(*) from odd where mod(app, 2) = 0"
    )


@pytest.mark.parametrize("megabytes", [MEGABYTES, pytest.param(LARGE, marks=pytest.mark.campaign)])
async def test_a_large_value(site_pair: SitePair, scratch: Path, tmp_path: Path, control: str, megabytes: int) -> None:
    """Copied without being held whole; changed and left unchanged in the stream; memory stays a few times its size."""
    schema = (
        APP,
        "create table odd (id int primary key, app int not null references app, note text, body bytea)",
        "alter table odd alter body set storage external",
    )
    body = f"decode(repeat('00ff5c0a', {megabytes} * 262144), 'hex')"
    rows = (PEOPLE, f"insert into odd select n, n, 'x', {body} from generate_series(2, 2) as n")
    place = await place_of(site_pair, scratch / f"state-{tmp_path.name}", MAP, control, schema, rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with begun(place, MOVERS, TOGETHER) as carrier:
        await through(carrier, PREPARE, COPY)
        copied = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        await execute(
            place.source,
            "update odd set note = 'the body is not sent' where id = 2",
            f"insert into odd values (4, 4, 'new', {body})",
            "update odd set body = body || '\\x01' where id = 4",
        )
        await through(carrier, CATCHUP, Phase.VERIFY, Phase.HANDOVER)
        streamed = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    digests = "select string_agg(note || md5(body), '|' order by id) from odd"
    assert await scalar(place.target, digests) == await scalar(place.source, digests)
    assert copied < 3 * megabytes, f"the copy took {copied:.0f} MB more"
    assert streamed < 8 * megabytes, f"the stream took {streamed:.0f} MB more"


async def test_large_objects_are_refused_by_name(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str
) -> None:
    schema = (APP, "create table odd (id int primary key, app int not null references app, photo oid)")
    rows = (PEOPLE, "insert into odd select n, n, lo_from_bytea(0, 'photo') from generate_series(1, 6) as n")
    place = await place_of(site_pair, scratch / f"state-{tmp_path.name}", MAP, control, schema, rows)
    plan = await commands.plan(place.workspace, Question("types", SOURCE, TARGET, where=MOVERS))
    for mode in Mode:
        [refusal] = plan.refusals_of(mode)
        assert refusal.name == "large objects"
        assert "public.odd.photo" in refusal.detail
        assert "bytea" in refusal.hint
