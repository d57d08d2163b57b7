"""Every row of both sites against what the writers were promised. What it says names tables and columns, no value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from reliability.schemas.names import quoted
from reliability.schemas.nulls import Nulls
from reliability.schemas.rows import DIGITS, Held, at_site, codes_missing, held, named_persons, stubs_at
from reliability.schemas.shape import Name, Shop, Tab
from reliability.schemas.writers import Ledger

LISTED_MAX = 12


async def judge(shop: Shop, sites: Mapping[str, str], ledger: Ledger, copies: str = "") -> list[str]:
    """What is wrong, in words; empty when every row is where it must be, and no other. ``copies``: the site at which
    members may have a copy."""
    found = list[str]()
    for site, conninfo in sites.items():
        async with await at_site(conninfo) as conn:
            there = await held(conn, shop)
            named = await named_persons(conn, shop)
            found += [f"a row at {site} refers to a code that is not there"] * await codes_missing(conn, shop)
            stubs = await stubs_at(conn) if shop.parties else frozenset()
        found += [f"a row at {site} refers to somebody of whom there is no row"] * len(named - there.keys())
        nulls = Nulls(shop, ledger, site)
        nobodys = there.pop(None, {})
        found += _differences(
            shop, f"nobody's rows at {site}", nulls.settled(None, ledger.nobody[site], nobodys), nobodys
        )
        for subject, wanted in ledger.rows.items():
            has = there.pop(str(subject), {})
            alone = list(has) == [shop.subject.name] and has[shop.subject.name].total() == 1
            left = subject in ledger.gone & ledger.members  # he deleted himself while away
            if alone and subject in stubs and (left or ledger.home[subject] != site):
                continue  # a stub, which may have outlived the last row that named it
            if ledger.home[subject] == site:
                wanted = nulls.settled(subject, wanted, has)
                found += _differences(shop, f"{_who(ledger, subject)} at {site}", wanted, has)
            elif not (copies == site and subject in ledger.members):
                found += _differences(shop, f"{_who(ledger, subject)}, who lives elsewhere, at {site}", {}, has)
        for has in there.values():
            found += _differences(shop, f"somebody unknown at {site}", {}, has)
    return _counted(found)


def _who(ledger: Ledger, subject: str) -> str:
    return "a member" if subject in ledger.members else "an outsider"


def _counted(found: Iterable[str]) -> list[str]:
    counts = Counter(found)
    return [f"{text}, {count} times" if count > 1 else text for text, count in list(counts.items())[:LISTED_MAX]]


def _differences(shop: Shop, what: str, wanted: Held, has: Held) -> Iterator[str]:
    for name in sorted({*wanted, *has}):
        missing = wanted.get(name, Counter()) - has.get(name, Counter())
        extra = has.get(name, Counter()) - wanted.get(name, Counter())
        yield from _rows(shop.tab(name), f"{what}: {_shown(name)}", [*missing.elements()], [*extra.elements()])


def _rows(tab: Tab, what: str, missing: list[str], extra: list[str]) -> Iterator[str]:
    """Rows that are there otherwise are told by the columns in which they differ."""
    for row in missing:
        like = min(extra, key=lambda other: len(_columns(tab, row, other)), default=None)
        if like is not None and len(_columns(tab, row, like)) <= max(1, len(tab.cols) // 2):
            extra.remove(like)
            yield f"{what}: a row differs in {', '.join(_columns(tab, row, like))}"
        else:
            yield f"{what}: a row is missing"
    for _ in extra:
        yield f"{what}: a row too many"


def _columns(tab: Tab, one: str, other: str) -> Collection[str]:
    return [
        f"{quoted(c.name)} ({c.type})"
        for at, c in enumerate(tab.cols)
        if one[at * DIGITS : (at + 1) * DIGITS] != other[at * DIGITS : (at + 1) * DIGITS]
    ]


def _shown(name: Name) -> str:
    return quoted(*name)
