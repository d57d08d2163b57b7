"""The reference pages say everything there is, and nothing that is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
import re

import pytest
import typer
from typer.main import get_command

from domicile.cli.main import EXIT_PIPE_CLOSED, app
from domicile.model import errors
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.plan import Limits
from domicile.move.failpoints import POINTS
from domicile.settings.file import ConfigFile, DatasetEntry, SiteEntry

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = ROOT / "docs" / "reference"
CLI, CONFIG, ERRORS, EXITS = (
    (PAGES / name).read_text(encoding="utf-8") for name in ("cli.md", "config.md", "errors.md", "exit-codes.md")
)
COMPLETION = {"--install-completion", "--show-completion"}


def commands(group: object = None, path: str = "domicile") -> Iterator[tuple[str, list[str]]]:
    """Each command's full name and its options."""
    found = get_command(app) if group is None else group
    members = getattr(found, "commands", None)
    if members is None:
        yield path, [o for p in getattr(found, "params", []) for o in p.opts if o.startswith("-")]
        return
    for name, command in members.items():
        yield from commands(command, f"{path} {name}")


ALL = dict(commands())


@pytest.mark.parametrize("name", ALL)
def test_every_command_and_option_is_described(name: str) -> None:
    headings = re.findall(r"^### (domicile [^\n]*)\n(.*?)(?=^##|\Z)", CLI, re.MULTILINE | re.DOTALL)
    found = [heading + body for heading, body in headings if heading == name or heading.startswith(f"{name} ")]
    assert len(found) == 1, f"{name} has {len(found)} headings in cli.md"
    missing = [o for o in ALL[name] if o != "--help" and not re.search(rf"{re.escape(o)}\b", found[0])]
    assert not missing, f"{name}: {missing} are not described"


def test_no_command_is_described_that_is_not_there() -> None:
    described = {
        re.split(r" [A-Z\[-]", heading, maxsplit=1)[0]
        for heading in re.findall(r"^### (domicile [^\n]*)", CLI, re.MULTILINE)
    }
    assert described == set(ALL)


def test_the_program_s_options_are_described() -> None:
    program = get_command(app)
    assert isinstance(app, typer.Typer)
    options = {o for p in program.params for o in p.opts} | COMPLETION
    assert not [o for o in options if f"`{o}`" not in CLI]


def test_every_key_of_the_configuration_is_described() -> None:
    names = {n for model in (ConfigFile, SiteEntry, DatasetEntry) for n in model.model_fields}
    names |= {f.name for f in fields(Limits)}
    rows = re.findall(r"^\| `([a-z0-9_]+)` \|", CONFIG, re.MULTILINE)
    assert sorted(rows) == sorted(names)
    for field in fields(Limits):
        shown = re.search(rf"^\| `{field.name}` \|.*\| ([\d.]+) \|$", CONFIG, re.MULTILINE)
        assert shown, field.name
        assert float(shown[1]) == field.default, field.name


def test_every_error_is_described_with_its_exit_code() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (\d+) \| [^|]+ \| [^|]+ \|$", ERRORS, re.MULTILINE))
    assert {code: int(number) for code, number in rows.items()} == {
        str(code): DomicileError(code, "").exit_code for code in ErrorCode
    }


def test_every_exit_code_is_described() -> None:
    described = {int(n) for n in re.findall(r"^\| (\d+) \|", EXITS, re.MULTILINE)}
    defined = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert described == defined | {EXIT_PIPE_CLOSED}


def test_every_failpoint_is_described_in_its_order() -> None:
    page = (PAGES / "failpoints.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", page, re.MULTILINE)) == POINTS


def test_links_lead_somewhere() -> None:
    for page in PAGES.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
