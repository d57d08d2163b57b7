"""One world of a family, at a size: patterns until there are as many tables as asked, the same for the same seed."""

from __future__ import annotations

from random import Random

from psycopg import sql

from reliability.known import hard, owned
from reliability.known.spec import Col, Made, N, Truth, World
from reliability.known.styles import STYLES, Maker

FAMILIES = tuple(STYLES)
SUBJECT_SHARE = 25  # one row of so many is a subject
SUBJECTS_MIN = 300
OWNED_SHARE = 0.6


def make_world(family: str, tables: int, rows: int, seed: int = 1) -> World:
    """A world of about ``rows`` rows in at least ``tables`` tables. Raises KeyError for a family that is not known."""
    style = STYLES[family]
    random = Random(f"{family} {tables} {seed}")
    name = "_".join(style.subject_words) if not style.camel else "User"
    if style.app:
        name = f"accounts_{name}"
    subject = Made(name, "subject", max(SUBJECTS_MIN, rows // SUBJECT_SHARE), [], Truth.SUBJECT, key=style.key, salt=1)
    maker = Maker(style, random, max(20, rows // tables), World(family, subject, [subject]), {name})
    subject.key_column = style.subject_key
    subject.primary = (style.subject_key,)
    subject.columns = [
        Col(style.subject_key, style.key.value, subject.key_at(N)),
        Col(maker.column("email"), "text", sql.SQL("gen.uuid(n, 5)::text || '@example.org'"), unique=True),
        Col(maker.column("public", "uuid"), "uuid", sql.SQL("gen.uuid(n, 6)"), unique=True),
        Col(maker.column("full", "name"), "text", sql.SQL("'Person ' || md5(n::text)")),
        Col(maker.column("country"), "text", sql.SQL("case n % 3 when 0 then 'CN' when 1 then 'IN' else 'SG' end")),
    ]
    for always in (*owned.ALWAYS, *hard.ALWAYS, owned.plain, owned.plain):
        always(maker)
    # Each pattern once, then by chance.
    for once in (*owned.SOMETIMES, *hard.SOMETIMES):
        if len(maker.world.tables) < tables:
            once(maker)
    while len(maker.world.tables) < tables:
        frequent, rare = (
            (owned.OFTEN, owned.SOMETIMES) if random.random() < OWNED_SHARE else (hard.OFTEN, hard.SOMETIMES)
        )
        random.choice(frequent if random.random() < 0.5 else rare)(maker)
    return maker.world
