"""What a source and a guard say: the change stream, whole and damaged, and the DETAIL of a refusal."""

from __future__ import annotations

import json
from random import Random
import time

from domicile.stream import params
from domicile.stream.change import NULL, Change, Field, Marker, Op, Transaction
from domicile.stream.fold import fold
from domicile.stream.layout import Identity, Layout
from domicile.world.kinds import Kind, Maker
from domicile.world.ledger import Person
from domicile.world.pool import Answer
from domicile.world.traffic import Config, Traffic, _Course
from reliability.fuzz.dice import mutated_bytes, mutated_text, one_in
from reliability.fuzz.documents import damaged, json_text, nested
from reliability.fuzz.rule import Broken, Input, Target
from reliability.fuzz.wire import LAYOUTS, MEMBERS, stream, wave_filter

_BINARY, _TEXT = b"binary", b"text"
_OWNER_IS_A_MEMBER = ("account", "device", "moment", "orders")
_SITES = ("beijing", "singapore")
_DETAIL = {"home": "singapore", "epoch": 3, "dataset": "store"}
_PIECES = ('"home"', '"epoch"', ":", "{", "}", "1e999", "NaN", "null", "[", "9" * 5_000, '"\\ud800"')


def _make_changes(dice: Random) -> tuple[bytes, ...]:
    binary = one_in(dice, 2)
    return (_BINARY if binary else _TEXT, *stream(dice, binary=binary))


def _make_messages(dice: Random) -> tuple[bytes, ...]:
    form, *said = _make_changes(dice)
    for _ in range(dice.randrange(1, 3)):
        at = dice.randrange(len(said))
        match dice.randrange(8):
            case 0:
                del said[at]
            case 1:
                said.insert(at, said[dice.randrange(len(said))])
            case 2:
                said[at] = said[at][: dice.randrange(len(said[at]) + 1)]
            case _:
                said[at] = mutated_bytes(dice, said[at])
        if not said:
            break
    return (form, *said)


def _run_stream(given: Input) -> str:
    """Feed it, then do with what comes out what the apply does before it sends anything."""
    assert isinstance(given, tuple)
    form, *said = given
    binary = form == _BINARY
    items = list(wave_filter(binary=binary).feed([one for one in said if isinstance(one, bytes)]))
    transactions = [item for item in items if isinstance(item, Transaction)]
    layout = LAYOUTS[binary]
    for transaction in transactions:
        for change in transaction.changes:
            _require_sound(layout, change)
        fold([transaction], [t.no for t in layout.tables if t.identity is Identity.FULL])
        for table in (
            t for t in layout.tables if t.identity is Identity.KEY
        ):  # touched rows are compared by their keys
            params.key_arrays(table, [c.key for c in transaction.changes if c.table == table.no], binary)
    return "changes" if transactions else "markers" if any(isinstance(i, Marker) for i in items) else "nothing"


def _require_sound(layout: Layout, change: Change) -> None:
    table = layout.tables[change.table]
    fields = [f for f in change.fields if f is not None]
    if change.op is not Op.DELETE and len(change.fields) != len(table.columns):
        raise Broken("a change with too many or too few columns is sent on")
    for field in fields:
        if not _is_whole(field):
            raise Broken("a value is sent on whose length is not what it says")
    for key in (change.key, change.old_key):
        if key is not None and not _is_key(key, len(table.key)):
            raise Broken("a key is sent on that is not one of its table's")
    if change.op is not Op.DELETE and table.name.name in _OWNER_IS_A_MEMBER:
        owner = change.fields[table.owner.at[0]]
        if owner is not None and _number(owner, binary=layout.binary) not in MEMBERS:
            raise Broken("a row of somebody else is sent on")


def _is_whole(field: Field) -> bool:
    return field == NULL or (len(field) >= 4 and int.from_bytes(field[:4], "big") == len(field) - 4)


def _is_key(key: bytes, count: int) -> bool:
    at = found = 0
    while at < len(key):
        head = key[at : at + 4]
        at += 4 if head == NULL else 4 + int.from_bytes(head, "big")
        found += 1
    return at == len(key) and found == count


def _number(field: Field, *, binary: bool) -> int:
    return int.from_bytes(field[4:], "big", signed=True) if binary else int(field[4:])


def _make_detail(dice: Random) -> str:
    match dice.randrange(5):
        case 0:
            return mutated_text(dice, json.dumps(_DETAIL), _PIECES)
        case 1 if one_in(dice, 10):
            return nested(dice, opening="[", closing="]")
        case _:
            return json_text(dice, damaged(dice, _DETAIL))


def _run_detail(given: Input) -> str:
    """The application of our demonstration is told by a guard where to go, and goes there."""
    traffic = Traffic(Config(dict.fromkeys(_SITES, "")))
    traffic._ledger.people[1] = Person("CN", _SITES[0])  # noqa: SLF001 - as `Traffic.open` would find it
    made = Maker(traffic._ledger, traffic._dice).make(Kind.PROFILE_ALONE, 1)  # noqa: SLF001
    assert made is not None
    course = _Course(made, b"begin_rc", time.monotonic(), straying=False)
    learning = traffic._learn(course, _SITES[0], Answer("DM001", str(given).encode("utf-8", "surrogatepass")))  # noqa: SLF001
    try:
        learning.send(None)
    except StopIteration as end:
        if not end.value:
            return "given up"
    finally:
        learning.close()
    home, epoch = traffic._router.where(made, straying=False)  # noqa: SLF001
    if home not in _SITES:
        raise Broken(f"the writer is sent to a site that there is not: {home[:80]!r}")
    if epoch != epoch:
        raise Broken("an epoch that is no number was believed, and with it no later word can be")
    return "followed"


TARGETS = (
    Target("changes", _make_changes, _run_stream, share=160),
    Target("messages", _make_messages, _run_stream, share=300),
    Target("detail", _make_detail, _run_detail, share=96),
)
