"""The two streams: stdout is data, stderr talks. Every text passes here, so a secret of the configuration
cannot leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import json
import sys
from typing import TextIO

from rich.console import Console, RenderableType
from rich.text import Text

from domicile.cli.as_json import plain
from domicile.model.errors import DomicileError

HIDDEN = "***"
SECRET_LENGTH_MIN = 4  # hiding every "a" would say more than it hides
PIPE_WIDTH = 1_000  # of text written to a file or pipe, unless COLUMNS says otherwise: one fact a line, for grep


class ReaderGone(Exception):
    """Whoever read our output has gone (``domicile ... | head -1``). Not an OSError, for typer would end with 1."""


class Output:
    """Prints results, talk and errors. ``json_wanted`` is set by the command once it has read its options."""

    def __init__(self, environ: Mapping[str, str], out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.json_wanted = False
        self._secrets: tuple[str, ...] = ()
        self._out = _Scrubbed(out or sys.stdout, self)
        self._err = _Scrubbed(err or sys.stderr, self)
        self.stdout = _console(self._out, environ)
        self.stderr = _console(self._err, environ)

    def hide(self, secrets: Iterable[str]) -> None:
        """From now on these values are printed as ``***``. The longest first: one may hold another."""
        known = {*self._secrets, *(s for s in secrets if len(s) >= SECRET_LENGTH_MIN)}
        self._secrets = tuple(sorted(known, key=len, reverse=True))

    def scrub(self, text: str) -> str:
        """The text without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def result(self, data: object, *text: RenderableType) -> None:
        """The command's result: ``data`` as one JSON object when ``--json`` is given, else ``text``."""
        if self.json_wanted:
            print(json.dumps(self._scrubbed(plain(data)), indent=2, ensure_ascii=False), file=self._out)
            return
        for part in text:
            with self.stdout.capture() as captured:
                self.stdout.print(part)
            # Tables fill their last column with blanks, which nobody wants in a file.
            self._out.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def raw(self, text: str) -> None:
        """Text that is data itself (a file), on stdout as it is."""
        self._out.write(text if text.endswith("\n") else text + "\n")

    def say(self, *text: RenderableType) -> None:
        """Talk, on stderr."""
        for part in text:
            self.stderr.print(part)

    def error(self, error: DomicileError) -> None:
        """The error on stderr: code and message, facts, what is safe, what to do next; with ``--json`` also
        on stdout.
        """
        if self.json_wanted:
            print(
                json.dumps(self._scrubbed(plain(error.as_dict())), indent=2, ensure_ascii=False),
                file=self._out,
            )
        self.say(error_text(error))

    def flush(self) -> None:
        self._out.flush()
        self._err.flush()

    def _scrubbed(self, value: object) -> object:
        match value:
            case str():
                return self.scrub(value)
            case dict():
                return {k: self._scrubbed(v) for k, v in value.items()}
            case list():
                return [self._scrubbed(v) for v in value]
            case _:
                return value


class _Scrubbed:
    """A text stream that hides the secrets of its output. Only what rich and print use."""

    def __init__(self, stream: TextIO, output: Output) -> None:
        self._stream = stream
        self._output = output

    @property
    def encoding(self) -> str:
        return self._stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        # An argument that was not UTF-8 is shown, not choked on.
        shown = self._output.scrub(text).encode(self.encoding, "backslashreplace").decode(self.encoding)
        try:
            self._stream.write(shown)
        except BrokenPipeError:
            raise ReaderGone from None
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            raise ReaderGone from None

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


def error_text(error: DomicileError) -> Text:
    """How an error looks. A fact that the message already shows is not repeated."""
    text = Text()
    text.append(f"error[{error.code}]", style="bold red")
    text.append(f": {error.message}\n")
    for name, value in error.facts.items():
        _append_fact(text, name, value, error.message)
    if error.safe:
        text.append("safe: ", style="bold green")
        text.append(f"{error.safe}\n")
    if error.hint:
        text.append("next: ", style="bold")
        text.append(f"{error.hint}\n")
    text.rstrip()
    return text


def _append_fact(text: Text, name: str, value: object, message: str) -> None:
    match plain(value):
        case [] | {} | "" | None:
            return
        case [str(single)] if single in message:
            return
        case list() as items:
            shown = [f"    {_fact(item)}\n" for item in items]
        case dict() as members:
            shown = [f"    {key}: {_fact(member)}\n" for key, member in members.items()]
        case single:
            if str(single) in message:
                return
            text.append(f"  {name.replace('_', ' ')}: {_fact(single)}\n", style="dim")
            return
    text.append(f"  {name.replace('_', ' ')}:\n", style="dim")
    for line in shown:
        text.append(line)


def _fact(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _console(stream: _Scrubbed, environ: Mapping[str, str]) -> Console:
    width = None if stream.isatty() or "COLUMNS" in environ else PIPE_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False, _environ=environ)  # type: ignore[arg-type]
