"""The kinds of transactions of the store's application: what each sends, and what it leaves when it is committed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
import random
from types import MappingProxyType

from psycopg.pq.abc import PGresult

from domicile.world.ledger import Append, Effect, Give, Insert, Leave, Ledger, Person, Put
from domicile.world.session import Call

PRODUCTS = 126
UNIT_PRICE_CENTS = 1250


class Kind(StrEnum):
    """One kind of transaction."""

    PROFILE = "profile"
    PROFILE_ALONE = "profile alone"  # a statement without a transaction around it
    ADDRESS = "address"
    ORDER = "order"
    CART_PUT = "cart put"
    CART_TAKE = "cart take"
    REVIEW = "review"
    PHOTO = "photo"
    WISH = "wish"
    SECOND_THOUGHT = "second thought"  # with a savepoint that is rolled back
    GIVE_ORDER = "give order"  # to another user of the market
    SIGN_UP = "sign up"
    LEAVE = "leave"


# Out of a hundred or so.
WEIGHTS: Mapping[Kind, float] = MappingProxyType(
    {
        Kind.PROFILE: 16,
        Kind.PROFILE_ALONE: 14,
        Kind.ADDRESS: 8,
        Kind.ORDER: 16,
        Kind.CART_PUT: 14,
        Kind.CART_TAKE: 7,
        Kind.REVIEW: 7,
        Kind.PHOTO: 6,
        Kind.WISH: 6,
        Kind.SECOND_THOUGHT: 4,
        Kind.GIVE_ORDER: 1,
        Kind.SIGN_UP: 1,
        Kind.LEAVE: 0.2,
    }
)
# They change who there is, so that a plan made before would be stale: `Traffic.open_doors` allows them.
DOORS = frozenset({Kind.SIGN_UP, Kind.LEAVE})

Results = Sequence[PGresult]


@dataclass(frozen=True, slots=True)
class Transaction:
    """``calls`` go out in one round; the first must touch a row, else the user is not there. ``alone``: committed by
    itself. ``holds``: what no other transaction may work on meanwhile, so that its outcome is known exactly."""

    kind: Kind
    calls: tuple[Call, ...]
    effects: Callable[[Results], list[Effect]]
    user: int = 0  # 0: not known yet
    partner: int = 0
    like: Person | None = None  # a new user is of this one's market, and begins where it began
    alone: bool = False
    holds: tuple[Hashable, ...] = ()
    audits: Callable[[Results], int] = lambda _: 0


@dataclass(slots=True)
class Maker:
    """Makes transactions; ``orders`` are those that may be given away: mark -> id."""

    ledger: Ledger
    dice: random.Random
    orders: dict[str, int] = field(default_factory=dict)
    marks: int = 0
    _numbers: int = 0

    def __post_init__(self) -> None:
        self._numbers = self.dice.randrange(10_000, 2_000_000_000)  # two runs in one store do not meet

    def make(self, kind: Kind, user: int) -> Transaction | None:
        """One transaction of that kind for that user; None when it is not possible for it now."""
        self.marks += 1
        mark = f"{self.ledger.prefix}{self.marks}"
        me, named = (str(user).encode(), mark.encode())
        match kind:
            case Kind.PROFILE | Kind.PROFILE_ALONE | Kind.ADDRESS:
                name = "address" if kind is Kind.ADDRESS else "profile"
                left: list[Effect] = [Append(user, name, mark)]
                calls = ((name.encode(), (me, named)),)
                return Transaction(kind, calls, lambda _: left, user, alone=kind is Kind.PROFILE_ALONE)
            case Kind.ORDER:
                return self._order(user, mark)
            case Kind.CART_PUT | Kind.CART_TAKE:
                return self._cart(kind, user)
            case Kind.REVIEW | Kind.PHOTO | Kind.WISH:
                more = {Kind.REVIEW: (self._product(),), Kind.WISH: (self._number(),)}.get(kind, ())
                calls = ((kind.encode(), (me, named, *more)),)
                row: list[Effect] = [Insert(user, str(kind), mark)]
                return Transaction(kind, calls, lambda _: row, user)
            case Kind.SECOND_THOUGHT:
                return self._second_thought(user, mark)
            case Kind.GIVE_ORDER:
                return self._give(user)
            case Kind.SIGN_UP:
                return self._sign_up(self.ledger.people[user], mark)
            case Kind.LEAVE:
                return self._leave(user)

    def _order(self, user: int, mark: str) -> Transaction:
        items = self.dice.randint(1, 4)
        count = str(items).encode()
        # The price of the n-th item is n times the unit's: see the quantity in "items".
        cents = UNIT_PRICE_CENTS * items * (items + 1) // 2
        total = b"%d.%02d" % divmod(cents, 100)
        calls = (
            (b"order", (str(user).encode(), mark.encode(), total)),
            (b"items", (count, self._product())),
            (b"payment", ()),
            (b"paid", ()),
        )
        shape = (items, cents, cents)

        def effects(results: Results) -> list[Effect]:
            self.orders[mark] = int(results[0].get_value(0, 0) or b"0")
            return [Insert(user, "order", mark, shape)]

        return Transaction(Kind.ORDER, calls, effects, user, audits=lambda _: 2)

    def _cart(self, kind: Kind, user: int) -> Transaction | None:
        product = self.dice.randint(1, PRODUCTS)
        me = str(user).encode()
        if kind is Kind.CART_TAKE:
            # Only what is known to be there; found quickly, because a cart has few cells of ours.
            known = [p for p in range(1, 13) if self.ledger.carts.get((user, p), {0}) not in ({0}, set())]
            known = [p for p in known if 0 not in self.ledger.carts[user, p]]
            if not known:
                return None
            product = self.dice.choice(known)
            left: list[Effect] = [Put(user, product, 0)]
            calls: tuple[Call, ...] = ((b"cart_take", (me, str(product).encode())),)
        else:
            product = 1 + product % 12
            quantity = self.dice.randint(1, 32_000)
            left = [Put(user, product, quantity)]
            calls = ((b"cart", (me,)), (b"cart_put", (me, str(product).encode(), str(quantity).encode())))
        return Transaction(kind, calls, lambda _: left, user, holds=((user, product),))

    def _second_thought(self, user: int, mark: str) -> Transaction:
        me = str(user).encode()
        calls = (
            (b"profile", (me, mark.encode())),
            (b"savepoint", ()),
            (b"review", (me, mark.encode() + b"-taken-back", self._product())),
            (b"rollback_to", ()),
            (b"wish", (me, mark.encode(), self._number())),
        )
        left: list[Effect] = [Append(user, "profile", mark), Insert(user, "wish", mark)]
        return Transaction(Kind.SECOND_THOUGHT, calls, lambda _: left, user)

    def _give(self, partner: int) -> Transaction | None:
        """One of the last orders goes to ``partner``, if it is of the same market."""
        while self.orders:
            mark, number = self.orders.popitem()
            (owner, *doubtful) = self.ledger.rows["order", mark].owners
            people = self.ledger.people
            if doubtful or owner == partner or owner in self.ledger.gone:
                continue
            if people[owner].market != people[partner].market:
                self.orders[mark] = number
                return None
            return _gift(mark, number, owner, partner)
        return None

    def _sign_up(self, like: Person, mark: str) -> Transaction:
        code = like.market.encode()
        calls = (
            (b"sign_up", (code, mark.encode())),
            (b"sign_up_address", (code,)),
            (b"sign_up_cart", ()),
        )

        def effects(results: Results) -> list[Effect]:
            return [Insert(new_user(results), "person", mark)]

        return Transaction(Kind.SIGN_UP, calls, effects, like=like)

    def _leave(self, user: int) -> Transaction:
        me = (str(user).encode(),)
        calls = tuple((name, me) for name in LEAVE_STATEMENTS)
        orders = LEAVE_STATEMENTS.index(b"leave_orders")
        return Transaction(
            Kind.LEAVE,
            calls,
            lambda _: [Leave(user)],
            user,
            holds=(user,),
            audits=lambda results: results[orders].command_tuples or 0,
        )

    def _product(self) -> bytes:
        return str(self.dice.randint(1, PRODUCTS)).encode()

    def _number(self) -> bytes:
        return str(self._numbers + self.marks).encode()


def _gift(mark: str, number: int, owner: int, partner: int) -> Transaction:
    call = (b"give_order", (str(owner).encode(), str(number).encode(), str(partner).encode()))
    left: list[Effect] = [Give(mark, partner)]
    return Transaction(Kind.GIVE_ORDER, (call,), lambda _: left, owner, partner=partner, holds=(mark,))


def new_user(results: Results) -> int:
    """The id that a sign-up was given."""
    return int(results[0].get_value(0, 0) or b"0")


LEAVE_STATEMENTS = (
    b"leave",
    b"leave_orders_lock",
    b"leave_payment",
    b"leave_order_item",
    b"leave_orders",
    b"leave_cart_item",
    b"leave_cart",
    b"leave_review",
    b"leave_wish",
    b"leave_photo",
    b"leave_referral",
    b"leave_device",
    b"leave_address",
    b"leave_account",
)
