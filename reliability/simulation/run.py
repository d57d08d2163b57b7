"""One run from its plan to its verdict."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from domicile.model.phase import Phase
from reliability.simulation import faults, mover
from reliability.simulation.clock import NOWHERE, Process, Stuck, begin
from reliability.simulation.flaws import Flaw
from reliability.simulation.live import real_code
from reliability.simulation.marks import Marks
from reliability.simulation.plan import Plan
from reliability.simulation.world import World
from reliability.simulation.writers import Writer

SECONDS_MAX = 120.0  # of virtual time, by which everything must be over
LEASE_SECONDS = 0.8
LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run. ``found``: what is wrong, empty where nothing is."""

    plan: Plan
    found: str
    steps: int
    seconds: float
    counts: Counter[str]
    history: tuple[str, ...]


def run(plan: Plan, flaws: frozenset[Flaw] = frozenset(), *, quiet: bool = True) -> Outcome:
    """Carry the plan out. The same plan gives the same history, in whatever process."""
    world = World(plan, flaws)
    world.quiet = quiet
    found = ""
    with real_code(world, marks := Marks(flaws)):
        try:
            world.loop.run(_everything(world, marks), SECONDS_MAX)
            found = "; ".join(world.finish())
        except Stuck as stuck:
            found = f"no progress: {stuck}"
        except Exception as why:
            found = f"{type(why).__name__}: {why}"
        finally:
            world.network.close()
            world.loop.close()
    world.note(f"verdict: {found or 'nothing wrong'}")
    world.counts["commits"] = world.truth.commits
    world.counts["crossed"] = world.truth.crossed
    return Outcome(plan, found, world.loop.steps, world.loop.now, world.counts, tuple(world.history))


async def _everything(world: World, marks: Marks) -> None:
    writers = [Writer(world, no) for no in range(world.plan.writers)]
    at_work = [begin(world.loop, writer.process, writer.run()) for writer in writers]
    for mishap in world.plan.mishaps:
        happening = world.loop.create_task(faults.happen(world, mishap, writers), context=NOWHERE.copy())
        happening.add_done_callback(world.loop.ended)
    orders = ["move", *(["rollback"] if world.plan.rollback else []), *(["purge"] if world.plan.purge else [])]
    for order in orders:
        world.control.order = order
        await _carried_out(world, marks)
        await asyncio.sleep(0.05)
    for task in at_work:
        await asyncio.wait([task])
        task.result()


async def _carried_out(world: World, marks: Marks) -> None:
    """Whoever looks after the move starts a process when there is none, or when one has been silent for too long."""
    control = world.control
    silent = 0.0
    while control.order or Phase.ROLLBACK in control.phase.values() or _is_alive(control.holder):
        holder = control.holder
        if holder is not None and not holder.dead:
            silent = silent + LOOK_SECONDS if holder.frozen else 0.0
        if control.up and (holder is None or holder.dead or silent > LEASE_SECONDS):
            control.generation += 1
            silent = 0.0
            world.count("processes")
            control.holder = process = Process(f"mover {control.generation}")
            begin(world.loop, process, mover.carry(world, marks, process, control.generation))
        await asyncio.sleep(LOOK_SECONDS)


def _is_alive(process: Process | None) -> bool:
    return process is not None and not process.dead
