"""`domicile survey`: roles only where facts make them certain, the rest undecided with candidates and reasons."""

from __future__ import annotations

from psycopg import AsyncConnection
import pytest

from domicile.model.datamap import Role
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import TableName
from domicile.survey.datamap_file import parse
from domicile.survey.discover import Draft, draft

ODD = "Odd Shop"


def roles(found: Draft) -> dict[Role, set[str]]:
    return {role: {t.name for t in found.data_map.of_role(role)} for role in Role if found.data_map.of_role(role)}


def owner(found: Draft, schema: str, table: str) -> str:
    return str(found.data_map.tables[TableName(schema, table)].owner)


def comment(found: Draft, schema: str, table: str) -> str:
    return "\n".join(found.comments[TableName(schema, table)])


async def test_pagila(pagila: AsyncConnection) -> None:
    found = await draft(pagila, "pagila")
    assert roles(found) == {
        Role.SUBJECT: {"customer"},
        Role.OWNED: {"address", "rental"},
        Role.REFERENCE: {"city", "country", "film", "inventory", "language", "store"},
        Role.LOCAL: {"category", "film_actor", "film_category"},
        Role.UNDECIDED: {"actor", "payment", "staff"},
    }
    assert parse(found.text) == found.data_map
    assert owner(found, "public", "address") == "address_id <- public.customer(address_id)"
    assert "599 rows are used by exactly one subject, 4 by none" in comment(found, "public", "address")
    assert "also referred to by public.staff, public.store" in comment(found, "public", "address")


async def test_pagila_market_is_three_references_away(pagila: AsyncConnection) -> None:
    found = await draft(pagila, "pagila")
    market = found.data_map.subject.market
    statement = f"select ({market}) as market, count(*) from public.customer subject group by 1 order by 2 desc limit 1"
    assert await (await pagila.execute(statement)).fetchone() == ("India", 60)
    assert "108 values over 599 subjects, 0 without one" in comment(found, "public", "customer")


async def test_pagila_payments_of_another_customers_rental_are_seen(pagila: AsyncConnection) -> None:
    said = comment(await draft(pagila, "pagila"), "public", "payment")
    assert "5 of 16049 rows looked at refer by rental_id -> public.rental(rental_id) to a row of another owner" in said
    assert "candidate: role: owned, owner: customer_id -> public.customer(customer_id)" in said
    assert "on 6 of 7 partitions" in said


async def test_chinook(chinook: AsyncConnection) -> None:
    found = await draft(chinook, "chinook")
    assert roles(found) == {
        Role.SUBJECT: {"customer"},
        Role.OWNED: {"invoice", "invoice_line"},
        Role.REFERENCE: {"album", "artist", "genre", "media_type", "track"},
        Role.LOCAL: {"playlist", "playlist_track"},
        Role.UNDECIDED: {"employee"},
    }
    assert found.data_map.subject.market == "subject.country"
    assert set(found.data_map.tables[TableName("public", "customer")].personal) >= {
        "email",
        "phone",
        "first_name",
        "city",
    }


async def test_world(world: AsyncConnection) -> None:
    found = await draft(world, "store")
    assert roles(found) == {
        Role.SUBJECT: {"user_account"},
        Role.OWNED: {
            "address", "device", "orders", "order_item", "payment", "review", "cart", "cart_item", "Wishlist", "photo",
            "referral",
        },
        Role.REFERENCE: {"currency", "market", "category", "product"},
        Role.LOCAL: {"warehouse"},
        Role.UNDECIDED: {"audit_log", "staff"},
    }  # fmt: skip
    assert found.data_map.subject.market == "subject.market"
    assert owner(found, "store", "referral") == "inviter_id -> store.user_account(id)"
    assert "no foreign key, but proven: its name says a person" in comment(found, "store", "referral")
    assert "candidate: role: owned, owner: order_id -> store.orders(id)" in comment(found, "store", "audit_log")
    assert found.data_map.tables[TableName("store", "photo")].object_keys == ("object_key",)
    assert set(found.data_map.tables[TableName("store", "device")].personal) == {"imei", "last_ip"}
    assert "leads to the same owner in all" in comment(found, "store", "orders")


async def test_odd_schema(odd: AsyncConnection) -> None:
    found = await draft(odd, "odd")
    assert roles(found) == {
        Role.SUBJECT: {"User"},
        Role.OWNED: {"select", "basket", "line", "residence"},
        Role.LOCAL: {"base"},
        Role.UNDECIDED: {"message", "attachment", "note", "comment", "household", "session", "derived", "far"},
    }
    assert parse(found.text) == found.data_map
    assert found.data_map.subject.key == "User Name"
    message = comment(found, ODD, "message")
    assert 'owner: sender -> "Odd Shop"."User"("User Name")' in message
    assert 'owner: recipient -> "Odd Shop"."User"("User Name")' in message
    assert '"Odd Shop".message must be decided first' in comment(found, ODD, "attachment")
    assert "author may be null, and is in 18 of 90 rows" in comment(found, ODD, "note")
    assert "commentable_type and commentable_id seem to refer to rows of several tables" in comment(
        found, ODD, "comment"
    )
    assert "45 rows are used by several subjects" in comment(found, ODD, "household")
    assert "role: shared" in comment(found, ODD, "household")
    assert "a foreign table" in comment(found, ODD, "far")
    assert "no value was looked at" in comment(found, ODD, "far")
    assert "unlogged" in comment(found, ODD, "session")
    assert "9 of 9 rows looked at refer by parent" in comment(found, ODD, "select")


async def test_owner_that_may_be_null_but_never_is(odd: AsyncConnection) -> None:
    await odd.execute('delete from "Odd Shop".note where author is null')
    found = await draft(odd, "odd")
    assert owner(found, ODD, "note") == 'author -> "Odd Shop"."User"("User Name")'
    assert "author may be null, and is in 0 of 72 rows looked at" in comment(found, ODD, "note")


async def test_a_foreign_key_that_nobody_has_validated_is_looked_at(odd: AsyncConnection) -> None:
    basket = TableName("Odd Shop", "basket")
    await odd.execute('alter table "Odd Shop".basket drop constraint basket_owner_fkey')
    again = 'alter table "Odd Shop".basket add constraint basket_owner_fkey foreign key (owner)'
    await odd.execute(f'{again} references "Odd Shop"."User" not valid')
    found = await draft(odd, "odd")
    assert basket not in found.undecided
    assert "nobody has validated" in comment(found, "Odd Shop", "basket")
    await odd.execute("set session_replication_role = replica")
    await odd.execute("""insert into "Odd Shop".basket values (4711, 'nobody')""")
    found = await draft(odd, "odd")
    assert basket in found.undecided
    assert "that nobody has validated, and not all rows lead to an owner by it" in comment(found, "Odd Shop", "basket")


async def test_paths_that_disagree_are_for_a_person(odd: AsyncConnection) -> None:
    before = await draft(odd, "odd")
    assert owner(before, ODD, "line") == 'basket -> "Odd Shop".basket(id)'
    await odd.execute('alter table "Odd Shop".line add "user" text references "Odd Shop"."User"')
    await odd.execute('update "Odd Shop".line set "user" = (select owner from "Odd Shop".basket b where b.id = basket)')
    agreeing = await draft(odd, "odd")
    assert owner(agreeing, ODD, "line") == 'basket -> "Odd Shop".basket(id)'
    assert "in all 90 rows looked at" in comment(agreeing, ODD, "line")
    await odd.execute('update "Odd Shop".line set "user" = \'Ünal 1\' where basket = 7')
    differing = await draft(odd, "odd")
    assert TableName(ODD, "line") in differing.undecided
    assert "1 of 90 rows looked at refer by" in comment(differing, ODD, "line")


async def test_empty_database_of_the_same_shape(odd: AsyncConnection) -> None:
    """Nothing to measure: what was certain by its foreign keys stays so, what was measured is asked."""
    await odd.execute('truncate "Odd Shop"."User" cascade')
    found = await draft(odd, "odd")
    assert roles(found)[Role.OWNED] == {"select", "basket", "line", "residence"}
    assert {"note", "household"} <= roles(found)[Role.UNDECIDED]


async def test_subject_by_name(pagila: AsyncConnection) -> None:
    found = await draft(pagila, "rental", subject="public.staff")
    assert found.data_map.subject.key == "staff_id"
    assert owner(found, "public", "rental") == "staff_id -> public.staff(staff_id)"


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("public.nobody", "there is no table"),
        ("a.b.c", "not a table name"),
        ("public.film_actor", "no key of one column"),
    ],
)
async def test_subject_that_cannot_be(pagila: AsyncConnection, subject: str, said: str) -> None:
    with pytest.raises(DomicileError, match=said) as caught:
        await draft(pagila, "pagila", subject=subject)
    assert caught.value.code is ErrorCode.MAP_INCOMPLETE
    assert caught.value.hint


async def test_no_subject(odd: AsyncConnection) -> None:
    await odd.execute('drop schema "Odd Shop" cascade; create table public.thing (id integer primary key)')
    with pytest.raises(DomicileError, match="no table looks like that of the subjects") as caught:
        await draft(odd, "odd")
    assert "--subject" in caught.value.hint


async def test_two_tables_that_could_be_the_subject(odd: AsyncConnection) -> None:
    await odd.execute('drop schema "Odd Shop" cascade')
    for name in ("client", "member"):
        await odd.execute(f"create table public.{name} (id integer primary key, email text)")
    with pytest.raises(DomicileError, match=r"client and public\.member both look like") as caught:
        await draft(odd, "odd")
    why = "11 points: its name says so; 0 tables refer to it, 0 with those that refer to them; 1 personal columns"
    assert caught.value.facts["candidates"] == {"public.client": why, "public.member": why}


async def test_no_value_of_a_row_is_in_the_draft(odd: AsyncConnection) -> None:
    text = (await draft(odd, "odd")).text
    assert "Ünal" not in text
    assert "@example.org" not in text
