"""What makes the sites number apart: a range of its own for each, or a step with an offset of its own. Reads only.

Whoever numbers at a place of their own stays there. The first site of those that number in one range goes on where it
is, up to where the next one's range begins; the others begin anew in ranges that hold no row and that nobody else
comes to. Nobody is given a value in use: who stays passes those of rows near ahead (at other sites, too) and what the
others may give until they begin anew; and ends before what lies farther ahead.

All is thought of as counting upward: what counts downward is mirrored (`SiteSequence.directed`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from domicile.model.ids import Blocked, Change, Numbering, SiteSequence, Style, Wish, ahead
from domicile.model.site import SiteName
from domicile.planner.numbering import Numbers, at_once, stepped
from domicile.postgres.sequences import AHEAD_VALUES_MAX, HEADROOM_VALUES

SIZE_VALUES = 10**12  # of a range, where the type has room for it
SIZE_VALUES_MIN = 1_000  # of a range or a step: less would be used up before anybody looks
Taken = tuple[SiteName, int, int]  # by whom, the first value, the last
RANGES_PASSED_MAX = 1_000  # that hold rows, before the search for an empty one is given up


class Unfit(Exception):
    """Why a numbering is left as it is."""

    def __init__(self, why: str, hint: str) -> None:
        super().__init__(why)
        self.why, self.hint = why, hint


async def lay_out(numbers: Numbers, numbering: Numbering, wish: Wish) -> tuple[Change, ...] | Blocked:
    """The changes of one numbering, in the order in which they are to be made; none where sites number apart.

    Made again after each change it leads to the same end, whatever writers did meanwhile."""
    try:
        _require_fit(numbering, wish)
        layout = _Layout(numbers, numbering, wish)
        changes = await (layout.ranges() if wish.style is Style.RANGES else layout.steps())
    except Unfit as unfit:
        return Blocked(numbering.columns, unfit.why, unfit.hint)
    return tuple(c for c in changes if _changes(c))


def _require_fit(numbering: Numbering, wish: Wish) -> None:
    inside = [s for s in numbering.sequences if s.site in wish.sites]
    if outside := sorted({t for s in inside for t in s.outside}):
        raise Unfit(
            f"{inside[0].name} also fills {', '.join(outside)}, outside of the data map: its numbers would change, too",
            "Give that table a role in the data map (of a local one no row is looked at), or another sequence.",
        )
    if len({s.sign for s in inside}) > 1:
        named = ", ".join(f"{s.name} at {s.site}" for s in inside)
        raise Unfit(f"some count upward and some downward: {named}", "Let them count in one direction first.")
    for one, other in combinations(inside, 2):
        if one.site == other.site and not set(one.columns).isdisjoint(other.columns):
            raise Unfit(
                f"{one.name} and {other.name} fill one column at {one.site}",
                "Let one sequence fill it: alter the default of the table or of its partitions.",
            )


def _changes(c: Change) -> bool:
    before = c.before
    shape = (before.increment, before.lowest, before.highest, before.cycle)
    return c.restart is not None or c.beyond is not None or shape != (c.increment, c.lowest, c.highest, False)


class _Layout:
    """One numbering at the sites of a wish; its sequences as they count upward, in the order of the sites."""

    def __init__(self, numbers: Numbers, numbering: Numbering, wish: Wish) -> None:
        self._numbers, self._numbering, self._wish = numbers, numbering, wish
        self._real = {
            s.directed(): s
            for site in wish.sites
            for s in sorted(numbering.sequences, key=lambda s: s.name)
            if s.site == site
        }
        self._all = tuple(self._real)
        # Sites that were not asked for stay as they are, and are not stepped on.
        self._fixed = tuple(s.directed() for s in numbering.sequences if s.site not in wish.sites)
        self._limit = min((s.type_limit for s in self._all), default=0)

    async def ranges(self) -> list[Change]:
        """Those who stay first, then those who begin anew: so that nobody comes to a value meanwhile."""
        size = self._size()
        room = min(AHEAD_VALUES_MAX, size // 2)
        staying = list(self._fixed)
        for site in self._wish.sites:
            staying += [s for s in self._all if s.site == site and all(_clear(s, other, room) for other in staying)]
        leaving = [s for s in self._all if s not in staying]
        goals = {s: await self._goal(s, leaving, size // 10) for s in staying}
        fresh = await self._fresh(leaving, goals, size)
        begins = [low for low, _ in fresh.values()]
        led = {s: goal for s, goal in goals.items() if s in self._all}
        changes = [await self._stay(s, goals[s], begins, staying) for s in staying if s in self._all]
        return changes + [
            self._change(s, replace(s, lowest=low, highest=high, start=low), restart=low, until=_until(s, led))
            for s, (low, high) in fresh.items()
        ]

    async def steps(self) -> list[Change]:
        """Every site that has no step of its own yet begins anew beyond whatever is in use or on its way."""
        step = self._wish.size or max(len(self._wish.sites), 2)
        staying, leaving = list(self._all), []
        if self._shared():
            self._require_steps(step)
            by_residue = {s.next % step: s for s in self._fixed}
            for s in self._all:
                if s.increment == step:
                    by_residue.setdefault(s.next % step, s)
            staying = [s for s in self._all if s in by_residue.values()]
            leaving = [s for s in self._all if s not in staying]
        near = {s: min(AHEAD_VALUES_MAX, s.type_limit // 10) for s in staying}
        goals = {s: await self._goal(s, leaving, near[s]) for s in staying}
        changes = [self._change(s, s, beyond=goals[s]) for s in staying]
        return changes + (await self._stepping(leaving, goals, step) if leaving else [])

    def _require_steps(self, step: int) -> None:
        if step < len(self._wish.sites):
            raise Unfit(f"{len(self._wish.sites)} sites do not fit into steps of {step}", "Give a larger --size.")
        for s in self._fixed:
            if s.increment != step:
                raise Unfit(f"{s.site} counts in steps of {s.increment} and is to stay so", "Name it in --sites, too.")
        for s in self._all:
            if s.increment not in (1, step):
                raise Unfit(
                    f"{s.name} at {s.site} counts in steps of {s.increment}: an application that takes so many ids for "
                    "each value would give those of other sites",
                    "Use --plan ranges, or set the increment to 1 when nobody takes ids in blocks.",
                )

    async def _stepping(
        self, leaving: Sequence[SiteSequence], goals: Mapping[SiteSequence, int], step: int
    ) -> list[Change]:
        """Who begins anew, beyond all that anybody gave: rows may be gone again, or hold it within a text."""
        staying = (*goals, *self._fixed)
        given = [s.next - 1 + _headroom(s) for s in leaving] + [s.next - 1 for s in staying]
        base = max(*given, self._wish.start - 1)
        for s in leaving:
            near = s.next + min(AHEAD_VALUES_MAX, self._limit // 10)
            if used := await self._ends(s, s.next, near):
                base = max(base, used[1])
        by_residue = {r: {s.site for s in staying if s.next % step == r} for r in range(step)}
        slots = {site: r for r, (site, *more) in ((r, tuple(of)) for r, of in by_residue.items() if of) if not more}
        led = {s: goal for s, goal in goals.items() if s in self._all}
        free = iter([r for r, of in by_residue.items() if not of])
        changes = []
        for s in leaving:
            if s.site not in slots:
                slots[s.site] = _next_free(free, step, s.site)
            first = base + 1 + (slots[s.site] - base - 1) % step
            if (self._limit - first) // step < SIZE_VALUES_MIN:
                raise self._too_small(f"steps of {step} from {first:,} on")
            if (s.limit - first) // step < SIZE_VALUES_MIN:
                raise Unfit(
                    f"{s.name} at {s.site} ends at {s.limit:,}, and steps begin at {first:,}",
                    "Lift its maxvalue (alter sequence ... maxvalue), or use --plan ranges.",
                )
            until = min(base, _until(s, led))
            changes.append(self._change(s, replace(s, increment=step), restart=first, until=until))
        return changes

    def _shared(self) -> bool:
        """Whether any two of them come to one value, ever."""
        everyone = (*self._all, *self._fixed)
        return any(not _clear(a, b) for a, b in combinations(everyone, 2))

    def _size(self) -> int:
        if self._wish.size:
            return self._wish.size
        lowest = min((max(s.next, 0) for s in self._all), default=0)
        fair = max(1, (self._limit - lowest) // max(1, len(self._wish.sites)))
        digits = len(str(fair)) - 1
        round_down = int(10**digits)
        size = min(SIZE_VALUES, fair // round_down * round_down)
        if size < SIZE_VALUES_MIN and self._shared():
            raise self._too_small(f"ranges of {len(self._wish.sites)} sites")
        return size

    async def _goal(self, s: SiteSequence, leaving: Sequence[SiteSequence], near: int) -> int:
        """The value that who stays has to be beyond: of rows near ahead, and of what others give until they leave."""
        used = await self._ends(s, s.next, s.next + near)
        goal = s.next - 1 if used is None else used[1]
        headroom = _headroom(s)
        for other in leaving:
            # Half of the headroom may be used up before it is given again: a second look asks for nothing new.
            if _share(s, other) and other.next - 1 + headroom // 2 * other.increment >= s.next - 1:
                goal = max(goal, other.next - 1 + headroom * other.increment)
        return goal

    async def _fresh(
        self, leaving: Sequence[SiteSequence], goals: Mapping[SiteSequence, int], size: int
    ) -> dict[SiteSequence, tuple[int, int]]:
        """A range without a row for each site that begins anew, above all that is being numbered."""
        found: dict[SiteSequence, tuple[int, int]] = {}
        ranges: dict[SiteName, tuple[int, int]] = {}
        above = max([s.next for s in self._all] + list(goals.values())) + size // 2
        round_one = -(-above // size) * size
        lowest_fit = self._limit + 1 - size * len({s.site for s in leaving})
        low = self._wish.start or (lowest_fit if above <= lowest_fit < round_one else round_one)
        owned = {s: _taken(s, goal) for s, goal in goals.items()}
        owned |= {s: (s.site, s.lowest, s.next - 1 + _headroom(s)) for s in leaving}
        for s in leaving:
            if s.site not in ranges:
                here = [other for other in leaving if other.site == s.site]
                # In the range of its site, where another sequence of it has been given that already.
                beside = {o for o in goals if o.site == s.site and not any(_share(o, other) for other in here)}
                taken = [range_ for other, range_ in owned.items() if other not in beside]
                begun = [
                    o.lowest for o in goals if o in beside and o.limit - o.lowest + 1 == size and not self._wish.start
                ]
                if begun and not await self._in_the_way(here, begun[0], size, taken):
                    begin = begun[0]
                else:
                    begin = await self._empty(here, low, size, taken)
                    low = begin + size
                ranges[s.site] = (begin, begin + size - 1)
            found[s] = ranges[s.site]
        return found

    async def _empty(self, here: Sequence[SiteSequence], low: int, size: int, taken: Sequence[Taken]) -> int:
        """The first range from ``low`` on in which nothing is in the way of these sequences of one site."""
        for _ in range(RANGES_PASSED_MAX):
            high = low + size - 1
            if high > self._limit:
                raise self._too_small(f"a range from {low:,} to {high:,} for {here[0].site}")
            why = await self._in_the_way(here, low, size, taken)
            if not why:
                return low
            begun = any((first, last) == (low, high) for _, first, last in taken)  # by this order, for another site
            if self._wish.start and not begun:
                raise Unfit(f"the range from {low:,} to {high:,} is not free: {why}", "Give another --start or --size.")
            low += size
        raise Unfit("no range without rows was found", "Give --start and --size.")

    async def _in_the_way(self, here: Sequence[SiteSequence], low: int, size: int, taken: Sequence[Taken]) -> str:
        """Who numbers in the range, or has rows there in whatever these sequences fill; empty when nobody does. Below
        where one of them is it never goes back to: what it gave may be there, in rows or out of our sight."""
        high = low + size - 1
        if inside := [site for site, first, last in taken if first <= high and low <= last]:
            return f"{inside[0]} numbers there"
        if low <= max(s.next for s in here):
            return f"{here[0].site} numbers above it"
        found = [await self._used(s, low, high, whole=True) for s in here]
        return "rows have values there" if any(u for answers in found for u in answers) else ""

    async def _stay(self, s: SiteSequence, goal: int, begins: Sequence[int], staying: Sequence[SiteSequence]) -> Change:
        ends = [low for low in begins if low > s.next]
        for other in staying:
            if other.next > s.next and not _clear(s, other):
                begin = max(other.lowest, other.start)
                ends += [begin if max(goal, s.next) < begin <= other.next else other.next]
        farther = await self._ends(s, goal + 1, s.limit)
        highest = min([s.highest, *(e - 1 for e in ends), *([farther[0] - 1] if farther else [])])
        # It passes the goal in its own step: by less than that.
        if goal + s.increment - 1 >= highest or (highest < s.highest and highest - goal < SIZE_VALUES_MIN):
            raise self._too_small(f"{s.site}, which has {max(0, highest - goal):,} values left before others begin")
        return self._change(s, replace(s, highest=highest), beyond=goal)

    async def _ends(self, s: SiteSequence, low: int, high: int) -> tuple[int, int] | None:
        """The first and the last value in use, at whichever site, that it would come to."""
        found = [u for u in await self._used(s, low, high) if u]
        return (min(first for first, _ in found), max(last for _, last in found)) if found else None

    async def _used(self, s: SiteSequence, low: int, high: int, *, whole: bool = False) -> list[tuple[int, int] | None]:
        """At each site the values that it would come to; ``whole``: any value, whatever its step and position."""
        real = self._real.get(s) or next(r for r in self._numbering.sequences if r.directed() == s)
        window = stepped(self._numbering, real, low, min(high, s.type_limit))
        window = replace(window, step=1) if whole else window
        asked = [(real, window)]
        answers = await at_once(*(self._numbers.used(p.site, asked, given=whole) for p in self._numbers.places))
        return [answer for (answer,) in answers]

    def _change(
        self,
        s: SiteSequence,
        after: SiteSequence,
        *,
        restart: int | None = None,
        beyond: int | None = None,
        until: int | None = None,
    ) -> Change:
        real = self._real[s]
        beyond = beyond if beyond is not None and beyond >= s.next else None
        start = after.start if after.lowest <= after.start <= after.highest else s.next
        lowest, highest = (after.lowest, after.highest) if real.sign > 0 else (-after.highest, -after.lowest)
        obstacle = "" if real.owned else f"the role does not own it: run it as {real.owner}"
        return Change(
            *(real, real.sign * after.increment, lowest, highest, real.sign * start),
            restart=None if restart is None else real.sign * restart,
            beyond=None if beyond is None else real.sign * beyond,
            until=None if until is None or restart is None else real.sign * min(until, restart - 1),
            obstacle=obstacle,
        )

    def _too_small(self, what: str) -> Unfit:
        narrow = min(self._all, key=lambda s: s.type_limit)
        return Unfit(
            f"too small for {what}: {', '.join(self._numbering.columns)} ends at {self._limit:,} ({narrow.name} at "
            f"{narrow.site} is {narrow.type_name})",
            "Make column and sequence bigint, or choose --size, --start or --plan steps.",
        )


def _until(s: SiteSequence, led: Mapping[SiteSequence, int]) -> int:
    """What a sequence that begins anew may have given by then: no more than those who stay have passed or are to pass
    first."""
    return min([s.type_limit, *(max(goal, other.next - 1) for other, goal in led.items() if _share(other, s))])


def _next_free(free: Iterator[int], step: int, site: SiteName) -> int:
    slot = next(free, None)
    if slot is None:
        raise Unfit(
            f"no step of {step} is free for {site}: the others have them all",
            "Use --plan ranges, which gives it a range above theirs.",
        )
    return slot


def _clear(one: SiteSequence, other: SiteSequence, room: int | None = None) -> bool:
    """Whether they never meet, or (given ``room``) whoever is behind has so many values until then."""
    if one.site == other.site or not _share(one, other):
        return True
    distance = ahead(one, other)
    return distance is None or (room is not None and distance >= room)


def _share(one: SiteSequence, other: SiteSequence) -> bool:
    """Whether they fill one column, at whichever sites."""
    return not set(one.columns).isdisjoint(other.columns)


def _headroom(s: SiteSequence) -> int:
    """What it may give until its turn comes: a tenth of what is left, at most."""
    return max(0, min(HEADROOM_VALUES, (s.limit - s.next) // 10))


def _taken(s: SiteSequence, goal: int) -> Taken:
    """What belongs to a sequence that stays: its range, or without one whatever it has passed or is to pass."""
    return (s.site, s.lowest, s.limit if s.limit < s.type_limit else max(goal, s.next))
