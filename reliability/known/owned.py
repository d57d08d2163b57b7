"""Patterns of tables whose rows have one owner each."""

from __future__ import annotations

from psycopg import sql

from reliability.known.spec import Col, Made, N, Truth, pick
from reliability.known.styles import Maker

OWNED = Truth.OWNED


def plain(m: Maker) -> Made:
    """user_id, or another word for it."""
    owner, salt = m.some_owner()
    said = m.random.choice((m.style.user,) * 5 + (("owner",), ("author",), ("sender",), ("account", "holder")))
    column = m.subject_column(owner, *said)
    made = m.keyed(m.noun(), "plain", OWNED, [column])
    made.path = (m.step(column, m.world.subject),)
    made.owner_no = lambda n: pick(n, salt, m.world.subject.rows)
    return made


def bare(m: Maker) -> None:
    """A column without "id": sent_by, owner, author. Never declared in some code bases."""
    owner, _ = m.some_owner()
    said = m.random.choice((("sent", "by"), ("owner",), ("author",), ("submitted", "by")))
    column = m.subject_column(owner)
    column.name = m.column(*said)
    made = m.make(m.noun(), "bare", OWNED, [column], rows=max(300, m.some_rows()))
    made.path = (m.step(column, m.world.subject),)


def chain(m: Maker) -> None:
    """Tables that hang from one another: order, item, item's event."""
    said = m.noun()
    owner, salt = m.some_owner()
    column = m.subject_column(owner)
    parent = m.keyed(said, "chain", OWNED, [column])
    parent.path = (m.step(column, m.world.subject),)
    parent.owner_no = lambda n: pick(n, salt, m.world.subject.rows)
    for _ in range(m.random.choice((1, 1, 2, 3))):
        parent, said = hang(m, parent, said, "chain")


def hang(m: Maker, parent: Made, said: tuple[str, ...], pattern: str) -> tuple[Made, tuple[str, ...]]:
    """One more table below ``parent``."""
    below = (*said[:1], *m.noun()[-1:]) if m.style.app and said[0] in said else m.noun()
    if m.table_name(below) in {t.name for t in m.world.tables}:
        below = m.noun()
    m.taken.add(m.table_name(below))
    salt, rows = m.salt(), parent.rows
    number = pick(N, salt, rows)
    column = m.reference(parent, m.called(said), number)
    made = m.keyed(below, pattern, OWNED, [column])
    made.path = (m.step(column, parent), *parent.path)
    owner = parent.owner_no
    assert owner is not None, parent.name
    made.owner_no = lambda n: owner(pick(n, salt, rows))
    return made, below


def agreeing(m: Maker) -> None:
    """A line names its owner itself, and by its order too."""
    said = m.noun()
    owner, salt = m.some_owner()
    column = m.subject_column(owner)
    parent = m.keyed(said, "agreeing", OWNED, [column])
    parent.path = (m.step(column, m.world.subject),)
    number = pick(N, m.salt(), parent.rows)
    own = m.subject_column(pick(number, salt, m.world.subject.rows))
    line = m.make(m.noun("line"), "agreeing", OWNED, [m.reference(parent, m.called(said), number), own])
    line.path = (m.step(own, m.world.subject),)


def extension(m: Maker) -> None:
    """One row for each subject, under the subject's key, and tables that hang from it."""
    subject = m.world.subject
    column = m.subject_column(N)
    column.index = False
    made = m.make(m.noun("profile"), "extension", OWNED, [column], rows=subject.rows)
    made.columns = [c for c in made.columns if c.name != made.key_column]
    made.primary = (column.name,)
    made.path = (m.step(column, subject),)


def composite(m: Maker) -> None:
    """A key of two columns, and what refers to both."""
    said = m.noun()
    owner, _ = m.some_owner()
    column = m.subject_column(owner)
    shop, no = m.column("branch", "no"), m.column(*m.called(said), "no")
    order = m.make(said, "composite", OWNED, [])
    order.columns = [
        Col(shop, "int", sql.SQL("(1 + n % 7)::int")), Col(no, "bigint", N), column, *m.ballast()
    ]  # fmt: skip
    order.primary = (shop, no)
    order.path = (m.step(column, m.world.subject),)
    number = pick(N, m.salt(), order.rows)
    known = m.random.random() < m.style.declared
    first = Col(shop, "int", sql.SQL("(1 + {} % 7)::int").format(number), index=True, also=(no,))
    first.refers = (order.name, (shop, no)) if known else None
    line = m.make(m.noun("row"), "composite", OWNED, [first, Col(no, "bigint", number)])
    line.path = (m.step((shop, no), order, (shop, no)), *order.path)


def cycle(m: Maker) -> None:
    """A basket has a current line, a line has a basket: deferred, both ways."""
    said, below = m.noun(), m.noun("line")
    owner, salt = m.some_owner()
    column = m.subject_column(owner)
    basket = m.keyed(said, "cycle", OWNED, [column])
    basket.path = (m.step(column, m.world.subject),)
    back = m.reference(basket, m.called(said), N)
    line = m.keyed(below, "cycle", OWNED, [back], rows=basket.rows)
    line.path = (m.step(back, basket), *basket.path)
    basket.owner_no = lambda n: pick(n, salt, m.world.subject.rows)
    current = m.reference(line, ("current", *m.called(below)), N)
    current.deferred = True
    basket.columns.append(m.nullable(current, every=3))


def to_itself(m: Maker) -> None:
    """A comment answers a comment of the same author, or of another: the owner is in no doubt."""
    said = m.noun()
    owner, _ = m.some_owner()
    column = m.subject_column(owner)
    made = m.keyed(said, "self", OWNED, [column])
    parent = m.reference(made, ("parent",), pick(N, m.salt(), made.rows))
    made.columns.append(m.nullable(parent, every=2))
    made.path = (m.step(column, m.world.subject),)


def partitioned(m: Maker) -> None:
    """In partitions, with foreign keys on the leaves, or none."""
    owner, _ = m.some_owner()
    column = m.subject_column(owner)
    made = m.make(m.noun("history"), "partitioned", OWNED, [])
    made.columns = [column, *m.ballast()]
    made.primary, made.partitions, made.leaf_references = (), 3, True
    made.path = (m.step(column, m.world.subject),)


def null_in_name_only(m: Maker) -> None:
    """A column that may be null, and is not."""
    owner, _ = m.some_owner()
    column = m.subject_column(owner)
    column.not_null = False
    made = m.make(m.noun(), "nullable", OWNED, [column])
    made.path = (m.step(column, m.world.subject),)


def by_other_key(m: Maker) -> None:
    """By e-mail address, or by the subject's UUID, under a name that says nothing."""
    owner, _ = m.some_owner()
    if m.random.random() < 0.5:
        name, kind, to, fill = (
            "recipient mail",
            "text",
            m.column("email"),
            sql.SQL("gen.uuid({}, 5)::text || '@example.org'"),
        )
    else:
        name, kind, to, fill = "remote ref", "uuid", m.column("public", "uuid"), sql.SQL("gen.uuid({}, 6)")
    column = Col(m.column(*name.split()), kind, fill.format(owner), index=m.random.random() < 0.5)
    made = m.make(m.noun(), "natural key", OWNED, [column])
    made.path = (m.step(column, m.world.subject, (to,)),)


def key_and_address(m: Maker) -> None:
    """user_id, and the same subject's e-mail address beside it."""
    owner, _ = m.some_owner()
    column = m.subject_column(owner)
    mail = Col(m.column("email"), "text", sql.SQL("gen.uuid({}, 5)::text || '@example.org'").format(owner))
    made = m.make(m.noun(), "key and address", OWNED, [column, mail])
    made.path = (m.step(column, m.world.subject),)


def odd_name(m: Maker) -> None:
    """A column whose name says nothing that is known, looked up by: only its values tell."""
    owner, _ = m.some_owner()
    column = m.subject_column(owner, declared=False)
    column.name = m.column(*m.random.choice((("legacy", "ref"), ("whose",), ("belongs", "to", "key"))))
    made = m.make(m.noun(), "odd name", OWNED, [column], rows=max(900, m.some_rows()))
    made.path = (m.step(column, m.world.subject),)


def with_others(m: Maker) -> None:
    """user_id, and evidence of others beside it: a polymorphic pair, an array, JSON, who edited it last."""
    owner, _ = m.some_owner()
    column = m.subject_column(owner)
    other = pick(N, m.salt(), m.world.subject.rows)
    kind = m.random.choice(("poly", "json", "editor"))
    more: list[Col] = []
    if kind == "poly":
        target = m.random.choice([t for t in m.world.tables if t.primary and t.key is m.style.key and t.rows])
        more = [
            Col(m.column("target", "type"), "text", sql.Literal(target.name)),
            Col(m.column("target", "id"), target.key.value, target.key_at(pick(N, m.salt(), target.rows))),
        ]
    elif kind == "json":
        fill = sql.SQL("jsonb_build_object('user_id', {}, 'n', n % 5)").format(m.world.subject.key_at(other))
        more = [Col(m.column("payload"), "jsonb", fill)]
    else:
        editor = m.subject_column(other, "last", "editor", declared=False)
        more = [m.nullable(editor, every=2)]
    made = m.make(m.noun(), f"owner and {kind}", OWNED, [column, *more])
    made.path = (m.step(column, m.world.subject),)


def by_inverse(m: Maker) -> None:
    """The subject refers to its address, which nobody shares. Once a world."""
    subject = m.world.subject
    address = m.keyed(m.noun("address"), "inverse", OWNED, [], rows=subject.rows)
    address.columns += [
        Col(m.column("street"), "text", sql.SQL("n || ' Long Street'")),
        Col(m.column("phone"), "text", sql.SQL("'+49 170 ' || 1000000 + n")),
    ]
    column = m.reference(address, ("home", "address"), N, declared=True)
    column.unique = True
    subject.columns.append(column)
    address.path = (f"{address.key_column} <- {m.step((), subject, (column.name,)).split('-> ')[1]}",)


ALWAYS = (by_inverse,)
OFTEN = (plain, plain, plain, chain, chain, bare)
SOMETIMES = (
    agreeing, extension, composite, cycle, to_itself, partitioned, null_in_name_only, by_other_key, key_and_address,
    odd_name, with_others, with_others,
)  # fmt: skip
