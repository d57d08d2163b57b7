"""Patterns of tables that a person must decide, and of tables that are nobody's."""

from __future__ import annotations

from psycopg import sql

from reliability.known.spec import Col, Key, N, Truth, pick
from reliability.known.styles import Maker

DONE = (
    "updated", "banned", "granted", "disabled", "enabled", "merged", "suspended", "imported", "refunded", "hidden",
    "pinned", "created", "added",
)  # fmt: skip
DECIDE, OTHER, OWNED = Truth.DECIDE, Truth.OTHER, Truth.OWNED


def two_people(m: Maker) -> None:
    """Sender and recipient; follower and followed. What hangs from it waits."""
    said = m.noun()
    one, other = m.random.choice((("sender", "recipient"), ("follower", "followee"), ("buyer", "seller")))
    columns = [m.subject_column(pick(N, m.salt(), m.world.subject.rows), w) for w in (one, other)]
    made = m.keyed(said, "two people", DECIDE, columns)
    m.make(m.noun(), "below two people", DECIDE, [m.reference(made, m.called(said), pick(N, m.salt(), made.rows))])


def shared_content(m: Maker) -> None:
    """A topic has an author, and posts of many others: a hub. What only hangs from it is nobody's alone."""
    said, subject = m.noun("topic"), m.world.subject
    topic = m.keyed(said, "hub", DECIDE, [m.subject_column(pick(N, m.salt(), subject.rows))], rows=m.some_rows() // 2)
    to_topic = m.called(said)
    for _ in range(m.random.choice((1, 2))):
        own = m.subject_column(pick(N, m.salt(), subject.rows))
        columns = [m.reference(topic, to_topic, pick(N, m.salt(), topic.rows)), own]
        post = m.make(m.noun("post"), "beside a hub", OWNED, columns, rows=topic.rows * 8)
        post.path = (m.step(own, subject),)
    below = m.noun("tag")
    tag = m.keyed(below, "below a hub", DECIDE, [m.reference(topic, to_topic, pick(N, m.salt(), topic.rows))])
    m.make(m.noun(), "below a hub", DECIDE, [m.reference(tag, m.called(below), pick(N, m.salt(), tag.rows))])


def lookup(m: Maker) -> None:
    """Kinds, tags and countries that owned rows refer to, small numbers that are subjects' keys by chance."""
    said, subject = m.noun("kind"), m.world.subject
    kinds = m.keyed(said, "lookup", OTHER, [Col(m.column("label"), "text", sql.SQL("'kind ' || n"))], rows=30)
    own = m.subject_column(pick(N, m.salt(), subject.rows))
    made = m.make(m.noun(), "with lookup", OWNED, [m.reference(kinds, m.called(said), pick(N, m.salt(), 30)), own])
    made.path = (m.step(own, subject),)
    m.make(m.noun("price"), "below a lookup", OTHER, [m.reference(kinds, m.called(said), pick(N, m.salt(), 30))])


def membership(m: Maker) -> None:
    """A group of several people, and who is in it."""
    said, subject = m.noun("club"), m.world.subject
    club = m.keyed(said, "group", OTHER, [], rows=max(20, m.some_rows() // 5))
    own = m.subject_column(pick(N, m.salt(), subject.rows))
    made = m.make(
        m.noun("member"), "membership", OWNED, [m.reference(club, m.called(said), pick(N, m.salt(), club.rows)), own]
    )
    made.path = (m.step(own, subject),)


def polymorphic(m: Maker) -> None:
    """x_type and x_id: a row of one of several tables."""
    targets = [t for t in m.world.tables if t.primary and t.key is m.style.key and t.rows and len(t.primary) == 1]
    one, other = m.random.sample(targets, 2)
    stem = m.random.choice(("commentable", "taggable", "item", "entity"))
    number = pick(N, m.salt(), min(one.rows, other.rows))
    # Of some only the application knows the kinds: they are numbers. No throw of the dice: all else stays as it was.
    coded = m.salts % 3 == 0
    kinds = (1, 2) if coded else (one.name, other.name)
    kind = sql.SQL("case n % 2 when 0 then {} else {} end").format(*map(sql.Literal, kinds))
    fill = sql.SQL("case n % 2 when 0 then {} else {} end").format(one.key_at(number), other.key_at(number))
    columns = [
        Col(m.column(stem, "type"), "int" if coded else "text", kind),
        Col(m.column(stem, "id"), one.key.value, fill, index=True),
    ]
    m.make(m.noun(), "polymorphic", DECIDE, columns)


def in_array(m: Maker) -> None:
    """Subjects' keys in an array."""
    subject = m.world.subject
    numbers = [subject.key_at(pick(N, m.salt(), subject.rows)) for _ in range(3)]
    fill = sql.SQL("array[{}]").format(sql.SQL(", ").join(numbers))
    name = m.column(*m.style.user, "ids")
    m.make(m.noun(), "array", DECIDE, [Col(name, f"{subject.key.value}[]", fill)], rows=max(200, m.some_rows()))


def in_json(m: Maker) -> None:
    """Subjects' keys in a document."""
    key = m.world.subject.key_at(pick(N, m.salt(), m.world.subject.rows))
    fill = sql.SQL(
        m.random.choice(
            (
                "jsonb_build_object('user_id', {}, 'n', n)",
                "jsonb_build_object('user', jsonb_build_object('id', {}), 'n', n)",
                "jsonb_build_object('members', jsonb_build_array({}), 'n', n)",
            )
        )
    ).format(key)
    m.make(m.noun("event"), "json", DECIDE, [Col(m.column("payload"), "jsonb", fill)], rows=max(200, m.some_rows()))


def inherited(m: Maker) -> None:
    """A table that another inherits: queries of the first see rows of both."""
    own = m.subject_column(pick(N, m.salt(), m.world.subject.rows))
    parent = m.keyed(m.noun("base"), "inherited", DECIDE, [own])
    child = m.make(m.noun("kind"), "inheriting", DECIDE, [], rows=parent.rows)
    child.columns, child.inherits = [*map(_plain, parent.columns)], parent.name
    child.primary, child.key_column, child.salt = parent.primary, parent.key_column, parent.salt + 1


def _plain(column: Col) -> Col:
    return Col(column.name, column.type, column.fill, column.not_null)


def without_owner(m: Maker) -> None:
    """Guests: in one row of nine there is nobody."""
    column = m.nullable(m.subject_column(pick(N, m.salt(), m.world.subject.rows)), every=9)
    m.make(m.noun(), "null owner", DECIDE, [column])


def orphaned(m: Maker) -> None:
    """Rows of subjects who are gone, three in a hundred."""
    subject = m.world.subject
    owner = pick(N, m.salt(), subject.rows)
    number = sql.SQL("case when n % 33 = 0 then {} + {} else {} end").format(
        owner, sql.Literal(subject.rows + 1000), owner
    )
    m.make(m.noun(), "orphans", DECIDE, [m.subject_column(number, declared=False)], rows=max(400, m.some_rows()))


def audit(m: Maker) -> None:
    """A trace of what was done, without a foreign key so that it outlives its subjects."""
    column = m.subject_column(pick(N, m.salt(), m.world.subject.rows), declared=False)
    m.make(m.noun("audit"), "audit", DECIDE, [column])


def done_by(m: Maker) -> None:
    """Who made it, changed it or granted it is not whose it is: a ban, a coupon, a flag, with or without a foreign key.
    What hangs from it waits."""
    said = m.noun("option")
    done = m.random.choice(DONE)
    column = m.subject_column(pick(N, m.salt(), m.world.subject.rows))
    words = m.random.choice(((done, "by"), (done, "by", m.style.id_word), ("creator", m.style.id_word)))
    column.name = m.column(*words)
    made = m.keyed(said, "done by", DECIDE, [column], rows=max(300, m.some_rows()))
    m.make(m.noun(), "below done by", DECIDE, [m.reference(made, m.called(said), pick(N, m.salt(), made.rows))])


def crossing(m: Maker) -> None:
    """A payment of one subject for the rental of another, three times in a hundred."""
    said, subject = m.noun(), m.world.subject
    salt = m.salt()
    own = m.subject_column(pick(N, salt, subject.rows))
    rental = m.keyed(said, "crossed", OWNED, [own])
    rental.path = (m.step(own, subject),)
    paid = sql.SQL("case when n % 33 = 0 then 1 + (n + 7) % {size} else n end").format(size=sql.Literal(rental.rows))
    columns = [m.reference(rental, m.called(said), paid), m.subject_column(pick(N, salt, subject.rows))]
    m.make(m.noun("payment"), "crossing", DECIDE, columns, rows=rental.rows)


def empty(m: Maker) -> None:
    """No row yet: a declared owner is one, a name alone is a question."""
    known = m.random.random() < m.style.declared
    column = m.subject_column(N, declared=known)
    made = m.make(m.noun("pilot"), "empty", OWNED if known else DECIDE, [column])
    made.rows = 0
    made.path = (m.step(column, m.world.subject),)


def operators(m: Maker) -> None:
    """Those who serve, few and numbered densely: their numbers are subjects' keys by chance."""
    style = m.style
    staff = m.keyed(("staff",), "staff", OTHER, [Col(m.column("email"), "text", sql.SQL("'s' || n || '@example.com'"))])
    staff.rows, staff.salt = 80, -1  # without gaps
    staff.columns[0].fill = staff.key_at(N)
    shift = m.make(
        m.noun("shift"), "of staff", OTHER, [m.reference(staff, m.called(("staff",)), pick(N, m.salt(), 80))]
    )
    desk = [m.reference(staff, ("agent",), pick(N, m.salt(), 80), declared=style.declared > 0)]
    if style.key is not Key.BIGINT or style.declared > 0:  # else two tables of people hold all numbers: see below
        m.make(m.noun("desk"), "of staff", OTHER, desk)
    shift.rows = max(shift.rows, 200)


def either_people(m: Maker) -> None:
    """A number that is a subject's and a clerk's: nobody can tell which by looking."""
    if m.style.key is Key.BIGINT:
        column = m.subject_column(pick(N, m.salt(), 50), "handler", declared=False)
        column.name = m.column("author", "id")
        m.make(m.noun(), "either people", DECIDE, [column], rows=300)


def machinery(m: Maker) -> None:
    """Migrations, queues, counters."""
    for words, columns in (
        (("schema", "migration"), [Col(m.column("version"), "text", sql.SQL("lpad(n::text, 14, '2')"))]),
        (
            ("job",),
            [Col(m.column("queue"), "text", sql.SQL("'default'")), Col(m.column("attempt", "no"), "int", sql.SQL("1"))],
        ),
        (("rate", "window"), [Col(m.column("bucket", "no"), "bigint", N, index=True)]),
    ):
        m.make(words, "machinery", OTHER, columns, rows=400)


def nobodys(m: Maker) -> None:
    """Texts of the application, readings of machines."""
    m.make(
        m.noun("catalogue"),
        "nobody's",
        OTHER,
        [Col(m.column("code", "no"), "bigint", sql.SQL("1 + n % 40"), index=True)],
    )


ALWAYS = (operators, either_people, machinery)
OFTEN = (lookup, nobodys, nobodys)
SOMETIMES = (
    two_people, shared_content, membership, polymorphic, in_array, in_json, inherited, without_owner, orphaned, audit,
    done_by, crossing, empty,
)  # fmt: skip
