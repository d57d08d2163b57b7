"""However the changes are cut and carried out, the rows are the origin's; and what is told of them stays small."""

from __future__ import annotations

import random
import struct

from psycopg import AsyncRawCursor, sql
import pytest
from tests.stream.destination import Destination, destination

from domicile.stream.apply import Apply
from domicile.stream.change import NULL, Change, Field, Key, Op
from domicile.stream.params import (
    array,
    by_column,
    cast_of,
    field,
    key_arrays,
    position_of,
    position_text,
    split,
    values,
)
from domicile.stream.rowwise import hold_back

USER, ORDER, ITEM = 0, 1, 2
Row = tuple[object, ...]


class Origin:
    """A model of the shop that somebody works in: every change keeps its keys unique, children go with parents."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.orders: dict[int, Row] = {}
        self.items: dict[tuple[int, int], Row] = {}
        self.changes: list[Change] = []
        self.pairs = 0

    def pair(self) -> list[Change]:
        """Two orders at least: their values can pass from one to the other."""
        self.changes = []
        self.pairs += 1  # others may have got the values of the pair before
        for key in (1, 2):
            self._order(key, (1, f"{key} of {self.pairs}", None), Op.UPDATE if key in self.orders else Op.INSERT)
        return self.changes

    def swapped(self) -> list[Change]:
        """Values that no single statement can set."""
        self.changes = []
        self.swap()
        return self.changes

    def transaction(self) -> list[Change]:
        """A few steps of work."""
        self.changes = []
        for _ in range(self.random.randint(1, 6)):
            self.random.choice([self.order, self.order, self.item, self.item, self.drop, self.rename, self.swap])()
        return self.changes

    def order(self) -> None:
        key = self.random.randint(1, 8)
        no = next(n for n in self.random.sample(range(30), 30) if all(o[1] != f"n{n}" for o in self.orders.values()))
        new = (self.random.randint(1, 5), f"n{no}", self.random.choice([None, "", "x" * 50]))
        self._order(key, new, Op.UPDATE if key in self.orders else Op.INSERT)

    def item(self) -> None:
        if not self.orders:
            return
        key = (self.random.choice(list(self.orders)), self.random.randint(1, 3))
        op = Op.UPDATE if key in self.items else Op.INSERT
        self._item(key, (self.random.choice(["pen", None]),), op)

    def drop(self) -> None:
        """ON DELETE CASCADE: the parent's deletion stands first in the log."""
        if not self.orders:
            return
        key = self.random.choice(list(self.orders))
        del self.orders[key]
        self.changes.append(Change(ORDER, Op.DELETE, int8(key)))
        for line in [k for k in self.items if k[0] == key]:
            del self.items[line]
            self.changes.append(Change(ITEM, Op.DELETE, int8(line[0]) + int4(line[1])))

    def rename(self) -> None:
        """A key changes, and ON UPDATE CASCADE follows."""
        free = [n for n in range(1, 9) if n not in self.orders]
        if not self.orders or not free:
            return
        old, new = self.random.choice(list(self.orders)), self.random.choice(free)
        self._order(new, self.orders.pop(old), Op.UPDATE, int8(old))
        for line in [k for k in self.items if k[0] == old]:
            self._item((new, line[1]), self.items.pop(line), Op.UPDATE, int8(line[0]) + int4(line[1]))

    def swap(self) -> None:
        """A unique value passes from row to row."""
        if len(self.orders) < 2:
            return
        one, two = self.random.sample(list(self.orders), 2)
        first, second = self.orders[one], self.orders[two]
        self._order(one, (first[0], "between", first[2]), Op.UPDATE)
        self._order(two, (second[0], first[1], second[2]), Op.UPDATE)
        self._order(one, (first[0], second[1], first[2]), Op.UPDATE)

    def _order(self, key: int, row: Row, op: Op, old: Key | None = None) -> None:
        fields: list[Field | None] = [int8(key), int8(row[0]), text(row[1]), text(row[2])]
        if op is Op.UPDATE and row[2] == self.orders.get(key, row)[2] and self.random.random() < 0.5:
            fields[3] = None
        self.orders[key] = row
        self.changes.append(Change(ORDER, op, int8(key), tuple(fields), old))

    def _item(self, key: tuple[int, int], row: Row, op: Op, old: Key | None = None) -> None:
        self.items[key] = row
        name = int8(key[0]) + int4(key[1])
        self.changes.append(Change(ITEM, op, name, (int8(key[0]), int4(key[1]), text(row[0])), old))


def int8(value: object) -> Field:
    return struct.pack("!iq", 8, value)


def int4(value: object) -> Field:
    return struct.pack("!ii", 4, value)


def text(value: object) -> Field:
    return NULL if value is None else field(str(value).encode())


@pytest.mark.parametrize("cut", ["batches", "parts", "composed"])
async def test_random_work_arrives_as_it_was(any_database: str, seed: int, cut: str) -> None:
    async with destination(any_database) as shop:
        await shop.conn.execute(
            b"""insert into public.users select generate_series(1, 5);
                insert into public.users values (101);
                insert into public.orders values (900, 101, 'theirs');
                insert into public.item values (900, 1, 'theirs')"""
        )
        origin = Origin(seed)
        repeated = 0
        for _ in range(4):
            async with shop.apply() as apply:
                for _ in range(6):
                    await carry_out(
                        shop, apply, [origin.transaction() for _ in range(origin.random.randint(1, 6))], cut
                    )
                await carry_out(shop, apply, [origin.pair()], cut)
                await carry_out(shop, apply, [origin.swapped()], cut, swapped=True)
                await apply.finish([shop.transaction()])
                repeated += apply.repeated
            theirs = {900: (101, "theirs", None)}
            assert {r[0]: r[1:] for r in await shop.rows("select * from public.orders")} == origin.orders | theirs
            items = {r[:2]: r[2:] for r in await shop.rows("select * from public.item")}
            assert items == origin.items | {(900, 1): ("theirs",)}
            assert await shop.stored_position() == shop.position
        assert repeated or cut == "composed", "both ways are taken"


async def carry_out(
    shop: Destination, apply: Apply, work: list[list[Change]], cut: str, *, swapped: bool = False
) -> None:
    match cut:
        case "batches":
            await apply.submit([shop.transaction(*changes) for changes in work])
        case "parts":
            for changes in work:
                # Where a parent's key changes, its children must come in the same part. Values that pass from row to
                # row in one part make it go one by one.
                whole = swapped or any(c.old_key is not None for c in changes)
                await apply.submit(shop.parts(*([changes] if whole else [[c] for c in changes]), []))
        case _:
            tail = [shop.transaction(*changes) for changes in work]
            await (await apply.send(apply.compose(tail), tail))


def test_held_deletions_come_before_their_key_does() -> None:
    held: dict[tuple[int, Key], None] = {}
    parents = frozenset({USER, ORDER})
    gone = [
        Change(ORDER, Op.DELETE, int8(1)),
        Change(ITEM, Op.DELETE, int8(1) + int4(1)),
        Change(USER, Op.DELETE, int8(5)),
    ]
    assert list(hold_back(gone, held, parents)) == [gone[1]]
    assert list(held) == [(ORDER, int8(1)), (USER, int8(5))]
    again = Change(ORDER, Op.UPDATE, int8(1), (), int8(2))
    assert list(hold_back([again], held, parents)) == [gone[0], gone[2], again]
    assert not held


def test_keys_and_positions() -> None:
    key = int8(7) + NULL + text("é")
    assert split(key, 3) == (int8(7), NULL, text("é"))
    assert by_column([key, key], 3) == [[int8(7)] * 2, [NULL] * 2, [text("é")] * 2]
    assert values(split(key, 3)) == [int8(7)[4:], None, "é".encode()]
    with pytest.raises(AssertionError):
        split(key, 2)
    assert position_of(position_text((3 << 32) + 0xAB).decode()) == (3 << 32) + 0xAB
    assert array([], 20) == bytes(8) + b"\0\0\0\x14"


KEYED = """
create type mood as enum ('calm', 'w"i,l\\d');
create domain number as int8 check (value <> 3);
create domain day as date;
create domain moment as timestamptz;
create domain raw as bytea;
create domain truth as bool;
create domain label as varchar(20);
create table users (id bigint primary key);
create table thing (a number, b mood, c day, d moment, e raw, f truth, g label, h uuid, i char(3), j timestamp(3),
    k varchar(9), user_id bigint, primary key (a, b, c, d, e, f, g, h, i, j, k));
insert into thing values (-7, 'w"i,l\\d', '1999-12-31', '1999-12-31 23:59:59.999999Z', '\\x00ff', true, 'a,"b\\',
    '00112233-4455-6677-8899-aabbccddeeff', 'é', '2026-01-01 00:00:00.5', 'null', 1),
    (8, 'calm', '2026-01-02', '2026-01-01Z', '', false, '', '00000000-0000-0000-0000-000000000000', '', 'infinity',
     '', 1)
"""


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
async def test_key_arrays_find_rows_at_either_site(any_database: str, *, binary: bool) -> None:
    """Domains and enums have other oids at each site."""
    owned = {"public.thing": "user_id -> public.users(id)"}
    async with destination(any_database, KEYED, owned, binary=binary) as here:
        table = here.table("thing")
        columns = sql.SQL(", ").join(map(sql.Identifier, table.key))
        cursor = here.conn.cursor(binary=binary)
        await cursor.execute(sql.SQL("select {} from public.thing order by a").format(columns))
        assert cursor.pgresult is not None
        keys = [b"".join(field(cursor.pgresult.get_value(row, at)) for at in range(11)) for row in range(2)]
        arrays = key_arrays(table, keys, binary)
        listed = [
            sql.SQL("${}::{}[]").format(sql.Literal(n), cast_of(table, name, binary))
            for n, name in enumerate(table.key, 1)
        ]
        typed = [sql.SQL("{}::{}").format(sql.Identifier(name), cast_of(table, name, True)) for name in table.key]
        found = AsyncRawCursor(here.conn)
        await found.execute(
            sql.SQL("select a from public.thing where ({0}) in (select {1} from unnest({2}) as u ({0}))").format(
                columns, sql.SQL(", ").join(typed), sql.SQL(", ").join(listed)
            ),
            arrays,
        )
        assert sorted(await found.fetchall()) == [(-7,), (8,)]
