"""One call of the program: where its configuration is, how it prints, how it runs what takes time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import typer

from domicile.cli import interrupt
from domicile.cli.output import Output
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.workspace import Workspace
from domicile.move.failpoints import Failpoints
from domicile.settings import CONFIG_NAME, load, secrets_of

T = TypeVar("T")


@dataclass(slots=True)
class Session:
    """Built by the program's callback; commands find it in ``typer.Context.obj``."""

    environ: Mapping[str, str]
    output: Output
    config: Path = Path(CONFIG_NAME)
    state: Path | None = None

    def workspace(self) -> Workspace:
        """Read the configuration; from here on its secrets cannot be printed. Raises DomicileError
        (config-invalid).
        """
        workspace = load(self.config, self.environ, state=self.state)
        self.output.hide(secrets_of(workspace, self.environ))
        return replace(workspace, failpoint=self._failpoint())

    def _failpoint(self) -> str:
        spec = self.environ.get("DOMICILE_FAILPOINT", "")
        try:
            return Failpoints(spec).spec
        except ValueError:
            raise DomicileError(
                ErrorCode.CONFIG_INVALID,
                f"DOMICILE_FAILPOINT is {spec!r}, which is no failpoint",
                hint="docs/reference/failpoints.md lists them; unset it outside of tests.",
            ) from None

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run something that only looks: Ctrl-C ends it at once."""
        return interrupt.run(lambda _: work(), self.output.say)

    def run_move(
        self,
        work: Callable[[asyncio.Event], Coroutine[Any, Any, T]],
        at_once: tuple[str, str] = (interrupt.AT_ONCE, interrupt.SEE),
    ) -> tuple[T, bool]:
        """Run something that changes sites: the first Ctrl-C asks for the next safe point. Also returns
        whether it was asked. ``at_once``: what is safe after a second one, and what to do next.
        """

        async def supervised(stopping: interrupt.Stopping) -> tuple[T, bool]:
            return await work(stopping.event), stopping.asked

        return interrupt.run(supervised, self.output.say, safe_point=True, at_once=at_once)


def session_of(context: typer.Context, *, json: bool = False) -> Session:
    """This call's session, told whether its result is wanted as JSON."""
    session = context.find_object(Session)
    assert session is not None, "the program's callback builds the session"
    session.output.json_wanted = json
    return session
