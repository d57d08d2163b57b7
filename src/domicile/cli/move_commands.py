"""Orders that change something: apply, resume, pause, abort, rollback, soak, purge."""

from __future__ import annotations

import asyncio
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from domicile.cli import render_erasure, render_move, render_plan, units
from domicile.cli.confirm import confirm
from domicile.cli.options import AsJson, Detach, MoveName, Watch, Yes, read_text
from domicile.cli.progress import watching
from domicile.cli.session import Session, session_of
from domicile.model.erasure import ErasureWish
from domicile.model.errors import EXIT_FAILED, EXIT_INTERRUPTED, DomicileError, ErrorCode
from domicile.model.phase import Phase, Status
from domicile.model.plan import Mode, Plan
from domicile.model.report import MoveStatus, PurgeReport

group = typer.Typer()


class Act(StrEnum):
    """What takes approvals."""

    PURGE = "purge"


@group.command()
def apply(
    context: typer.Context,
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file that domicile plan has written.")],
    cold: Annotated[
        bool, typer.Option("--cold", help="Close each wave to writes while it is copied, without a change stream.")
    ] = False,
    detach: Detach = False,
    watch: Watch = True,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Carry out a plan, wave by wave, until everybody in it lives at the target. They write all the while, but for a
    short pause at the handover of their wave.

    Ctrl-C stops after the wave at work; a process that dies loses nothing. domicile resume goes on.
    """
    from domicile import commands
    from domicile.planner import plan_file

    session = session_of(context, json=json)
    workspace = session.workspace()
    made = plan_file.load(read_text(plan, ErrorCode.PLAN_INVALID))
    mode = Mode.COLD if cold else Mode.LIVE
    session.output.say(render_plan.headline(made))
    if not made.refusals_of(mode):  # a plan with failed checks is refused below; nobody need agree to it first
        confirm(session.output, _apply_question(made, mode), yes=yes)
    if detach:
        _show_outcome(session, *session.run_move(lambda _: commands.apply_detached(workspace, made, mode=mode)))
        return

    async def work(stop: asyncio.Event) -> MoveStatus:
        with watching(session.output, live=watch) as show:
            return await commands.apply(workspace, made, mode=mode, on_progress=show, stop=stop)

    _show_outcome(session, *session.run_move(work))


@group.command()
def resume(
    context: typer.Context, move: MoveName, detach: Detach = False, watch: Watch = True, json: AsJson = False
) -> None:
    """Go on with a move after a pause, a failure or a crash."""
    from domicile import commands

    session = session_of(context, json=json)
    workspace = session.workspace()
    if detach:
        _show_outcome(session, *session.run_move(lambda _: commands.resume_detached(workspace, move)))
        return

    async def work(stop: asyncio.Event) -> MoveStatus:
        with watching(session.output, live=watch) as show:
            return await commands.resume(workspace, move, on_progress=show, stop=stop)

    _show_outcome(session, *session.run_move(work))


@group.command()
def pause(context: typer.Context, move: MoveName, json: AsJson = False) -> None:
    """Ask a move to stop after the wave at work. Nobody is left between homes."""
    from domicile import commands

    session = session_of(context, json=json)
    workspace = session.workspace()
    now = session.run(lambda: commands.pause(workspace, move))
    session.output.result(now, *render_move.move(now, session.output.stdout.width))


@group.command()
def abort(context: typer.Context, move: MoveName, yes: Yes = False, json: AsJson = False) -> None:
    """Give the rest of a move up: the wave at work steps back, waves that live at the target stay there."""
    from domicile import commands

    session = session_of(context, json=json)
    workspace = session.workspace()
    confirm(session.output, f"Abort {move}? What has moved stays where it is.", yes=yes)
    now = session.run(lambda: commands.abort(workspace, move))
    session.output.result(now, *render_move.move(now, session.output.stdout.width))


@group.command()
def rollback(
    context: typer.Context, move: MoveName, watch: Watch = True, yes: Yes = False, json: AsJson = False
) -> None:
    """Hand every wave that lives at the target back to the source, with everything that was written at the target."""
    from domicile import commands

    session = session_of(context, json=json)
    workspace = session.workspace()
    before = session.run(lambda: commands.status(workspace, move))[0]
    confirm(session.output, _rollback_question(before), yes=yes)

    async def work(stop: asyncio.Event) -> MoveStatus:
        with watching(session.output, live=watch) as show:
            return await commands.rollback(workspace, move, on_progress=show, stop=stop)

    now, stopped = session.run_move(work)
    session.output.result(now, *render_move.move(now, session.output.stdout.width))
    if stopped and now.status is not Status.ABORTED:
        raise typer.Exit(EXIT_INTERRUPTED)


@group.command()
def soak(context: typer.Context, move: MoveName, watch: Watch = True, json: AsJson = False) -> None:
    """Keep the source copies of a move current, until Ctrl-C: for plans made with --way-back stream."""
    from domicile import commands

    session = session_of(context, json=json)
    workspace = session.workspace()

    async def work(stop: asyncio.Event) -> MoveStatus:
        with watching(session.output, live=watch) as show:
            return await commands.soak(workspace, move, on_progress=show, stop=stop)

    now, _ = session.run_move(work)
    session.output.result(now, *render_move.move(now, session.output.stdout.width))


@group.command()
def approve(
    context: typer.Context,
    move: MoveName,
    act: Annotated[Act, typer.Option("--act", help="What is approved.")] = Act.PURGE,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Approve what cannot be undone: the purge of what lives at the target now. It is yours, by your account on this
    machine; it expires, and does not cover waves that arrive later.
    """
    from domicile import commands

    session = session_of(context, json=json)
    workspace = session.workspace()
    confirm(session.output, f"Approve the {act} of {move}? Without the source copy there is no way back.", yes=yes)
    now = session.run(lambda: commands.approve(workspace, move))
    session.output.result(now, *render_move.move(now, session.output.stdout.width))


@group.command()
def purge(
    context: typer.Context,
    move: MoveName,
    scan: Annotated[
        bool,
        typer.Option("--scan", help="See to what is left on disk, and search the source's files, if they are here."),
    ] = False,
    rewrite: Annotated[
        bool,
        typer.Option("--rewrite", help="With --scan: write the tables anew (VACUUM FULL); each is locked meanwhile."),
    ] = False,
    kept: Annotated[
        list[str] | None,
        typer.Option(
            "--kept", metavar="PATH[=DATE]", help="With --scan: an archive or backup, kept until DATE; repeatable."
        ),
    ] = None,
    max_mb_per_s: Annotated[
        int, typer.Option("--max-mb-per-s", min=0, help="With --scan: read no faster than this; 0: as fast as it goes.")
    ] = 0,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Delete nothing: search the files again for what a purge removed.")
    ] = False,
    detach: Detach = False,
    watch: Watch = True,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Delete the source copy of every wave that lives at the target with a clean verdict; of a move that was rolled
    back, the copy that the target has kept. It cannot be undone. With --scan, what the deleted rows leave on disk is
    seen to, and searched for where the files can be reached from here.
    """
    from domicile import commands

    if not scan and (rewrite or kept or max_mb_per_s):
        raise typer.BadParameter("--rewrite, --kept and --max-mb-per-s go with --scan")
    wish = ErasureWish(rewrite, tuple(_kept(text) for text in kept or ()), max_mb_per_s) if scan else None
    session = session_of(context, json=json)
    workspace = session.workspace()
    if recheck:
        with watching(session.output, live=watch, purging=True) as show:
            found = session.run(lambda: commands.recheck(workspace, move, on_progress=show))
        session.output.result(found, *render_erasure.erasure(found, session.output.stdout.width))
        return
    before = session.run(lambda: commands.status(workspace, move))[0]
    if question := _purge_question(before):
        confirm(session.output, question, yes=yes)
    if detach:
        now, _ = session.run_move(lambda _: commands.purge_detached(workspace, move, wish))
        session.output.result(now, *render_move.move(now, session.output.stdout.width))
        return

    async def work(stop: asyncio.Event) -> PurgeReport:
        with watching(session.output, live=watch, purging=True) as show:
            return await commands.purge(workspace, move, wish=wish, on_progress=show, stop=stop)

    done, stopped = session.run_move(work)
    session.output.result(done, *render_move.purge(done, session.output.stdout.width))
    if stopped:
        raise typer.Exit(EXIT_INTERRUPTED)


def _kept(text: str) -> tuple[str, str]:
    """A path and the day until which it is kept, if one is given."""
    path, _, until = text.rpartition("=") if "=" in text else (text, "", "")
    try:
        return str(Path(path).resolve()), date.fromisoformat(until).isoformat() if until else ""
    except ValueError:
        raise typer.BadParameter(f"{until} is no date; write PATH=YYYY-MM-DD", param_hint="--kept") from None


def _apply_question(made: Plan, mode: Mode) -> str:
    how = "They write all the while." if mode is Mode.LIVE else "Each wave is closed to writes while it is copied."
    return f"Move them from {made.source} to {made.target}? {how}"


def _rollback_question(now: MoveStatus) -> str:
    there = [w for w in now.waves if w.phase in (Phase.SOAK, Phase.ROLLBACK)]
    subjects = units.plural(sum(w.subjects for w in there), "subject")
    return f"Bring {subjects} of {units.plural(len(there), 'wave')} back to {now.source}, with all they wrote since?"


def _purge_question(now: MoveStatus) -> str:
    """Empty when there is nothing to be deleted."""
    kept = [w for w in now.waves if w.phase in (Phase.SOAK, Phase.PURGE)]
    if not kept:
        back = [w for w in now.waves if w.rolled_back]
        rows = sum(w.rows_planned for w in back)
        copies = f"the copies of {units.plural(len(back), 'wave')}, about {units.plural(rows, 'row')}, at {now.target}"
        return f"Delete {copies}? They were rolled back and live at {now.source}." if back else ""
    rows = sum(w.rows_copied for w in kept)
    return (
        f"Delete {units.plural(rows, 'row')} of {units.plural(len(kept), 'wave')} at {now.source}?"
        f" They live at {now.target}; there is no way back."
    )


def _show_outcome(session: Session, now: MoveStatus, stopped: bool) -> None:
    """Print the status, and end with the code of what happened. A pause that somebody else ordered is no
    failure.
    """
    session.output.result(now, *render_move.move(now, session.output.stdout.width))
    match now.status:
        case Status.FAILED:
            failed = next((w for w in now.waves if w.error_code), None)
            raise typer.Exit(_exit_code(failed.error_code) if failed else EXIT_FAILED)
        case Status.ABORTED:
            raise typer.Exit(EXIT_FAILED)
        case Status.PAUSED if stopped:
            raise typer.Exit(EXIT_INTERRUPTED)
        case _:
            return


def _exit_code(code: str) -> int:
    return DomicileError(ErrorCode(code), "").exit_code if code in set(ErrorCode) else EXIT_FAILED
