"""A folder with a configuration of two sites, in which the program is run as its users run it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.conftest import create_database, drop_database

from domicile.sites.embedded import EmbeddedCluster

PROGRAM = str(Path(sys.executable).parent / "domicile")
SCHEMA = """
create schema app;
create table app.account (id bigint primary key, market text not null, email text unique not null);
create table app.note (id bigint primary key, account_id bigint not null references app.account (id), body text);
create index on app.note (account_id);
"""
ROWS = """
insert into app.account select n, case when n % 3 = 0 then 'CN' else 'IN' end, 'u' || n || '@example.com'
  from generate_series(1, 60) n;
insert into app.note select n, 1 + n % 60, repeat('text ', 20) from generate_series(1, 3000) n;
"""
MAP = """\
version: 1
dataset: app
subject: {table: app.account, key: id, market: subject.market}
tables:
  app.account: {role: subject}
  app.note: {role: owned, owner: account_id -> app.account(id)}
"""


@dataclass(frozen=True, slots=True)
class Done:
    """One ended call."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Desk:
    """A folder with a configuration of two sites, and the two databases behind it."""

    folder: Path
    source: str
    target: str
    environ: Mapping[str, str]

    def domicile(self, *arguments: str, stdin: str | None = None, **environ: str) -> Done:
        ended = subprocess.run(
            [PROGRAM, *arguments],
            cwd=self.folder,
            env={**self.environ, **environ},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        shown = ended.stdout + ended.stderr
        for conninfo in (self.source, self.target):
            assert str(conninfo_to_dict(conninfo)["password"]) not in shown
        return Done(ended.returncode, ended.stdout, ended.stderr)

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Begin a call; its stderr grows in the file ``talk``."""
        with (self.folder / "talk").open("w") as talk:
            return subprocess.Popen(
                [PROGRAM, *arguments],
                cwd=self.folder,
                env={**self.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=talk,
                text=True,
            )

    def talk(self) -> str:
        return (self.folder / "talk").read_text()

    def plan(self, where: str = "market = 'IN'", name: str = "plan.json") -> str:
        made = self.domicile("plan", "app", "--from", "beijing", "--to", "singapore", "--where", where, "-o", name)
        assert made.code == 0, made.err
        return name

    def move(self) -> str:
        return str(self.domicile("status", "--json").json["moves"][-1]["move_id"])

    def at(self, conninfo: str) -> tuple[int, int]:
        with psycopg.connect(conninfo) as conn:
            row = conn.execute("select (select count(*) from app.account), (select count(*) from app.note)").fetchone()
        assert row is not None
        return row[0], row[1]


@asynccontextmanager
async def furnished(cluster: EmbeddedCluster, folder: Path) -> AsyncIterator[Desk]:
    """Sixty accounts at beijing, twenty of them of China; an empty singapore; the control database beside them."""
    names = [await create_database(cluster, prefix) for prefix in ("beijing", "singapore", "control")]
    source, target = (cluster.conninfo(name) for name in names[:2])
    for conninfo, statements in ((source, SCHEMA + ROWS), (target, SCHEMA)):
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
            await conn.execute(statements.encode())
    parameters = conninfo_to_dict(source)
    without = make_conninfo("", **{k: v for k, v in parameters.items() if k not in ("password", "dbname")})
    (folder / "domicile.yaml").write_text(
        f"""version: 1
control: "{make_conninfo(without, dbname=names[2])} password=${{SITE_PASSWORD}}"
sites:
  beijing: {{jurisdiction: CN, conninfo: "{without} password=${{SITE_PASSWORD}}"}}
  singapore: {{jurisdiction: SG, conninfo: "{without} password=${{SITE_PASSWORD}}"}}
datasets:
  app: {{map: app.map.yaml, at: {{beijing: dbname={names[0]}, singapore: dbname={names[1]}}}}}
limits: {{canary_subjects_max: 2, wave_subjects_max: 8, settle_seconds: 0}}
"""
    )
    (folder / "app.map.yaml").write_text(MAP)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DOMICILE_", "PG", "COLUMNS", "NO_COLOR"))}
    yield Desk(folder, source, target, {**kept, "SITE_PASSWORD": str(parameters["password"]), "TERM": "xterm"})
    for name in names:
        await drop_database(cluster, name)
