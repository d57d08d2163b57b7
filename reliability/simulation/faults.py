"""What goes wrong, when the plan says so, and how it mends."""

from __future__ import annotations

import asyncio

from reliability.simulation.plan import Fault, Mishap
from reliability.simulation.site import Site
from reliability.simulation.world import LATE_SECONDS, World
from reliability.simulation.writers import Writer

LATE_FACTOR = 20
SLOW_FACTOR = 8.0
LOCK_SECONDS_MAX = 3.0


async def happen(world: World, mishap: Mishap, writers: list[Writer]) -> None:
    """Wait for its time; it counts when there was something to break."""
    if mishap.kind is Fault.KILL_AT:
        return  # `World.reach` sees to it
    if mishap.step and not await world.reached(mishap.step):
        return
    await asyncio.sleep(mishap.at)
    holder = world.control.holder
    alive = holder is not None and not holder.dead
    match mishap.kind:
        case Fault.KILL if holder is not None and alive:
            world.kill(holder)
        case Fault.FREEZE if holder is not None and alive:
            world.loop.freeze(holder)
            world.count_fault(mishap.kind)
            await asyncio.sleep(1.0 + mishap.lasts)
            world.loop.thaw(holder)
            return
        case Fault.CUT | Fault.CUT_LATE if not _cut(world, mishap):
            return
        case Fault.LOCK if not await _end_lock(world):
            return
        case Fault.SOURCE | Fault.TARGET:
            await _crash(world, world.sites["source" if mishap.kind is Fault.SOURCE else "target"], mishap)
            return
        case Fault.CONTROL:
            world.control.up = False
        case Fault.SLOT if "there" in world.sites["source"].slots:
            world.sites["source"].slots.pop("there")
        case Fault.WRITER:
            writer = world.dice.choice(writers)
            for line in list(writer.lines.values()):
                line.cut(late=world.dice.random() < 0.5)
        case Fault.HANG:
            world.dice.choice(writers).hang = mishap.lasts
        case Fault.SLOW:
            world.network.slow[world.dice.choice(("source", "target"))] = SLOW_FACTOR
        case Fault.LATE:
            world.late = LATE_SECONDS * LATE_FACTOR
        case Fault.KILL | Fault.SLOT | Fault.FREEZE:
            return  # nobody there to be hit
    world.count_fault(mishap.kind)
    await asyncio.sleep(mishap.lasts)
    match mishap.kind:
        case Fault.CONTROL:
            world.control.up = True
        case Fault.SLOW:
            world.network.slow.clear()
        case Fault.LATE:
            world.late = LATE_SECONDS


def _cut(world: World, mishap: Mishap) -> bool:
    """One of the mover's connections, or all of them."""
    lines = [line for line in world.network.lines if line.process is world.control.holder and line.open]
    if not lines:
        return False
    late = mishap.kind is Fault.CUT_LATE
    busy = [line for line in lines if line.busy] or lines
    chosen = [world.dice.choice(busy)] if late and world.dice.random() < 0.5 else lines
    for line in chosen:
        line.cut(late=late, notice=0.05 + mishap.lasts)
    return True


async def _end_lock(world: World) -> bool:
    """The server ends whoever has a wave's lock, as soon as anybody has."""
    until = world.loop.now + LOCK_SECONDS_MAX
    while world.loop.now < until:
        held = {getattr(holder, "line", None) for site in world.sites.values() for holder in site.exclusive.values()}
        for line in [line for line in world.network.lines if line in held]:
            line.cut(late=False, notice=0.0)
            line.end()
            return True
        await asyncio.sleep(world.dice.random() * 0.02)
    return False


async def _crash(world: World, site: Site, mishap: Mishap) -> None:
    world.count_fault(mishap.kind)
    site.crash()
    for line in [line for line in world.network.lines if line.site is site]:
        line.cut(late=False, notice=0.0)
        line.end()
    await asyncio.sleep(mishap.lasts)
    site.up = True
