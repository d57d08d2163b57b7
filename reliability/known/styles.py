"""How code bases name tables and columns, number rows and declare references; copied from none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from psycopg import sql

from domicile.model.datamap import Direction, OwnerStep
from domicile.model.schema import TableName
from reliability.known.spec import Col, Expression, Key, Made, N, Truth, World, pick


def _words(text: str) -> list[str]:
    return text.split()


NOUNS = _words(
    "order invoice ticket coupon voucher basket refund shipment parcel delivery quote contract claim policy "
    "receipt deposit payout transfer loan card booking trip ride seat itinerary stay visit appointment "
    "prescription referral therapy allergy diary journal memo bookmark highlight draft snippet playlist album "
    "track scrobble reading workout meal recipe pantry allotment garden pet vehicle licence permit badge medal "
    "quest streak score guess puzzle answer survey ballot petition pledge donation wish gift registry checklist "
    "chore reminder alarm calendar timer note folder upload snapshot backup export import download archive scan "
    "photo clip stream caption subtitle transcript device handset beacon tracker sensor session login token "
    "consent preference theme shortcut widget filter alert digest mailing outbox inbox attachment signature "
    "stamp sticker emoji reaction poke wave nudge invite request application resume portfolio certificate course "
    "lesson exam grade homework lecture essay citation review rating"
)
SECOND = _words(
    "item line entry event state change setting detail part piece step mark draft copy share flag lock view"
)
WORLDS = _words("billing forum crm travel health studio fleet market school media news social desk game home")


@dataclass(frozen=True)
class Style:
    """The habits of one kind of code base."""

    family: str
    key: Key
    subject_words: tuple[str, ...]
    subject_key: str = "id"
    plural: bool = True
    glued: bool = False  # userid
    camel: bool = False  # "userId"
    app: bool = False  # an application's name before each table's: auth_user
    declared: float = 0.0  # how often a reference has its foreign key
    keyless: float = 0.0  # how often a table has no primary key
    user: tuple[str, ...] = ("user",)  # how columns call the subject
    id_word: str = "id"


STYLES = {
    s.family: s
    for s in (
        Style("rails", Key.BIGINT, ("users",), declared=0.15),
        Style("django", Key.BIGINT, ("customer",), plural=False, app=True, declared=0.9, user=("customer",)),
        Style("matrix", Key.NAME, ("users",), subject_key="name", declared=0.05, keyless=0.4),
        Style("messenger", Key.TOKEN, ("users",), glued=True),
        Style("camel", Key.UUID, ("user",), plural=False, camel=True, declared=0.5),
        Style("declared", Key.BIGINT, ("members",), declared=1.0, user=("member",)),
    )
}


@dataclass
class Maker:
    """Makes the tables of one world: a pattern asks it for names, keys and references in the style of the family."""

    style: Style
    random: Random
    rows: int  # of a usual table
    world: World
    taken: set[str] = field(default_factory=set)
    salts: int = 100

    def salt(self) -> int:
        self.salts += 1
        return self.salts

    def noun(self, *more: str) -> tuple[str, ...]:
        """Words of a table that is not there yet."""
        while True:
            first = self.random.choice(NOUNS)
            said = (*((self.random.choice(WORLDS),) if self.random.random() < 0.6 else ()), first, *more)
            if not more and self.random.random() < 0.4:
                said = (*said, self.random.choice(SECOND))
            name = self.table_name(said)
            if name not in self.taken and len(set(said)) == len(said):
                self.taken.add(name)
                return said

    def table_name(self, said: tuple[str, ...]) -> str:
        if self.style.app:
            app, *rest = said if said[0] in WORLDS else ("shop", *said)
            return f"{app}_{''.join(rest)}"
        words = (*said[:-1], _plural(said[-1])) if self.style.plural else said
        return self._joined(words, first_big=True)

    def column(self, *said: str) -> str:
        return self._joined(said, first_big=False)

    def _joined(self, said: tuple[str, ...], *, first_big: bool) -> str:
        if self.style.camel:
            return "".join(w.capitalize() if n or first_big else w for n, w in enumerate(said))
        return ("" if self.style.glued else "_").join(said)

    def called(self, said: tuple[str, ...]) -> tuple[str, ...]:
        """How columns call a table: an application's prefix is left out."""
        if self.style.app and said[0] in WORLDS:
            return ("".join(said[1:]),)
        return ("".join(said),) if self.style.app else said

    def reference(self, to: Made, said: tuple[str, ...], number: Expression, *, declared: bool | None = None) -> Col:
        """A column that refers to another table's key."""
        known = self.random.random() < self.style.declared if declared is None else declared
        return Col(
            self.column(*said, self.style.id_word),
            to.key.value,
            to.key_at(number),
            index=True,
            refers=(to.name, (to.key_column,)) if known else None,
            deferred=self.style.app,
        )

    def subject_column(self, number: Expression, *said: str, declared: bool | None = None) -> Col:
        """A column that refers to the subject: user_id, or as ``said``."""
        return self.reference(self.world.subject, said or self.style.user, number, declared=declared)

    def some_owner(self, salt: int | None = None) -> tuple[Expression, int]:
        """A row's owner, at random; and the salt that makes it."""
        used = salt or self.salt()
        return pick(N, used, self.world.subject.rows), used

    def step(self, columns: Col | tuple[str, ...], to: Made, to_columns: tuple[str, ...] = ()) -> str:
        """An owner step as the data map writes it."""
        names = (columns.name,) if isinstance(columns, Col) else columns
        return str(OwnerStep(names, Direction.TO, TableName("public", to.name), to_columns or (to.key_column,)))

    def make(self, said: tuple[str, ...], pattern: str, truth: Truth, columns: list[Col], *, rows: int = 0) -> Made:
        """Add a table with its key, the columns given, and some that mean nothing here."""
        made = Made(self.table_name(said), pattern, rows or self.some_rows(), [], truth, key=self.style.key)
        made.salt = self.salt()
        made.key_column = self.column("id")
        if self.random.random() >= self.style.keyless:
            made.columns.append(Col(made.key_column, made.key.value, made.key_at(N)))
            made.primary = (made.key_column,)
        made.columns += [*columns, *self.ballast()]
        self.world.tables.append(made)
        return made

    def keyed(self, said: tuple[str, ...], pattern: str, truth: Truth, columns: list[Col], *, rows: int = 0) -> Made:
        """The same, with a primary key in any case: others refer to it."""
        made = self.make(said, pattern, truth, columns, rows=rows)
        if not made.primary:
            made.columns.insert(0, Col(made.key_column, made.key.value, made.key_at(N)))
            made.primary = (made.key_column,)
        return made

    def some_rows(self) -> int:
        return max(60, int(self.random.lognormvariate(0, 0.7) * self.rows))

    def ballast(self) -> Iterator[Col]:
        """Columns that no reference is in, though some hold small numbers that are keys by chance."""
        for name, kind, fill in self.random.sample(_BALLAST, 3):
            yield Col(self.column(*name.split()), kind, fill, index=name in ("position", "level no"))
        if self.random.random() < 0.2:
            yield Col(self.column("parent", "no"), "bigint", sql.SQL("1 + n % 50"), index=True)

    def nullable(self, column: Col, *, every: int) -> Col:
        """The column, null in one row of ``every``."""
        column.fill = sql.SQL("case when n % {} <> 0 then {} end").format(sql.Literal(every), column.fill)
        column.not_null = False
        return column


def _plural(word: str) -> str:
    if word.endswith(("s", "x", "ch", "sh")):
        return f"{word}es"
    return f"{word[:-1]}ies" if word.endswith("y") and word[-2] not in "aeiou" else f"{word}s"


_BALLAST: tuple[tuple[str, str, Expression], ...] = (
    ("created at", "timestamptz", sql.SQL("timestamptz '2024-01-01' + n * interval '1 minute'")),
    ("position", "bigint", sql.SQL("1 + n % 100")),
    ("level no", "bigint", sql.SQL("1 + n % 7")),
    ("quantity", "int", sql.SQL("(1 + n % 9)::int")),
    ("amount", "numeric(12,2)", sql.SQL("(n % 1000) / 10.0")),
    ("status", "text", sql.SQL("case n % 3 when 0 then 'new' when 1 then 'open' else 'done' end")),
    ("body", "text", sql.SQL("repeat('word ', (n % 7)::int + 1)")),
    ("active", "boolean", sql.SQL("n % 2 = 0")),
    ("digest", "text", sql.SQL("md5(n::text || 'd')")),
    ("external ref", "uuid", sql.SQL("md5(n::text || 'x')::uuid")),
    ("deleted at", "timestamptz", sql.SQL("timestamptz '2024-01-01' + n * interval '1 hour'")),
    ("data", "jsonb", sql.SQL("jsonb_build_object('colour', n % 5, 'label', md5(n::text))")),
)
