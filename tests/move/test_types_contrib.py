"""Types of extensions, XML, and built-in ones that other tests do not stream: moved live between two PostgreSQL 15 of
Debian's while they change, back while they change, again, and purged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
import itertools
from pathlib import Path

import psycopg
from tests.conftest import SitePair
from tests.move.places import SOURCE, TARGET, Place, scalar
from tests.move.types_kit import MAP, MOVERS, place_of

from domicile import commands
from domicile.model.phase import Status
from domicile.model.plan import Mode, Question

# Each with an expression over n, which is another number in every row and for every write.
KINDS = {
    "pairs": ("hstore", "hstore(array['n', 'nothing', 'NULL'], array[n::text, null, 'NULL'])"),
    "path": ("ltree", "('Top.n' || n || '.Ünten')::ltree"),
    "page": ("xml", "xmlparse(content repeat('<p a=\"&lt;\">' || n || '</p> &amp; ', 120))"),
    "letter": ("xml", """xmlparse(document '<?xml version="1.0" encoding="UTF-8"?><a>' || n || '</a>')"""),
    "nick": ("citext", "('Nick ' || n)::citext"),
    "nicks": ("citext[]", "array['A' || n, null, 'a' || n]::citext[]"),
    "many": ("hstore[]", """array['n=>NULL', 'k=>"a, b"', null]::hstore[]"""),
    "pages": ("xml[]", "array[xmlparse(content '<b>' || n || '</b>'), null]"),
    "mail": ("email", "('Me@' || n)::email"),
    "card": ("card", "row(n, hstore('\"', null), '<c/>')::card"),
    "cards": ("card[]", "array[row(n, null, null)::card, null]"),
    "holes": ("int[]", "(array[null, n, n + 1])[2:]"),  # PostgreSQL remembers that there was a null
    "files": ("bytea[]", "array[decode('00ff5c', 'hex'), null, '']"),
    "prices": ("money[]", "array['-0.01'::money, n::money]"),
    "bits": ("bit(5)", "n::bit(5)"),
    "varbits": ("varbit[]", "array[n::bit(9)::varbit, b'']"),
    "nets": ("inet[]", "array[inet '10.0.0.1/8' + n, '::1']"),
    "net": ("cidr", "network(inet '10.0.0.1/24' + n)"),
    "mac": ("macaddr8", "macaddr8 '08:00:2b:01:02:03:04:05'"),
    "words": ("tsvector", "to_tsvector('simple', 'a ' || n || ' c''c')"),
    "queries": ("tsquery[]", "array[('b:*C | !n' || n)::tsquery, '']"),
    "steps": ("jsonpath", "('$.a[*] ? (@ > ' || n || ')')::jsonpath"),
    "at": ("pg_lsn", "pg_lsn '16/B374D848' + n"),
    "spans": ("interval[]", "array[interval '1 mon -2 days 3.5 s', n * interval '24:00']"),
    "times": ("tstzmultirange", "tstzmultirange(tstzrange('2024-01-01 00:00+00', null), 'empty')"),
    "numbers": ("nummultirange[]", "array[nummultirange(numrange(n, n + 1.50)), nummultirange()]"),
}
COLUMNS = ", ".join(f"{name} {kind}" for name, (kind, _) in KINDS.items())
NAMES, VALUES = ", ".join(KINDS), ", ".join(value for _, value in KINDS.values())
SCHEMA = (
    "create domain email as citext check (value like '%@%'); create type card as (a int, pairs hstore, page xml)",
    "create table app (id int primary key, market text, name citext not null, twice hstore)",
    f"create table odd (id int primary key, app int not null references app, {COLUMNS})",
    "create index on odd using gist (path); create index on odd (nick)",
    "alter table odd alter page set storage external",  # not in the stream while it does not change
    # Rows that only all of their columns tell apart; XML has no equality.
    f"create table bare (app int not null references app, {COLUMNS})",
    "alter table bare replica identity full",
)
ROWS = (
    """insert into app select n, case when n % 2 = 0 then 'IN' else 'CN' end, 'Person ' || n, hstore('n', null)
       from generate_series(1, 6) as n""",
    f"insert into odd select n, 1 + n % 6, {VALUES} from generate_series(1, 30) as n",
    f"insert into bare select 1 + n % 6, {VALUES} from generate_series(1, 12) as n, generate_series(1, 2)",
    "insert into bare select n from generate_series(1, 6) as n, generate_series(1, 2)",
)
TYPES_MAP = f"{MAP.rstrip()}\n  bare: {{role: owned, owner: app -> app(id)}}\n"
_N = "from (values ({n})) as x (n)"
_ONE = "ctid = (select min(ctid) from bare where app = {app})"
# One transaction of a person's: each type is inserted, updated (with all others, and alone), set to null and deleted.
WRITES = (
    f"update odd set ({NAMES}) = (select {VALUES} {_N}) where id = (select max(id) from odd where app = {{app}})",
    "update odd set {column} = null where id = (select min(id) from odd where app = {app})",
    f"update odd set {{column}} = {{value}} {_N} where app = {{app}} and id % 2 = {{n}} % 2",
    f"insert into odd select 1000 + n, {{app}}, {VALUES} {_N}",
    "delete from odd where id = (select min(id) from odd where app = {app} and id < 990 + {n})",
    "update app set name = upper(name::text), twice = hstore('n', '{n}') where id = {app}",
    f"insert into bare select {{app}}, {VALUES} from (values ({{n}}), ({{n}})) as x (n)",
    f"update bare set {{column}} = {{value}} from (values ({{n}} + 1)) as x (n) where {_ONE}",
    f"update bare set {{column}} = null where {_ONE}",
    f"delete from bare where {_ONE}",
)
OF_THEM = "select array_agg(md5(t::text) order by md5(t::text)) from {} as t where mod({}, 2) = {}"
_numbers = itertools.count(1)


@asynccontextmanager
async def writing(conninfo: str) -> AsyncIterator[asyncio.Task[int]]:
    """Somebody who writes for those who move until it is refused: how often it was not is what the task returns."""

    async def write() -> int:
        async with await psycopg.AsyncConnection.connect(conninfo) as conn:
            for done in itertools.count():
                n, (column, (_, value)) = next(_numbers), [*KINDS.items()][done % len(KINDS)]
                try:
                    for statement in WRITES:
                        text = statement.format(app=2 + 2 * (n % 3), n=n, column=column, value=value)
                        await conn.execute(text.encode())
                    await conn.commit()
                except psycopg.Error as error:
                    if error.sqlstate in ("DM001", "DM002"):
                        return done
                    raise
                await asyncio.sleep(0.05)
        raise AssertionError

    task = asyncio.create_task(write())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def digests(conninfo: str, *, movers: bool = True) -> list[object]:
    """The rows of those who move, in every sign; or those of the others."""
    owners = {"app": "id", "odd": "app", "bare": "app"}.items()
    return [await scalar(conninfo, OF_THEM.format(table, owner, int(not movers))) for table, owner in owners]


async def test_they_move_and_back_and_again(
    contrib_pair: SitePair, scratch: Path, tmp_path: Path, control: str
) -> None:
    place = await place_of(contrib_pair, scratch / f"state-{tmp_path.name}", TYPES_MAP, control, SCHEMA, ROWS)
    others = await digests(place.source, movers=False)
    first = await _moved(place)
    async with writing(place.target) as writer:
        await asyncio.sleep(0.5)
        assert (await commands.rollback(place.workspace, first)).status is Status.ABORTED
        assert await asyncio.wait_for(writer, 20) > 0
    assert await digests(place.source) == await digests(place.target), "the closed copy"
    await commands.purge(place.workspace, first)
    assert await digests(place.target) == [None, None, None]
    second = await _moved(place)
    there = await digests(place.target)
    await commands.purge(place.workspace, second)
    assert (await digests(place.source), await digests(place.target)) == ([None, None, None], there)
    assert await digests(place.source, movers=False) == others


async def _moved(place: Place) -> str:
    """Moved while somebody writes, whose writes have all arrived."""
    plan = await commands.plan(place.workspace, Question("types", SOURCE, TARGET, where=MOVERS))
    async with writing(place.source) as writer:
        moved = await commands.apply(place.workspace, plan, mode=Mode.LIVE)
        assert moved.status is Status.WAITING, [(w.error_code, w.error_message) for w in moved.waves]
        assert await asyncio.wait_for(writer, 20) > 0
    assert await digests(place.target) == await digests(place.source), "the closed copy"
    assert (await commands.verify(place.workspace, moved.move_id)).clean
    return moved.move_id
