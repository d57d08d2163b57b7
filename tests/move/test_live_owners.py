"""Rows that come to other owners, and users who come and go, while their wave is on its way: the target has exactly the
members' rows in the end, whatever became theirs or ceased to be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
import random

import psycopg
import pytest
from tests.move.cold_kit import DELETE, MERGE
from tests.move.live_kit import (
    CATCHUP,
    COPY,
    INDIA,
    ONE,
    PREPARE,
    arrived_whole,
    begun,
    closing,
    held,
    members,
    owned,
    people,
    refused,
    rows_of,
    small_store,
    through,
)
from tests.move.places import SOURCE, TARGET, Place, execute, scalar

from domicile import commands
from domicile.model.errors import ErrorCode
from domicile.model.phase import Status
from domicile.model.plan import Mode, Question, WayBack
from domicile.move import live_verify
from domicile.move.carrier import Carrier
from domicile.move.live_wave import open_live
from domicile.sites.embedded import EmbeddedCluster

# Longer than fits into a row, and not to be compressed: it lies out of line.
LONG = "(select string_agg(md5(n::text || random()::text), '') from generate_series(1, 200) as n)"
ORDER = """(select min(o.id) from store.orders as o join store.payment as p on p.order_id = o.id
    join store.order_item as i on i.order_id = o.id where o.user_id = {0})"""
LONG_NOTES = f"update store.orders set note = {LONG} || id where id % 3 = 0"
GIVE = (
    """
    update store.orders set user_id = {1}, address_id = (select min(id) from store.address where user_id = {1})
    where id = """
    + ORDER
)
STRANGER = (
    "select min(o.user_id) from store.orders as o join store.user_account as u on u.id = o.user_id where market <> 'IN'"
)
PAYMENT = "select max(p.id) from store.payment as p join store.orders as o on o.id = p.order_id where o.user_id = {0}"
PAYS = "update store.payment set order_id = {0} where id = {1}"
NEW_ORDER = """
    insert into store.orders (id, user_id, address_id, currency, total)
    select 7000001, user_id, address_id, currency, total from store.orders where user_id = {0} limit 1"""
NEW_KEY = "id /* of a row that others refer to */"
CART_OF = "(select id from store.cart where user_id = {0})"
ARRAYS = ("alter table store.user_account drop column interests", "alter table store.address drop column lines")
CASCADE = """
    alter table store."{0}" drop constraint "{0}_{1}_fkey",
    add constraint "{0}_{1}_fkey" foreign key ({1}) references {2} on delete cascade"""
CASCADES = (
    *[(table, "user_id", "store.user_account") for table in ("review", "photo", "device", "address", "orders", "cart")],
    ("Wishlist", "user_id", "store.user_account"),
    ("cart_item", "cart_id", "store.cart"),
    ("order_item", "order_id", "store.orders"),
    ("payment", "order_id", "store.orders"),
)


@pytest.fixture(params=[pytest.param("text", marks=pytest.mark.campaign), "binary"])
async def place(
    request: pytest.FixtureRequest,
    pg18: EmbeddedCluster,
    store_source: str,
    store_target: str,
    scratch: Path,
    tmp_path: Path,
) -> AsyncIterator[Place]:
    """The store's arrays make its stream one of texts; without them it is binary."""
    async with small_store((pg18, pg18), (store_source, store_target), scratch / tmp_path.name) as place:
        for site in (place.source, place.target):
            await execute(site, LONG_NOTES, *(ARRAYS if request.param == "binary" else ()))
        yield place


class Story:
    """Members and outsiders of a move, by a short name each."""

    def __init__(self, members: Sequence[int], outsiders: Sequence[int]) -> None:
        self.m, self.c = members, outsiders

    def transactions(self, at: int) -> list[str]:
        """What happens; each a transaction. ``at``: where in the lists the ones concerned begin."""
        m, c = self.m[at:], self.c[at:]
        return [
            GIVE.format(c[0], m[0]),  # comes in, with items, payments, and a note that is not sent
            GIVE.format(m[1], c[1]),  # goes out with them
            GIVE.format(m[2], m[3]),
            GIVE.format(c[2], m[0]) + ";" + GIVE.format(m[4], c[2]),
            GIVE.format(c[3], m[0]) + ";" + GIVE.format(m[0], c[3]),  # in and out
            f"update store.orders set status = 'shipped' where user_id in ({m[0]}, {c[0]}, {m[2]})",
            f"update store.orders set note = {LONG} where user_id = {m[3]}",
            # Keys, with and without another owner.
            f"update store.photo set id = id + 500000 where user_id in ({m[0]}, {c[0]})",
            f"""update store."Wishlist" set "order" = "order" + 1000 where user_id in ({m[0]}, {c[0]})""",
            f"""update store."Wishlist" set user_id = {c[1]}, "order" = "order" + 2000 where user_id = {m[1]}""",
            f"""update store."Wishlist" set user_id = {m[1]}, "order" = "order" + 3000 where user_id = {c[2]}""",
            f"update store.device set imei = overlay(imei placing '9' from 1 for 1) where user_id in ({m[2]}, {c[0]})",
            f"update store.payment set paid_at = paid_at + '40 days' where order_id = {ORDER.format(m[0])}",
            # A cart changes hands with what is in it, and single things between carts.
            f"""delete from store.cart_item where cart_id = {CART_OF.format(m[4])};
                delete from store.cart where user_id = {m[4]};
                update store.cart set user_id = {m[4]} where user_id = {c[4]}""",
            f"insert into store.cart (user_id) values ({m[0]}), ({c[0]}), ({c[1]}) on conflict do nothing",
            f"""insert into store.cart_item select {CART_OF.format(c[0])}, n, 1 from generate_series(4, 6) as n
                on conflict do nothing""",
            f"""update store.cart_item set cart_id = {CART_OF.format(m[0])}, product_id = 130 - product_id
                where cart_id = {CART_OF.format(c[0])} and product_id in (4, 5, 6)""",
            f"""update store.cart_item set cart_id = {CART_OF.format(c[1])}, product_id = 7
                where cart_id = {CART_OF.format(m[0])} and product_id = 126""",
            # Merged into a member, into an outsider; an outsider into a member; somebody leaves for good.
            MERGE.format(m[5], m[0]) + ";" + DELETE.format(m[5]),
            MERGE.format(m[6], c[0]) + ";" + DELETE.format(m[6]),
            MERGE.format(c[5], m[0]) + ";" + DELETE.format(c[5]),
            DELETE.format(m[7]),
            DELETE.format(c[6]),
            # What hangs from an order that went out, or never was in.
            f"""update store.order_item set quantity = quantity + 1
                where order_id in (select id from store.orders where user_id in ({c[0]}, {c[1]}))""",
        ]


async def story(place: Place) -> Story:
    return Story(await people(place.source), await people(place.source, "CN"))


async def test_owners_change_before_the_stream_begins_and_while_it_runs(place: Place) -> None:
    """Some changes are read long after they were made, others at once."""
    residents = await owned(place.target)
    told = await story(place)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        await execute(place.source, *[f"begin; {t}; commit" for t in told.transactions(0)])
        async with held(place, carrier) as outsider, asyncio.TaskGroup() as group:
            group.create_task(through(carrier, CATCHUP))
            await closing(place)
            await execute(place.source, *[f"begin; {t}; commit" for t in told.transactions(8)])
            await outsider.rollback()
    await arrived_whole(place, residents)


async def test_users_are_deleted_with_what_hangs_from_them_by_cascade(place: Place) -> None:
    """The server deletes what nobody named: it is in the stream all the same. Of members and of outsiders."""
    residents = await owned(place.target)
    told = await story(place)
    for site in (place.source, place.target):
        await execute(site, *[CASCADE.format(*reference) for reference in CASCADES])
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        carts = "delete from store.cart where user_id in ({0}, {1})"
        await execute(place.source, carts.format(told.m[0], told.c[0]))
        async with held(place, carrier) as outsider, asyncio.TaskGroup() as group:
            group.create_task(through(carrier, CATCHUP))
            await closing(place)
            for user in (told.m[1], told.m[2], told.c[1]):
                await execute(place.source, f"delete from store.orders where user_id = {user}")
                await execute(place.source, f"delete from store.user_account where id = {user}")
            await execute(place.source, carts.format(told.m[3], told.c[3]))
            await outsider.rollback()
    await arrived_whole(place, residents)
    assert await scalar(place.target, "select count(*) from store.user_account where id = %s", told.m[1]) == 0


class Dice:
    """Random transactions about owners and keys, each of one to three statements."""

    def __init__(self, seed: int, told: Story) -> None:
        self._random = random.Random(seed)
        self._users = [*told.m, *told.c]

    def transaction(self) -> list[str]:
        statements = [self._statement() for _ in range(self._random.choice((1, 1, 2, 3)))]
        # Where a key changes and rows leave in one transaction, nobody can tell what hung from it: the wave steps back.
        return [s for s in statements if NEW_KEY in s][:1] or statements

    def _statement(self) -> str:
        one, other, *_ = self._random.sample(self._users, 2)
        number = self._random.randrange(1, 10_000_000)
        order = f"(select id from store.orders where user_id = {one} order by md5(id::text || '{number}') limit 1)"
        address = "(select min(id) from store.address where user_id = {})"
        return self._random.choice([
            f"update store.orders set user_id = {other}, address_id = {address.format(other)} where id = {order}",
            f"update store.orders set user_id = {other}, address_id = {address.format(other)} where id = {order}",
            (f"update store.orders set {NEW_KEY} = {number}, user_id = {other}, address_id = {address.format(other)}"
            f" where id = (select id from store.orders as o where user_id = {one} and not exists (select from"
            f" store.order_item where order_id = o.id) and not exists (select from store.payment where order_id = o.id)"
            f" limit 1)"),
            (f"insert into store.orders (user_id, address_id, currency, total, note) select {one}, min(id), 'INR', 1,"
            f" {LONG} from store.address where user_id = {one}"),
            (f"insert into store.order_item (order_id, line_no, product_id, quantity, unit_price)"
            f" select id, 1 + {number} % 30000, 1, 1, 1 from store.orders where id = {order}"),
            (f"insert into store.payment (order_id, method, amount, currency) select id, 'wallet', 1, 'INR'"
            f" from store.orders where id = {order}"),
            (f"update store.order_item set order_id = (select max(id) from store.orders where user_id = {other}),"
            f" line_no = 1 + {number} % 30000 where order_id = {order} and line_no = 1"),
            (f"update store.payment set order_id = (select max(id) from store.orders where user_id = {other}),"
            f" paid_at = paid_at + '31 days' where order_id = {order}"),
            f"update store.orders set status = 'shipped' where id = {order}",
            f"update store.orders set note = {LONG} where id = {order}",
            f"delete from store.payment where order_id = {order}",
            f"delete from store.order_item where order_id = {order}",
            f"""update store."Wishlist" set user_id = {other}, "order" = {number} where user_id = {one} and "order" =
                (select min("order") from store."Wishlist" where user_id = {one})""",
            (f"update store.photo set user_id = {other}, id = {number} where id = (select min(id) from store.photo"
            f" where user_id = {one})"),
            f"insert into store.cart (user_id) values ({one}) on conflict do nothing",
            (f"insert into store.cart_item select id, 1 + {number} % 126, 1 from store.cart where user_id = {one}"
            f" on conflict do nothing"),
            (f"update store.cart_item set cart_id = (select id from store.cart where user_id = {other})"
            f" where cart_id = {CART_OF.format(one)} and product_id % 5 = {number % 5}"),
            (f"update store.cart set user_id = {other} where user_id = {one}"
            f" and not exists (select from store.cart where user_id = {other})"),
            (f"update store.cart set {NEW_KEY} = {number} where user_id = {one}"
            f" and not exists (select from store.cart_item where cart_id = cart.id)"),
            f"delete from store.cart_item where cart_id = {CART_OF.format(one)}",
            f"savepoint s; update store.review set user_id = {other} where user_id = {one}; rollback to s",
            f"update store.referral set inviter_id = {other} where inviter_id = {one}",
        ])  # fmt: skip


async def writing(conninfo: str, dice: Dice, count: int) -> int:
    """So many transactions, of which some fail; how many are committed."""
    done = 0
    async with await psycopg.AsyncConnection.connect(conninfo) as conn:
        for _ in range(count):
            try:
                for statement in dice.transaction():
                    await conn.execute(statement.encode())
                await conn.commit()
                done += 1
            except (psycopg.errors.IntegrityError, psycopg.errors.OperationalError, psycopg.errors.DataError):
                await conn.rollback()
    return done


async def test_rows_wander_at_random(place: Place, seed: int) -> None:
    """Between members, outsiders and back, with and without new keys, in several sessions at once, before the stream
    begins and while it runs."""
    residents = await owned(place.target)
    told = await story(place)
    some = Story(told.m[:12], told.c[:12])
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        committed = await asyncio.gather(*(writing(place.source, Dice(seed + n, some), 40) for n in range(3)))
        async with held(place, carrier) as outsider, asyncio.TaskGroup() as group:
            group.create_task(through(carrier, CATCHUP))
            await closing(place)
            committed += await asyncio.gather(*(writing(place.source, Dice(seed - n, some), 60) for n in range(1, 4)))
            await outsider.rollback()
    await arrived_whole(place, residents)
    assert min(committed) > 10


BREATH = 0.15  # seconds between two gifts; without, no moment is ever without one, and no handover succeeds


async def giving(conninfo: str, one: int, other: int) -> int:
    """Give an order to and fro, over and over, until one of the two has moved; how often."""
    times = 0
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        while True:
            try:
                await conn.execute(GIVE.format(*((one, other) if times % 2 == 0 else (other, one))).encode())
            except psycopg.Error as error:
                if error.sqlstate == "DM001":
                    return times
                if error.sqlstate != "40001":
                    raise
            times += 1
            await asyncio.sleep(BREATH)


async def test_rows_change_hands_up_to_the_last_moment(place: Place) -> None:
    """Rows that come in are read ahead of the stream, whoever compares them meanwhile; and each brings the stream to a
    halt when the handover has begun to hold it: then that is tried again."""
    residents = await owned(place.target)
    told = await story(place)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        async with asyncio.TaskGroup() as group:
            gifts = [
                group.create_task(giving(place.source, *pair))
                for pair in ((told.m[0], told.c[0]), (told.m[1], told.c[1]), (told.c[2], told.m[2]))
            ]
            await asyncio.wait_for(through(carrier, CATCHUP), 150)
    await arrived_whole(place, residents)
    assert min(gift.result() for gift in gifts) >= 3


# The stream is opened anew


LATER = "select count(*) from store.order_item where line_no = 77"


async def comes_in(conninfo: str, member: int, outsider: int) -> None:
    """An outsider's order becomes a member's, and what hangs from it changes afterwards."""
    order = await scalar(conninfo, f"select {ORDER.format(outsider)}")
    await execute(
        conninfo,
        f"update store.orders set note = {LONG} where id = {order}",
        GIVE.format(outsider, member),
        f"""insert into store.order_item (order_id, line_no, product_id, quantity, unit_price)
            values ({order}, 77, 1, 1, 1)""",
        f"insert into store.payment (order_id, method, amount, currency) values ({order}, 'wallet', 1, 'INR')",
        f"delete from store.order_item where order_id = {order} and line_no <> 77",
        f"update store.order_item set quantity = 5 where order_id = {order}",
    )


async def opened(carrier: Carrier) -> None:
    """Open the wave's stream, and close it when it has told everything."""
    async with open_live(carrier, 1) as live:
        await live_verify.mark(live)


async def test_what_was_read_ahead_is_not_applied_again_when_the_stream_is_opened_anew(place: Place) -> None:
    """What came in was read in a snapshot that is ahead of the position: it sees what the stream tells again."""
    residents = await owned(place.target)
    told = await story(place)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        await comes_in(place.source, told.m[0], told.c[0])
        for _ in range(2):
            await opened(carrier)
        await comes_in(place.source, told.m[1], told.c[1])
        for _ in range(2):
            await opened(carrier)
        await through(carrier, CATCHUP)
    await arrived_whole(place, residents)
    assert await scalar(place.target, LATER) == 2


async def test_what_was_read_ahead_is_not_applied_again_on_the_way_back(place: Place) -> None:
    """Every round of a soak opens the stream anew, and so does the rollback."""
    question = Question(place.dataset, SOURCE, TARGET, where=INDIA, way_back=WayBack.STREAM)
    plan = await commands.plan(place.workspace, question, limits=ONE)
    resident = await scalar(place.target, "select min(user_id) from store.orders")
    move = (await commands.apply(place.workspace, plan, mode=Mode.LIVE)).move_id
    somebody, *_ = await members(place, "departed")
    await comes_in(place.target, somebody, resident)
    stop = asyncio.Event()
    stop.set()
    for _ in range(3):
        await commands.soak(place.workspace, move, stop=stop)
        assert await scalar(place.source, LATER) == 1
    at_target = await owned(place.target)
    assert (await commands.rollback(place.workspace, move)).status is Status.ABORTED
    assert rows_of(await owned(place.source), [somebody]) == rows_of(at_target, [somebody])


async def test_a_row_that_was_read_ahead_of_its_parent_goes_with_the_step_back(place: Place) -> None:
    """It came in, and was given to a new order of the member's, before the stream told of either: at the target it
    stands below an order that never arrives, so that nobody owns it."""
    member, stranger = (await people(place.source))[0], await scalar(place.source, STRANGER)
    payment = await scalar(place.source, PAYMENT.format(stranger))
    assert payment is not None
    await execute(place.target, NEW_ORDER.format("(select min(user_id) from store.orders)"))  # it refuses the member's
    async with begun(place, limits=ONE) as carrier:
        await through(carrier, PREPARE, COPY)
        await execute(place.source, PAYS.format(ORDER.format(member), payment))
        await execute(place.source, NEW_ORDER.format(member) + ";" + PAYS.format("7000001", payment))
        wave = await refused(carrier)
    # The latter once the stream has passed the snapshot in which the payment was read.
    assert wave.error_code in (ErrorCode.KEYS_IN_PASSING, ErrorCode.KEYS_COLLIDE)
    assert await scalar(place.target, f"select count(*) from store.payment where id = {payment}") == 0


async def test_a_row_that_was_read_ahead_is_whose_it_became_after_the_arrival(place: Place) -> None:
    """A resident gets it from the member. It stays his when the wave has gone back and what it left is removed."""
    member, stranger = (await people(place.source))[0], await scalar(place.source, STRANGER)
    payment = await scalar(place.source, PAYMENT.format(stranger))
    resident = await scalar(place.target, "select min(user_id) from store.orders")
    async with begun(place, limits=ONE) as carrier:
        await through(carrier, PREPARE, COPY)
        await execute(place.source, PAYS.format(ORDER.format(member), payment))
        await through(carrier, CATCHUP)
    assert await scalar(place.target, f"select count(*) from store.payment where id = {payment}") == 1
    await execute(place.target, PAYS.format(ORDER.format(resident), payment))
    assert (await commands.rollback(place.workspace, carrier.move.move_id)).status is Status.ABORTED
    assert (await commands.purge(place.workspace, carrier.move.move_id)).rows > 0
    assert await scalar(place.target, f"select count(*) from store.payment where id = {payment}") == 1
    assert await scalar(place.source, f"select count(*) from store.payment where id = {payment}") == 0
