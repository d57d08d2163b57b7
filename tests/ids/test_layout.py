"""What is decided for sequences, without a server: nobody begins anew where somebody was."""

from __future__ import annotations

from dataclasses import replace

from tests.ids.kit import HERE, THERE

from domicile.model.ids import Blocked, Change, Numbering, SiteSequence, Style, Wish
from domicile.model.schema import TableName
from domicile.model.site import SiteName
from domicile.planner.id_layout import lay_out
from domicile.planner.numbering import Numbers

THIRD = SiteName("third")
NO_ROWS = Numbers((), {}, ())
HEADROOM = 100_000


def seq(site: SiteName, following: int, step: int = 1, *, key: str = "t.id", name: str = "q") -> SiteSequence:
    """A bigint sequence that gives ``following`` next, and may give all that is above 0."""
    return SiteSequence(
        site=site,
        name=TableName("public", name),
        columns=(key,),
        type_name="bigint",
        increment=step,
        lowest=1 if step > 0 else -(2**63),
        highest=2**63 - 1 if step > 0 else -1,
        start=1 if step > 0 else -1,
        last=following,
        called=False,
        cache=1,
        cycle=False,
        owner="o",
        owned=True,
    )


async def laid(style: Style, *sequences: SiteSequence, **wish: object) -> tuple[Change, ...] | Blocked:
    sites = tuple(dict.fromkeys(s.site for s in sequences))
    columns = tuple(sorted({c for s in sequences for c in s.columns}))
    return await lay_out(NO_ROWS, Numbering(columns, sequences), Wish(style, **{"sites": sites, **wish}))  # type: ignore[arg-type]


async def changes(style: Style, *sequences: SiteSequence, **wish: object) -> dict[SiteName, Change]:
    made = await laid(style, *sequences, **wish)
    assert not isinstance(made, Blocked), made
    return {c.before.site: c for c in made}


async def refused(style: Style, *sequences: SiteSequence, **wish: object) -> str:
    made = await laid(style, *sequences, **wish)
    assert isinstance(made, Blocked), made
    assert made.hint
    return made.why


async def test_who_leaves_may_not_have_passed_who_stays() -> None:
    """By ranges and by steps, upward and downward: the bound is where the other one is by then, or begins."""
    made = await changes(Style.RANGES, seq(HERE, 10), seq(THERE, 50))
    assert (made[HERE].until, made[HERE].beyond, made[THERE].until) == (None, 49 + HEADROOM, 49 + HEADROOM)
    made = await changes(Style.RANGES, seq(HERE, -10, -1), seq(THERE, -50, -1))
    assert (made[HERE].beyond, made[THERE].until) == (-49 - HEADROOM, -49 - HEADROOM)
    made = await changes(Style.STEPS, seq(HERE, 10), seq(THERE, 50))
    assert made[HERE].until == made[THERE].until == 49 + HEADROOM
    assert all(c.restart is not None and c.restart > 49 + HEADROOM for c in made.values())
    made = await changes(Style.STEPS, seq(HERE, 11, 2), seq(THERE, 51, 2))
    assert (made[HERE].beyond, made[THERE].until) == (50 + 2 * HEADROOM, 50 + HEADROOM)


async def test_steps_begin_above_whatever_was_given() -> None:
    """Rows may be gone again, or their keys be no numbers: what a sequence has given counts, not only rows."""
    before = seq(HERE, 10_000_000), seq(THERE, 5)
    planned = await changes(Style.STEPS, *before)
    assert planned[THERE].restart is not None
    first = planned[HERE].restart
    assert first is not None
    after = replace(before[0], increment=2, last=first)
    [change] = (await changes(Style.STEPS, after, before[1])).values()
    assert change.restart is not None
    assert change.restart > 10_000_000
    fixed = seq(THIRD, 30_000_000, 3)
    made = await changes(Style.STEPS, *before, fixed, sites=(HERE, THERE), size=3)
    assert all(c.restart is not None and c.restart > 30_000_000 for c in made.values())


async def test_never_backwards_to_a_wished_start() -> None:
    """Below its own position may be its own rows."""
    there = replace(seq(THERE, 5_000_050), lowest=5_000_000, start=5_000_000)
    here = replace(there, site=HERE, last=5_000_090)
    why = await refused(Style.RANGES, here, there, start=1_000, size=1_000)
    assert "there numbers above it" in why


async def test_a_wished_start_for_three_sites() -> None:
    """The second look, with one of them done, goes on with the next range."""
    there, third = seq(THERE, 5), seq(THIRD, 5)
    planned = await changes(Style.RANGES, seq(HERE, 5), there, third, start=10**7, size=10**7)
    assert (planned[THERE].restart, planned[THIRD].restart) == (10**7, 2 * 10**7)
    here = replace(seq(HERE, 200_000), highest=planned[HERE].highest)
    done = replace(there, lowest=10**7, highest=2 * 10**7 - 1, last=10**7, start=10**7)
    again = await changes(Style.RANGES, here, done, third, start=10**7, size=10**7)
    assert {s: c.restart for s, c in again.items()} == {THIRD: 2 * 10**7}


async def test_a_third_site_by_steps() -> None:
    """Without room it is refused, and told; with room it gets the step that is free."""
    two = seq(HERE, 1001, 2), seq(THERE, 1002, 2)
    assert "no step of 2 is free" in await refused(Style.STEPS, *two, seq(THIRD, 1), sites=(THIRD,))
    roomy = seq(HERE, 1001, 10), seq(THERE, 1002, 10)
    made = (await changes(Style.STEPS, *roomy, seq(THIRD, 1), size=10))[THIRD]
    assert made.restart is not None
    assert made.restart % 10 not in (1, 2)
    assert made.restart > 1002


async def test_a_second_sequence_takes_the_step_of_its_site() -> None:
    """Where nobody else has it: so two sites fit into steps of two, whatever each begins with."""
    stay = seq(HERE, 1001, 2, key="t.id"), seq(THERE, 1002, 2, key="t.id")
    more = replace(seq(HERE, 5, key="u.id", name="r")), replace(seq(THERE, 5, key="u.id", name="r"))
    joined = replace(stay[1], columns=("t.id", "v.id"))
    made = await laid(Style.STEPS, stay[0], joined, *more)
    assert not isinstance(made, Blocked), made
    residues = {c.before.site: c.restart % 2 for c in made if c.restart is not None}
    assert residues == {HERE: 1, THERE: 0}


async def test_a_limit_that_somebody_set_is_kept() -> None:
    limited = replace(seq(HERE, 5), highest=1_000_000)
    made = await changes(Style.STEPS, limited, seq(THERE, 5))
    assert made[HERE].highest == 1_000_000
    assert "ends at 1,000,000" in await refused(Style.STEPS, limited, seq(THERE, 950_000))


async def test_who_stays_ends_where_the_next_one_began() -> None:
    """Not where that one is by now: below are its rows."""
    there = replace(seq(THERE, 2 * 10**12 + 7), start=2 * 10**12)
    [change] = (await changes(Style.RANGES, seq(HERE, 10), there)).values()
    assert (change.before.site, change.highest) == (HERE, 2 * 10**12 - 1)
