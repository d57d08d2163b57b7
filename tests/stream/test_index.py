"""The ownership index: what it reads from a database, and that it stays what a fresh reading would give."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
import pytest
from tests.stream.wave import content, data_map, watched

from domicile.stream import canonical
from domicile.stream.canonical import MASK, Bag, key_set
from domicile.stream.index import FETCH_ROWS, digest, load

DDL = """
create table users (id bigint primary key);
create table orders (id int primary key, user_id int not null, code text unique);
create table items (order_id bigint, line smallint, at char(5), note text, primary key (order_id, line, at));
create table tags (order_code varchar(20), tag uuid, primary key (tag));
create table visits (user_id bigint, path text);
alter table visits replica identity full;
insert into users values (-5), (7), (8);
insert into orders values (1, 7, 'a'), (-2, -5, null), (3, 8, 'c'), (4, 99, 'd');
insert into items values (1, 1, 'x', null), (1, -1, 'yy', null), (3, 1, 'x', null), (-2, 1, 'z', null);
insert into tags values ('a', '00000000-0000-0000-0000-00000000000a'), ('c', '00000000-0000-0000-0000-00000000000c'),
    ('d', '00000000-0000-0000-0000-00000000000d');
insert into visits values (7, '/'), (7, '/'), (8, '/'), (-5, null);
"""
MAP = data_map(
    "public.users",
    {
        "public.orders": "user_id -> public.users(id)",
        "public.items": "order_id -> public.orders(id)",
        "public.tags": "order_code -> public.orders(code)",
        "public.visits": "user_id -> public.users(id)",
    },
)
USERS, ORDERS, VISITS, ITEMS, TAGS = range(5)


def number(value: int, width: int, binary: bool) -> bytes:
    text = str(value).encode()
    return canonical.field(value.to_bytes(width, "big", signed=True) if binary else text)


def text(value: str) -> bytes:
    return canonical.field(value.encode())


@pytest.mark.parametrize("binary", [True, False])
async def test_what_is_loaded(any_database: str, binary: bool) -> None:
    """Integers of all widths and signs, composite keys, keys padded with blanks, references to another column than the
    key, rows without a key; and nothing of other users."""
    async with watched(any_database, DDL, MAP, [7, -5], binary=binary) as wave:
        index = wave.index
        assert [t.table.name.name for t in index.tables] == ["users", "orders", "visits", "items", "tags"]
        assert set(index.members) == {7, -5 & MASK}
        assert set(index.tables[USERS].keys) == {7, -5 & MASK}
        assert set(index.tables[ORDERS].keys) == {1, -2 & MASK}
        assert len(index.tables[VISITS].keys) == 3
        assert len(index.tables[ITEMS].keys) == 3
        assert len(index.tables[TAGS].keys) == 1
        [by_key, by_code] = index.tables[ORDERS].anchors
        assert by_key.present is index.tables[ORDERS].keys
        assert by_code.present == {b"a"}
        assert by_code.of_key == {1: b"a", -2 & MASK: None}
        padded = (number(1, 8, binary), number(-1, 2, binary), text("yy   "))
        assert (ITEMS, b"".join(padded)) in index
        assert (ITEMS, b"".join((*padded[:2], text("yy")))) in index
        assert (ITEMS, b"".join((*padded[:2], text("y")))) not in index
        assert (VISITS, number(7, 8, binary) + text("/")) in index
        assert (VISITS, number(8, 8, binary) + text("/")) not in index
        assert (ORDERS, number(4, 4, binary)) not in index


@pytest.mark.parametrize("binary", [True, False])
async def test_added_and_removed_rows(any_database: str, binary: bool) -> None:
    """One by one the index takes what a loading would give, and gives it back."""
    async with watched(any_database, DDL, MAP, [7, -5], binary=binary) as wave:
        grown = await load(wave.conn, wave.layout, MAP, 1)
        await wave.conn.execute("insert into domicile.member values (1, 3, 8)")
        full = await load(wave.conn, wave.layout, MAP, 1)
        assert len(full.tables[VISITS].keys) == 4
        before = {no: set(rows) for no, rows in wave.rows.items()}
        after = await wave.of_wave()
        fresh = [(no, key, row) for no, rows in after.items() for key, row in rows.items() if key not in before[no]]
        for no, key, row in fresh:
            grown.add(no, key, row)
        assert content(grown) == content(full)
        for no, key, _ in fresh:
            grown.discard(no, key)
            grown.discard(no, key)  # idempotent
        assert content(grown) == content(wave.index)


async def test_a_whole_wave_comes_in_portions(database: str) -> None:
    """More rows than are fetched at a time."""
    ddl = f"""create table users (id bigint primary key, ref uuid unique);
        create table t (id bigint primary key, ref uuid);
        insert into users select 7, md5('7')::uuid;
        insert into t select i, md5('7')::uuid from generate_series(-{FETCH_ROWS}, {FETCH_ROWS}) i"""
    async with watched(database, ddl, data_map("public.users", {"public.t": "ref -> public.users(ref)"}), [7]) as wave:
        assert len(wave.index.tables[1].keys) == 2 * FETCH_ROWS + 1
        assert -FETCH_ROWS & MASK in wave.index.tables[1].keys


def test_rows_without_a_key_are_counted() -> None:
    bag = Bag()
    bag.update([digest(b"a"), digest(b"a"), digest(b"b")])
    bag.discard(digest(b"a"))
    assert digest(b"a") in bag
    bag.discard(digest(b"a"))
    assert digest(b"a") not in bag
    assert len(bag) == 1


@given(st.integers(-(2**15), 2**15 - 1))
def test_an_integer_is_one_key_in_every_width_and_form(value: int) -> None:
    forms = [canonical.field(struct.pack(f"!{code}", value)) for code in "hiq"]
    of_binary, of_text = (canonical.canonical(["int"], binary=b) for b in (True, False))
    found = {of_binary([form]) for form in forms} | {of_text([canonical.field(str(value).encode())])}
    assert found == {value & MASK}
    keys = key_set(["int"])
    keys.update(found)
    assert value & MASK in keys


@given(st.lists(st.lists(st.binary(max_size=6), min_size=2, max_size=2), min_size=2, max_size=2))
def test_composite_keys_are_equal_only_part_by_part(pairs: list[list[bytes]]) -> None:
    make = canonical.canonical(["text", "bytea"], binary=True)
    first, second = (make([canonical.field(part) for part in pair]) for pair in pairs)
    assert (first == second) == (pairs[0] == pairs[1])


@given(st.lists(st.binary(max_size=9)))
def test_a_key_is_split_into_its_fields(parts: list[bytes]) -> None:
    fields = [canonical.field(part) for part in parts]
    assert list(canonical.split(b"".join(fields))) == fields
