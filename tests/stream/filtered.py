"""The small shop whose stream is filtered."""

from __future__ import annotations

from tests.stream.wave import Wave, data_map

# Users 1 and 2 are the wave; 8 and 9 are not. One order of each is there, with one item.
DDL = """
create table users (id bigint primary key, name text);
create table orders (id bigint primary key, user_id bigint, big text, n int);
alter table orders alter big set storage external;
create table items (id bigint primary key, order_id int not null references orders on delete cascade on update cascade
    deferrable, note text);
insert into users select i, 'u' || i from unnest('{1,2,8,9}'::int[]) i;
insert into orders select 10 * i, i, repeat('x', 5000), 0 from unnest('{1,2,8,9}'::int[]) i;
insert into items select 100 * i, 10 * i, 'first' from unnest('{1,2,8,9}'::int[]) i;
"""
MAP = data_map(
    "public.users",
    {"public.orders": "user_id -> public.users(id)", "public.items": "order_id -> public.orders(id)"},
)


async def said(wave: Wave, *statements: str) -> list[list[str]]:
    """What the wave is told of these statements; and what is then at the destination is what is at the origin."""
    await wave.execute(*statements)
    return wave.shown(await wave.assert_equal())
