"""The filter on tables of every kind of key: composite, text, by index, none at all, in partitions, with odd names."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

import pytest
from tests.stream.test_filter import said
from tests.stream.wave import Wave, content, data_map, watched

from domicile.model.errors import DomicileError, ErrorCode
from domicile.stream.change import Op, Transaction
from domicile.stream.index import load


@pytest.fixture(params=[True, False], ids=["binary", "text"])
def binary(request: pytest.FixtureRequest) -> bool:
    found: bool = request.param
    return found


async def run(wave: Wave, *statements: str) -> list[Transaction]:
    await wave.execute(*statements)
    return await wave.assert_equal()


async def test_composite_and_text_keys_two_steps_long(any_database: str, binary: bool) -> None:
    """A text subject; a composite key, referred to in another order; a step that leads to another column than the
    parent's key, by a narrower type."""
    ddl = """
        create table users (id varchar(20) primary key);
        create table carts (a int, user_id text, b bigint, code bigint unique, primary key (a, b));
        create table lines (note text, cb int, ca smallint, id uuid primary key default gen_random_uuid());
        create table gifts (id text primary key, code smallint);
        insert into users values ('ann'), ('ünal'), ('x');
        insert into carts values (1, 'ann', 2, 7), (2, 'x', 1, 8), (-1, 'ünal', -2, -9);"""
    mapped = data_map(
        "public.users",
        {
            "public.carts": "user_id -> public.users(id)",
            "public.lines": "cb, ca -> public.carts(b, a)",
            "public.gifts": "code -> public.carts(code)",
        },
    )
    async with watched(any_database, ddl, mapped, ["ann", "ünal", "new"], binary=binary) as wave:
        [first, *others] = await run(
            wave,
            "insert into lines values ('', 2, 1), ('', -2, -1), ('', 5, 5), ('', 1, 2), ('', null, 1)",
            "insert into gifts values ('g', 7), ('h', 8), ('i', -9), ('j', null)",
            "insert into users values ('new'); insert into carts values (1, 'new', 1, 1)",
        )
        assert [change.op for change in first.changes] == [Op.INSERT, Op.INSERT]
        assert wave.shown(others) == [
            ["insert gifts g", "insert gifts i"],
            ["insert users new", "insert carts 1,1"],
        ]
        assert await said(
            wave,
            "update carts set code = 70 where a = 1 and b = 2; update gifts set code = 70 where id = 'g'",
            "update gifts set code = 70 where id = 'h'",
            "delete from gifts where id in ('i', 'j')",
        ) == [["update carts 1,2", "update gifts g"], ["enter gifts h"], ["delete gifts i"]]
        assert await said(
            wave,
            "update carts set code = 71 where code = 70; update gifts set code = 71 where code = 70",
        ) == [["update carts 1,2", "update gifts g", "update gifts h"]]
        assert await said(wave, "update carts set user_id = 'x' where code = 71") == [["leave carts 1,2"]]


async def test_what_is_kept_of_rows_read_ahead(any_database: str, binary: bool) -> None:
    """Composite keys, one of them of another column than others refer to, which may be null; a table without a key."""
    ddl = """
        create table users (id varchar(20) primary key);
        create table carts (a int, user_id text, b bigint, code bigint unique, primary key (a, b));
        create table gifts (id text primary key, code smallint);
        create table notes (a int, b bigint, note text); alter table notes replica identity full;
        insert into users values ('ann'), ('x');
        insert into carts values (1, 'ann', 2, 7), (2, 'x', 1, 8), (3, 'x', 1, null);
        insert into gifts values ('g', 7), ('h', 8); insert into notes values (1, 2, 'of ann'), (2, 1, 'of x')"""
    mapped = data_map(
        "public.users",
        {
            "public.carts": "user_id -> public.users(id)",
            "public.gifts": "code -> public.carts(code)",
            "public.notes": "a, b -> public.carts(a, b)",
        },
    )
    async with watched(any_database, ddl, mapped, ["ann"], binary=binary) as wave:
        wave.opened_anew = True
        await run(
            wave,
            "update carts set user_id = 'ann' where user_id = 'x'",
            "insert into gifts values ('i', 8), ('j', 9)",
            "insert into notes values (2, 1, 'later'), (3, 1, 'later')",
            "delete from gifts where id = 'h'",
            "delete from gifts where id = 'g'; insert into gifts values ('g', 8)",
            "update carts set code = 9 where code = 8",
        )
        await run(
            wave, "update gifts set code = 7 where code = 8", "delete from notes", "delete from carts where a = 3"
        )


async def test_padded_keys(any_database: str, binary: bool) -> None:
    """Blanks at the end of a char(n) mean nothing, whatever n is."""
    ddl = """create table users (id char(4) primary key); create table t (id char(9) primary key, user_id char(6));
        insert into users values ('a'), ('b')"""
    async with watched(any_database, ddl, data_map("public.users", {"public.t": "user_id -> public.users(id)"}), ["a "],
                       binary=binary) as wave:  # fmt: skip
        [one, two] = await run(
            wave, "insert into t values ('x', 'a'), ('y', 'b')", "update t set id = 'z' where id = 'x'"
        )
        assert [len(one.changes), len(two.changes)] == [1, 1]


async def test_negative_numbers_and_narrow_references(any_database: str, binary: bool) -> None:
    ddl = """create table users (id bigint primary key); create table t (id smallint primary key, user_id int);
        create table u (t_id bigint, id int primary key);
        insert into users values (-1), (-9000000000000000000), (1)"""
    owned = {"public.t": "user_id -> public.users(id)", "public.u": "t_id -> public.t(id)"}
    async with watched(any_database, ddl, data_map("public.users", owned), [-1, -9000000000000000000],
                       binary=binary) as wave:  # fmt: skip
        assert await said(
            wave,
            "insert into t values (-7, -1), (7, 1), (-32768, -1)",
            "insert into u values (-7, -8), (7, 8), (-32768, -2147483648)",
            "update users set id = -9000000000000000000 where id = -9000000000000000000",
            "delete from u where id < 0",
        ) == [
            ["insert t -7", "insert t -32768"],
            ["insert u -8", "insert u -2147483648"],
            ["update users -9000000000000000000"],
            ["delete u -8", "delete u -2147483648"],
        ]


async def test_a_key_that_a_row_leaves_behind_with_what_hangs_from_it_is_not_given_on(
    any_database: str, binary: bool
) -> None:
    """What hangs from the deleted row by its code leaves behind all changes, and is found by the row's key."""
    ddl = """create table users (id bigint primary key);
        create table carts (id int primary key, user_id bigint, code int unique);
        create table gifts (id int primary key, code int);
        insert into users values (1); insert into gifts values (1, 70);
        insert into carts values (1, 1, 70), (2, 1, 80)"""
    owned = {"public.carts": "user_id -> public.users(id)", "public.gifts": "code -> public.carts(code)"}
    async with watched(any_database, ddl, data_map("public.users", owned), [1], binary=binary) as wave:
        again = "begin; delete from carts where id = 2; insert into carts values (2, 1, 80); commit"
        assert await said(wave, again) == [["delete carts 2", "insert carts 2"]]
        with pytest.raises(DomicileError) as caught:
            await said(wave, "begin; delete from carts where id = 1; insert into carts values (1, 1, 71); commit")
        assert caught.value.code is ErrorCode.STREAM_UNCLEAR


async def test_replica_identity_by_index(any_database: str, binary: bool) -> None:
    """The index's columns are the key, not those of the primary key."""
    ddl = """create table users (id bigint primary key);
        create table t (id int primary key, user_id bigint, code text not null, n int);
        create unique index i on t (code, user_id); alter table t alter user_id set not null;
        alter table t replica identity using index i;
        insert into users values (1), (8); insert into t values (1, 1, 'a', 0), (8, 8, 'a', 0)"""
    mapped = data_map("public.users", {"public.t": "user_id -> public.users(id)"})
    async with watched(any_database, ddl, mapped, [1], binary=binary) as wave:
        assert await said(
            wave,
            "update t set id = id + 10",
            "update t set code = 'b'",
            "update t set user_id = 1, code = 'c' where id = 18",
            "update t set user_id = 8 where id = 11",
        ) == [["update t 1,a"], ["update t 1,a -> t 1,b"], ["enter t 1,c"], ["delete t 1,b"]]
        assert await said(wave, "delete from t") == [["delete t 1,c"]]


async def test_replica_identity_full_with_a_primary_key(any_database: str, binary: bool) -> None:
    """The primary key is the key; and what the new row left out is in the old one."""
    ddl = """create table users (id bigint primary key);
        create table t (big text, id int primary key, user_id bigint, n int);
        alter table t alter big set storage external;
        alter table t replica identity full; create table s (id int primary key, t_id int);
        insert into users values (1), (8);
        insert into t values (repeat('x', 5000), 1, 1, 0), (repeat('x', 5000), 8, 8, 0);
        insert into s values (1, 1), (8, 8)"""
    owned = {"public.t": "user_id -> public.users(id)", "public.s": "t_id -> public.t(id)"}
    async with watched(any_database, ddl, data_map("public.users", owned), [1], binary=binary) as wave:
        [transaction] = await run(wave, "update t set n = 1")
        [change] = transaction.changes
        assert wave.value(change, "big") == "x" * 5000
        assert await said(
            wave,
            "begin; update t set id = 2 where id = 1; update s set t_id = 2 where t_id = 1; commit",
            "update t set user_id = 1 where id = 8",
            "update t set user_id = 8 where id = 2",
        ) == [["update t 1 -> t 2", "update s 1"], ["enter t 8"], ["leave t 2"]]
        assert await said(wave, "delete from t where id = 8; delete from s where id = 8") == [
            ["delete s 8", "leave t 8"]
        ]


async def test_replica_identity_full_with_equal_rows(any_database: str, binary: bool) -> None:
    """Nothing tells them apart: each change is told once, and they are counted."""
    ddl = """create table users (id bigint primary key);
        create table t (big text, user_id bigint, n int); alter table t alter big set storage external;
        alter table t replica identity full; insert into users values (1), (8);
        insert into t select repeat('x', 5000), u, n from unnest('{1,1,8,8}'::int[]) u, unnest('{0,0,null}'::int[]) n"""
    mapped = data_map("public.users", {"public.t": "user_id -> public.users(id)"})
    async with watched(any_database, ddl, mapped, [1], binary=binary) as wave:
        table = wave.layout.tables[1]
        rows = Counter(dict.fromkeys(wave.rows[1].values(), 0))
        rows.update(await wave.everything(table))
        assert rows.total() == 6
        await wave.execute(
            "delete from t where ctid in (select min(ctid) from t group by user_id, n)",
            "update t set n = 5 where ctid in (select min(ctid) from t group by user_id)",
            "insert into t values ('y', 1, 5), ('y', 8, 5)",
            "update t set n = 6 where big = 'y'",
            "update t set user_id = 9 - user_id where n = 6",
        )
        for transaction in await wave.transactions():
            assert not transaction.enter, "looked up at the origin, it would be taken for its equals"
            for change in transaction.changes:
                if change.op is not Op.INSERT:
                    rows[wave.fields_of(table, change.key if change.old_key is None else change.old_key)] -= 1
                if change.op is not Op.DELETE:
                    assert None not in change.fields
                    assert b"".join(f or b"" for f in change.fields) == change.key
                    rows[wave.fields_of(table, change.key)] += 1
        assert +rows == Counter(await wave.everything(table))
        assert content(wave.index) == content(await load(wave.conn, wave.layout, mapped, 1))


PARTITIONED = """
create table users (id bigint primary key);
create table pay (pid int, uid bigint, at date not null, n int) partition by range (at);
create table part (id int primary key, p int, a date);
create table pay_1 (n int, gone int, at date not null, uid bigint, pid int, primary key (pid, at));
alter table pay_1 drop gone;
alter table pay attach partition pay_1 for values from ('2024-01-01') to ('2025-01-01');
create table pay_2 partition of pay for values from ('2025-01-01') to ('2026-01-01');
alter table pay_2 add primary key (at, pid);
insert into users values (1), (8);
insert into pay values (1, 1, '2024-02-02', 0), (2, 1, '2025-02-02', 0), (8, 8, '2024-02-02', 0);
insert into part values (1, 1, '2024-02-02'), (8, 8, '2024-02-02');
"""
PARTITIONED_MAP = data_map(
    "public.users", {"public.pay": "uid -> public.users(id)", "public.part": "p, a -> public.pay(pid, at)"}
)


@pytest.mark.parametrize("full", [False, True])
async def test_partitions_with_keys_on_the_leaves_only(any_database: str, binary: bool, full: bool) -> None:
    """Told under the root's name, with the leaves' key; a leaf may have its columns in another order. A row that
    changes its partition is deleted and inserted anew."""
    ddl = PARTITIONED
    if full:  # which the root does not know
        ddl += "alter table pay_1 replica identity full; alter table pay_2 replica identity full"
    async with watched(any_database, ddl, PARTITIONED_MAP, [1], binary=binary) as wave:
        assert wave.layout.tables[1].key == ("pid", "at")
        counted = [[len(t.changes), len(t.enter), len(t.leave)] for t in await run(
            wave,
            "insert into pay values (3, 1, '2024-03-03', 0), (9, 8, '2024-03-03', 0)",
            "update pay set n = 1",
            "update pay set pid = pid + 20 where pid in (2, 3, 9)",
            "delete from pay where pid = 23",
            """begin; update pay set at = '2025-12-12' where pid = 1; update part set a = '2025-12-12' where p = 1;
               commit""",
            "update pay set uid = 1 where pid = 8",
            "update pay set uid = 8 where pid = 1",
            "delete from pay where pid = 22",
        )]  # fmt: skip
        # No foreign key takes along what hangs from a row that goes: it leaves.
        moved = 2  # insert, update of what hangs from it
        assert counted[0] == [1, 0, 0]
        assert counted[1] == [3, 0, 0]
        assert counted[2:4] == [[2, 0, 0], [0, 0, 1]]
        assert counted[4] in ([moved, 0, 1], [moved + 1, 1, 1])
        assert counted[5:] == [[0, 1, 0], [0, 0, 1], [0, 0, 1]]


async def test_a_row_that_changes_partition_and_owner(any_database: str, binary: bool) -> None:
    """What hangs from it, and did not change, goes with it."""
    ddl = """create table users (id bigint primary key);
        create table pay (pid int, uid bigint, primary key (pid, uid)) partition by list (uid);
        create table pay_1 partition of pay for values in (1); create table pay_8 partition of pay for values in (8);
        create table part (id int primary key, p int);
        insert into users values (1), (8); insert into pay values (1, 1), (8, 8);
        insert into part values (1, 1), (8, 8)"""
    mapped = data_map("public.users", {"public.pay": "uid -> public.users(id)", "public.part": "p -> public.pay(pid)"})
    async with watched(any_database, ddl, mapped, [1], binary=binary) as wave:
        assert await said(wave, "update pay set uid = 8 where pid = 1") == [["leave pay 1,1"]]
        # Out of the wave by its key alone, so into it nothing tells that parts hang from it: they are read.
        assert await said(wave, "insert into part values (9, 8)", "update pay set uid = 1 where pid = 8") == [
            ["enter pay 8,1"]
        ]


async def test_odd_names(any_database: str, binary: bool) -> None:
    ddl = """create schema "Sché ma"; create table "Sché ma"."sel""ect" ("näme %s" bigint primary key, "order" int);
        create table public."Ünïcode.dots" ("group" int primary key, "a.b" bigint);
        insert into "Sché ma"."sel""ect" values (1, 0), (8, 0)"""
    mapped = data_map(
        '"Sché ma"."sel""ect"',
        {'public."Ünïcode.dots"': '"a.b" -> "Sché ma"."sel""ect"("näme %s")'},
        key="näme %s",
    )
    async with watched(any_database, ddl, mapped, [1], binary=binary) as wave:
        assert await said(
            wave,
            'update "Sché ma"."sel""ect" set "order" = 1',
            'insert into "Ünïcode.dots" values (1, 1), (8, 8)',
        ) == [['update sel"ect 1'], ["insert Ünïcode.dots 1"]]


async def test_values_of_many_types_before_the_owner(any_database: str, binary: bool) -> None:
    """The owner's column is found behind nulls, long values and values of every width."""
    ddl = """create table users (id bigint primary key); insert into users values (1), (8);
        create table t (a smallint, b int, c bigint, d real, e float8, f date, g timestamptz, h uuid, i boolean,
            j text, k jsonb, l bytea, user_id int, id int primary key)"""
    mapped = data_map("public.users", {"public.t": "user_id -> public.users(id)"})
    some = f"1, 2, 3, 4.5, 5.5, '2024-01-01', '2024-01-01', '{UUID(int=1)}', true, 'x', '{{}}', '\\x00'"
    none = ", ".join(["null"] * 12)
    mixed = "null, 2, null, 4.5, null, '2024-01-01', null, null, true, repeat('y', 70000), null, ''"
    async with watched(any_database, ddl, mapped, [1], binary=binary) as wave:
        assert await said(
            wave,
            *(f"insert into t values ({v}, 1, {n}), ({v}, 8, {n + 50})" for n, v in enumerate((some, none, mixed))),
            "update t set b = 3",
            "delete from t",
        ) == [
            ["insert t 0"], ["insert t 1"], ["insert t 2"],
            ["update t 0", "update t 1", "update t 2"], ["delete t 0", "delete t 1", "delete t 2"],
        ]  # fmt: skip
