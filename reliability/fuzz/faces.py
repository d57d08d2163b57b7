"""The faces: the program's arguments, in this process, and the calls behind them at a real database.

The arguments name a configuration whose databases nobody listens at: what gets as far as a connection ends there, with
the code for it. The calls get texts where they want texts; that a text is not a list is the type checker's business.
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cache
import io
import json
import logging
import os
from pathlib import Path
from random import Random
import re
import sys
import tempfile
from typing import Any
from unittest.mock import patch

from psycopg.conninfo import make_conninfo

from domicile import commands
from domicile.cli import main as program
from domicile.commands.desk import load_map
from domicile.model.errors import DomicileError
from domicile.model.plan import Mode, Question
from domicile.model.site import SiteName
from domicile.model.workspace import Workspace
from domicile.planner import plan_file
from domicile.postgres.connect import connect
from domicile.settings import load
from domicile.sites.embedded import EmbeddedCluster, scratch_directory
from reliability.fuzz import samples
from reliability.fuzz.dice import MARKER, mutated_text, odd_text, one_in
from reliability.fuzz.rule import ACCEPTED, Broken, Input, Target

_EXITS = frozenset({0, 1, 2, 3, 4, 5, 130})
_CODE = re.compile(r"error\[([a-z-]+)\]")
_AT = re.compile(r"an error of its own: (\w+)(?:\s+at: (.*)|\s+at:\n\s+(.*))?")
# Nobody listens at port 1 of this machine.
_CONFIG = f"""\
version: 1
control: host=127.0.0.1 port=1 user=u password={MARKER}
sites:
  beijing: {{jurisdiction: CN, conninfo: host=127.0.0.1 port=1 user=u password={MARKER}}}
  singapore: {{jurisdiction: SG, conninfo: "postgresql://u:{MARKER}@127.0.0.1:1/s"}}
datasets:
  shop: {{map: shop.map.yaml, at: [beijing, singapore]}}
"""
_MAP = """\
version: 1
dataset: shop
subject: {table: app.account, key: id, market: subject.market}
tables:
  app.account: {role: subject}
  app.note: {role: owned, owner: account_id -> app.account(id)}
"""
_DATABASE = b"""
create schema app;
create table app.account (id bigint primary key, market text not null, email text unique not null);
create table app.note (id bigint primary key, account_id bigint not null references app.account (id), body text);
create index on app.note (account_id);
insert into app.account select n, case when n % 3 = 0 then 'CN' else 'IN' end, 'u' || n from generate_series(1, 9) n;
insert into app.note select n, 1 + n % 9, 'text' from generate_series(1, 20) n;
"""
_ROWS = (
    b"select (select count(*) from app.account), (select count(*) from app.note), (select min(email) from app.account)"
)
_COMMANDS: tuple[tuple[str, ...], ...] = (
    ("init",),
    ("sites",),
    ("survey", "shop", "--site", "beijing"),
    ("map", "check", "shop", "--site", "beijing"),
    ("plan", "shop", "--from", "beijing", "--to", "singapore", "--where", "market = 'IN'"),
    ("plan", "shop", "--from", "beijing", "--to", "singapore", "--subjects", "subjects.txt"),
    ("apply", "plan.json", "--yes"),
    ("apply", "plan.json", "--cold", "--detach"),
    ("status",),
    ("status", "m-1", "--watch"),
    ("verify", "m-1"),
    ("report", "m-1"),
    ("where", "shop", "17"),
    ("resume", "m-1"),
    ("pause", "m-1"),
    ("abort", "m-1", "--yes"),
    ("rollback", "m-1", "--yes"),
    ("soak", "m-1"),
    ("purge", "m-1", "--yes"),
    ("worker", "--site", "beijing", "--moves", "2"),
    ("demo", "--help"),
)
_OPTIONS = (
    "--json",
    "--yes",
    "--force",
    "-o",
    "--output",
    "--site",
    "--from",
    "--help",
    "--version",
    "--",
    "-",
    "--no",
)
_CONDITIONS = (
    "market = 'IN'",
    "true",
    "id = 1) or (true",
    "id = 1] or [true",
    "1",
    "null",
    "select true",
    "(select true)",
    "1/0 = 1",
    "id in (select account_id from app.note)",
    "random() < 0.5",
    "pg_sleep(9) is null",
    "email = 'x'; drop table app.note; --",
    "email = 'x' --",
    "/* ",
    "$$",
    "$1 = 1",
    "%s",
    "%(x)s is null",
    "lo_creat(1) = 1",
    "nextval('x') = 1",
    "current_setting('x') = ''",
    "set_config('search_path', 'x', false) = ''",
    "exists (delete from app.note returning 1)",
    "subject is null",
    "subject.id = 1",
    "market ~ '('",
    "id = '9999999999999999999999'",
    "email::int = 1",
    "(" * 3_000 + "true" + ")" * 3_000,
    "true" + " and true" * 5_000,
    "true" + " and not" * 20_000 + " true",
)
_PIECES = ("(", ")", "]", "'", '"', "--", "/*", "*/", ";", "$$", "%s", "\\", " or ", "null", "::int", "E'\\u0000'")


@cache
def _folder() -> Path:
    """A folder with everything that the commands name, removed at the end."""
    folder = tempfile.TemporaryDirectory(prefix="domicile-fuzz-")
    atexit.register(folder.cleanup)
    path = Path(folder.name)
    _lay_out(path)
    return path


def _lay_out(path: Path) -> None:
    (path / "domicile.yaml").write_text(_CONFIG)
    (path / "shop.map.yaml").write_text(_MAP)
    (path / "subjects.txt").write_text("1\n2\n")
    (path / "bad.yaml").write_bytes(b"\xff\0")
    workspace = load(path / "domicile.yaml", {})
    made = replace(
        samples.plan(Random(1)),
        checks=(),
        config_digest=workspace.config_digest,
        dataset=next(iter(workspace.datasets)),
    )
    fit = replace(made, map_digest=load_map(workspace, "shop").digest)
    (path / "plan.json").write_text(plan_file.dump(plan_file.seal(fit)))


def _make_arguments(dice: Random) -> tuple[str, ...]:
    """A command as it should be, with arguments exchanged, left out, doubled and added. Nothing names a path outside
    of the folder, because ``init`` and ``--output`` write."""
    given = list(dice.choice(_COMMANDS))
    if given[0] == "demo":  # it would begin
        return ("demo", "--help", odd_text(dice).replace("/", "_"))
    for _ in range(dice.randrange(4)):
        at = dice.randrange(len(given) + 1)
        match dice.randrange(6):
            case 0 if given:
                del given[at : at + 1]
            case 1:
                given.insert(at, dice.choice(_OPTIONS))
            case 2:
                given[at:at] = ["--config", dice.choice(("bad.yaml", "none.yaml", ".", odd_text(dice)))]
            case 3:
                given[at : at + 1] = [odd_text(dice)]
            case 4:
                given.append(odd_text(dice))
            case _:
                given += given[at:]
    if one_in(dice, 3):
        given.append("--json")
    return tuple(one.replace("/", "_")[:100_000] for one in given if one != "demo")


@contextmanager
def _logging_as_it_was() -> Iterator[None]:
    """The program says what is logged on its own streams, which are gone behind it."""
    loggers = [logging.getLogger(name) for name in (None, "domicile")]
    before = [(one.handlers[:], one.level, one.propagate) for one in loggers]
    try:
        yield
    finally:
        for one, (handlers, level, propagate) in zip(loggers, before, strict=True):
            one.handlers, one.propagate = handlers, propagate
            one.setLevel(level)


def _run_arguments(given: Input) -> str:
    """What the entry point does, in this process. stdout is strict about what it can write, as a terminal's is."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    arguments = ["domicile", *(one for one in given if isinstance(one, str))]
    with (
        _logging_as_it_was(),
        chdir(_folder()),
        redirect_stdout(out),
        redirect_stderr(err),
        patch.object(sys, "argv", arguments),
        patch.object(sys, "stdin", io.StringIO()),
    ):
        exit_code = program.run({"HOME": "/nonexistent", "TERM": "dumb"})
        out.flush()
        err.flush()
    said = (out.detach().getvalue() + err.detach().getvalue()).decode("utf-8", "replace")
    if MARKER in said:
        raise Broken(f"the program prints a secret: {said[:1_000]}")
    if "Traceback (most" in said or "error[internal]" in said:
        raise Broken(f"the program met an error of its own{_where(said)}: {said[:1_000]}")
    if exit_code not in _EXITS:
        raise Broken(f"an exit code that is not documented: {exit_code}")
    found = _CODE.search(said)
    return found[1] if found else f"exit {exit_code}"


def _where(said: str) -> str:
    found = _AT.search(said)
    return f" ({found[1]} at {found[2] or found[3]})" if found else ""


class _Bench:
    """One server, two databases of the shop, a control database, and a workspace that names them."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.scratch = scratch_directory("domicile-fuzz-")
        base = self.scratch.__enter__()
        atexit.register(self.close)
        self.cluster = self.runner.run(EmbeddedCluster.create(base, "pg", settings={"max_connections": "100"}))
        self.runner.run(self.cluster.start())
        self.runner.run(self._fill())
        self.folder = base / "workspace"
        self.folder.mkdir()
        _lay_out(self.folder)
        at = {name: make_conninfo(self.cluster.conninfo(name), dbname=name) for name in ("beijing", "singapore")}
        made = load(self.folder / "domicile.yaml", {})
        dataset = replace(
            next(iter(made.datasets.values())), at={SiteName(site): conninfo for site, conninfo in at.items()}
        )
        self.workspace: Workspace = replace(
            made,
            datasets={dataset.name: dataset},
            control=self.cluster.conninfo("control"),
            state_dir=self.folder / ".domicile",
        )

    async def _fill(self) -> None:
        async with await connect(self.cluster.conninfo()) as conn:
            for statement in ("create database beijing", "create database singapore", "create database control"):
                await conn.execute(statement)
        for name in ("beijing", "singapore"):
            async with await connect(self.cluster.conninfo(name)) as conn:
                await conn.execute(_DATABASE)
        self.rows = await self._rows()

    async def _rows(self) -> object:
        async with await connect(self.cluster.conninfo("beijing")) as conn:
            return await (await conn.execute(_ROWS)).fetchone()

    async def call(self, name: str, arguments: tuple[str, ...]) -> None:
        """Raises what the call raises, and Broken when it changed the users' rows."""
        try:
            await _CALLS[name](self, *arguments)
        finally:
            if await self._rows() != self.rows:
                raise Broken(f"a call changed the users' rows: {name}")

    def close(self) -> None:
        """Stop the server and remove everything."""
        self.runner.run(self.cluster.stop())
        self.scratch.__exit__(None, None, None)
        self.runner.close()


@cache
def _bench() -> _Bench:
    return _Bench()


async def _plan(bench: _Bench, where: str, source: str, target: str, subjects: str) -> None:
    named = str(bench.folder / subjects.replace("/", "_")) if subjects else ""
    question = Question("shop", source, target, where, named)
    plan_file.load(plan_file.dump(await commands.plan(bench.workspace, question)))


async def _map_check(bench: _Bench, text: str) -> None:
    path = bench.folder / "other.map.yaml"
    path.write_text(text, encoding="utf-8")
    made = bench.workspace
    dataset = replace(next(iter(made.datasets.values())), map_path=path.name)
    await commands.map_check(replace(made, datasets={dataset.name: dataset}), "shop", "beijing")


async def _apply(bench: _Bench, text: str, mode: str) -> None:
    await commands.apply_detached(bench.workspace, plan_file.load(text), mode=Mode(mode))


def _of_move(name: str) -> Callable[[_Bench, str], Awaitable[object]]:
    async def call(bench: _Bench, move: str) -> object:
        return await getattr(commands, name)(bench.workspace, move)

    return call


_OF_MOVES = ("status", "verify", "report", "resume", "pause", "abort", "rollback", "soak", "purge")
_CALLS: Mapping[str, Callable[..., Awaitable[object]]] = {
    "where": lambda bench, dataset, subject: commands.where(bench.workspace, dataset, subject),
    "survey": lambda bench, site, table: commands.survey(bench.workspace, "shop", site, subject=table),
    "plan": _plan,
    "map_check": _map_check,
    "apply": _apply,
    **{name: _of_move(name) for name in (*_OF_MOVES, "resume_detached", "purge_detached")},
}


def _make_call(dice: Random) -> tuple[str, ...]:
    match dice.randrange(9):
        case 0:
            return ("where", dice.choice(("shop", odd_text(dice))), dice.choice(("1", odd_text(dice), odd_text(dice))))
        case 1:
            return ("survey", dice.choice(("beijing", odd_text(dice))), dice.choice(("app.note", odd_text(dice))))
        case 2 | 3 | 4:
            where = dice.choice(_CONDITIONS)
            if one_in(dice, 2):
                where = mutated_text(dice, where[:500], _PIECES)
            sites = ("beijing", "singapore") if not one_in(dice, 6) else (odd_text(dice), "beijing")
            return ("plan", where, *sites, "" if not one_in(dice, 6) else dice.choice(("subjects.txt", odd_text(dice))))
        case 5:
            return ("map_check", mutated_text(dice, _MAP, ("id", "app.note", '"', "->", "market", "(", "x", "'", "\\")))
        case 6:
            return ("apply", _damaged_plan(dice), dice.choice(("live", "cold")))
        case _:
            return (dice.choice([*_CALLS][-11:]), odd_text(dice))


def _damaged_plan(dice: Random) -> str:
    """A plan that fits configuration and map, and nothing else."""
    content: dict[str, Any] = json.loads((_folder() / "plan.json").read_text())
    for _ in range(dice.randrange(3)):
        content[dice.choice(("source", "target", "dataset", "made_at", "estimate_basis"))] = (
            odd_text(dice).encode(errors="ignore").decode()
        )
    content["cohort"]["where"] = dice.choice(_CONDITIONS)
    try:
        made = plan_file.decode(content)
    except DomicileError:  # it is no plan: nobody can have sealed it
        return json.dumps(content)
    return plan_file.dump(replace(made, digest=plan_file.digest_of(made)))


def _run_call(given: Input) -> str:
    name, *arguments = (one for one in given if isinstance(one, str))
    bench = _bench()
    if name == "map_check":
        arguments = [arguments[0].encode(errors="replace").decode()]
    bench.runner.run(bench.call(name, tuple(arguments)))
    return ACCEPTED


def _prepare_arguments() -> None:
    os.environ.pop("DOMICILE_CONFIG", None)
    _folder()


def _prepare_calls() -> None:
    _folder()
    _bench()


TARGETS = (
    Target("arguments", _make_arguments, _run_arguments, share=2, prepare=_prepare_arguments),
    Target("calls", _make_call, _run_call, share=2, prepare=_prepare_calls),
)
