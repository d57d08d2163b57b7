"""What a change of the schema adds, and nobody has classified; and a check without any rows."""

from __future__ import annotations

from psycopg import AsyncConnection
from tests.conftest import create_database, drop_database
from tests.samples import EXAMPLES

from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema
from domicile.sites.embedded import EmbeddedCluster
from domicile.survey.datamap_file import parse
from domicile.survey.discover import draft
from domicile.survey.gaps import Finding, Level, check_map
from domicile.world import store


async def check(conn: AsyncConnection, text: str) -> tuple[Finding, ...]:
    return await check_map(conn, parse(text), await read_schema(conn))


async def test_a_new_column_must_be_classified(pg18: EmbeddedCluster) -> None:
    name = await create_database(pg18, "drift")
    async with await connect(pg18.conninfo(name), settings=SESSION) as conn:
        await store.create_schema(conn)
        await store.populate(conn, scale=0.01)
        text = (await draft(conn, "store")).text.replace("role: undecided", "role: local")
        assert not [f for f in await check(conn, text) if "not classified" in f.message]
        await conn.execute("alter table store.review add phone2 text, add shade text, drop column stars")
        await conn.execute("alter table store.review add reviewer bigint references store.user_account")
        await conn.execute("create table store.fresh (id bigint primary key)")
        found = {(f.level, f.table, f.message) for f in await check(conn, text)}
    await drop_database(pg18, name)
    assert (Level.ERROR, "store.fresh", "is not in the data map") in found
    said = "column phone2 is not classified, and looks personal (user.contact.phone_number)"
    assert (Level.ERROR, "store.review", said) in found
    assert (Level.ERROR, "store.review", "column shade is not classified") in found
    assert not [m for _, _, m in found if "reviewer is not classified" in m], "a reference is classified where it leads"
    gone = "has no column stars, which the data map lists under not_personal"
    assert (Level.WARNING, "store.review", gone) in found


async def test_a_database_without_rows_passes(pg15: EmbeddedCluster) -> None:
    """As a project's CI has it: the schema alone."""
    name = await create_database(pg15, "empty")
    async with await connect(pg15.conninfo(name), settings=SESSION) as conn:
        await store.create_schema(conn)
        text = (await draft(conn, "store")).text.replace("role: undecided", "role: local")
        written = (EXAMPLES.parent / "src/domicile/world/store.map.yaml").read_text(encoding="utf-8")
        for of in (text, written):
            assert not [f for f in await check(conn, of) if f.level is Level.ERROR], of
    await drop_database(pg15, name)


async def test_all_others(odd18: AsyncConnection) -> None:
    listed = 'subject: {table: \'"Odd Shop"."User"\', key: User Name}\ntables:\n'
    for said, wanted in (("[email]", 3), ("all_others", 0)):
        rule = f'  \'"Odd Shop"."User"\': {{role: subject, not_personal: {said}}}\n'
        found = await check(odd18, f"version: 1\ndataset: odd\n{listed}{rule}")
        classified = [f for f in found if "not classified" in f.message]
        assert len(classified) == wanted, classified
