"""What does the guard cost users who do not move?

    python -m benchmarks.guard [--rows 2000000] [--repeat 9] [--seconds 3] [--protocol simple] [--json]

pgbench's TPC-B-like transaction, 8 clients, subject ``pgbench_accounts(aid)``, owned ``pgbench_history(aid)``: two of
its four writes meet the guard. ``none``: no guard. ``idle``: a move and its wave are registered, the triggers
installed, not armed. ``armed``: the wave is fenced; its members lie scattered over all accounts, and no client touches
one of them. Each repeat runs none, idle, armed, armed, idle, none, so that drift cancels out; ``tps_ratio_*`` are the
medians over the repeats of tps over that of ``none``. ``cpu_ratio_*``, the same for the server's CPU seconds per
transaction, are steadier on a shared machine, and harsher: waiting for the disk is not in them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
import os
from pathlib import Path
import re
import tempfile
from typing import Any

import psycopg

from benchmarks import _bench
from domicile.model.datamap import DataMap, OwnerStep, Role, SubjectRule, TableRule
from domicile.model.schema import TableName
from domicile.model.site import DatasetName, SiteName
from domicile.postgres import guard, site_schema
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema
from domicile.sites.embedded import EmbeddedCluster

ACCOUNTS_PER_SCALE = 100_000
ROWS = 2_000_000  # 20 branches for 8 clients: with fewer they wait for each other's branch
REPEAT = 9
SECONDS = 3.0
CLIENTS = 8
MEMBERS = 1_000
ORDER = ("none", "idle", "armed", "armed", "idle", "none")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ACCOUNTS, HISTORY = TableName("public", "pgbench_accounts"), TableName("public", "pgbench_history")

# pgbench's own script but for the choice of aid: each stretch of :step accounts begins with a member.
SCRIPT = r"""
\set aid random(0, {members} - 1) * {step} + random(2, {step})
\set bid random(1, {scale})
\set tid random(1, 10 * {scale})
\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
"""
REGISTER = """
    insert into domicile.move (move_id, dataset, here, role, peer) values ('m', 'bench', 'here', 'source', 'there');
    insert into domicile.wave (move_id, no, mark, home, epoch) values ('m', 1, 'open', 'here', 0);
    insert into domicile.member (wave, ordinal, subject)
    select w.id, n + 1, n * {step} + 1 from domicile.wave as w, pg_catalog.generate_series(0, {members} - 1) as n"""
SETTLE = "truncate public.pgbench_history; vacuum public.pgbench_accounts; checkpoint"

Connection = psycopg.AsyncConnection[Any]


def data_map() -> DataMap:
    """Accounts are subjects; each line of history belongs to one."""
    step = OwnerStep.parse("aid -> public.pgbench_accounts(aid)")
    rules = (TableRule(ACCOUNTS, Role.SUBJECT), TableRule(HISTORY, Role.OWNED, step))
    return DataMap(DatasetName("bench"), SubjectRule(ACCOUNTS, "aid"), {r.table: r for r in rules})


async def switch(conn: Connection, variant: str) -> None:
    """Bring the database into the state of that variant."""
    mapped = data_map()
    tables = mapped.in_scope()
    if variant == "none":
        await guard.remove(conn, tables)
        return
    await guard.install(conn, mapped, await read_schema(conn), here=SiteName("here"))
    await guard.set_fence(conn, 1, "fenced" if variant == "armed" else "open", "here", 1)
    await (guard.arm if variant == "armed" else guard.disarm)(conn, tables)
    if variant == "armed":
        await guard.drain(conn, tables, seconds_max=10)
        if await _refusal(conn) != "DM002":
            raise RuntimeError("the guard is not armed")


async def _refusal(conn: Connection) -> str | None:
    """The SQLSTATE with which a write for a member is refused, or None."""
    try:
        await conn.execute("update public.pgbench_accounts set abalance = 0 where aid = 1")
    except psycopg.Error as error:
        return error.sqlstate
    return None


async def pgbench(cluster: EmbeddedCluster, seconds: float, *options: str) -> tuple[float, int]:
    """Transactions per second and their number; a failed transaction is an error."""
    command = [str(cluster.binaries.bindir / "pgbench"), "-n", "-c", str(CLIENTS), "-j", "2", "-T", f"{seconds:.0f}"]
    process = await asyncio.create_subprocess_exec(
        *command, *options, cluster.conninfo(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = (part.decode() for part in await process.communicate())
    tps = re.search(r"^tps = ([\d.]+)", out, re.MULTILINE)
    number = re.search(r"actually processed: (\d+)", out)
    if process.returncode or tps is None or number is None or "failed transactions: 0 " not in out:
        raise RuntimeError(f"pgbench: {err or out}")
    return float(tps[1]), int(number[1])


async def measure(cluster: EmbeddedCluster, options: list[str], repeat: int, seconds: float) -> dict[str, object]:
    """All variants, ``repeat`` times."""
    tps: dict[str, list[float]] = {v: [] for v in ORDER}
    cpu: dict[str, list[float]] = {v: [] for v in ORDER}
    async with await connect(cluster.conninfo(), settings=SESSION) as conn:
        await switch(conn, "armed")
        await pgbench(cluster, 2, *options)
        for round_no in range(repeat):
            await switch(conn, "none")  # an armed guard refuses to truncate
            for statement in SETTLE.split(";"):
                await conn.execute(statement.encode())
            now: dict[str, list[tuple[float, float]]] = {v: [] for v in ORDER}
            for variant in ORDER:
                await switch(conn, variant)
                before = _server_cpu(cluster)
                rate, number = await pgbench(cluster, seconds, *options)
                now[variant].append((rate, (_server_cpu(cluster) - before) / number))
            for variant, pairs in now.items():
                tps[variant].append(sum(rate for rate, _ in pairs) / len(pairs))
                cpu[variant].append(sum(spent for _, spent in pairs) / len(pairs))
            _bench.say(f"repeat {round_no + 1}: " + ", ".join(f"{v} {tps[v][-1]:.0f} tps" for v in tps))
    return _figures(tps, cpu)


def _figures(tps: Mapping[str, list[float]], cpu: Mapping[str, list[float]]) -> dict[str, object]:
    figures: dict[str, object] = {}
    for name, measured in (("tps", tps), ("cpu", cpu)):
        for variant in ("idle", "armed"):
            ratios = [ours / bare for ours, bare in zip(measured[variant], measured["none"], strict=True)]
            figures[f"{name}_ratio_{variant}"] = _bench.median(ratios)
            figures[f"{name}_ratios_{variant}"] = [round(r, 3) for r in ratios]
    figures["tps_none"] = _bench.median(tps["none"])
    figures["cpu_us_per_transaction_none"] = _bench.median([spent * 1e6 for spent in cpu["none"]])
    return figures


def _server_cpu(cluster: EmbeddedCluster) -> float:
    """CPU seconds of the server: of the postmaster, its children, and its children that have ended."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:  # ended meanwhile
            continue
        if path.parent.name == str(cluster.pid):
            total += sum(int(f) for f in fields[11:15])
        elif fields[1] == str(cluster.pid):
            total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


async def run(rows: int, repeat: int, seconds: float, protocol: str) -> dict[str, object]:
    """The figures, on a server of its own."""
    scale = max(1, rows // ACCOUNTS_PER_SCALE)
    step = scale * ACCOUNTS_PER_SCALE // MEMBERS
    async with _bench.clusters("guard") as (cluster,):
        _bench.say(f"filling {scale * ACCOUNTS_PER_SCALE} accounts")
        bindir = cluster.binaries.bindir
        fill = [str(bindir / "pgbench"), "-i", "-q", "-s", str(scale), cluster.conninfo()]
        process = await asyncio.create_subprocess_exec(*fill, stderr=asyncio.subprocess.DEVNULL)
        assert await process.wait() == 0
        async with await connect(cluster.conninfo(), settings=SESSION) as conn:
            await site_schema.install(conn, "integer")
            await conn.execute(REGISTER.format(step=step, members=MEMBERS).encode())
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
            script.write(SCRIPT.format(members=MEMBERS, step=step, scale=scale))
            script.flush()
            figures = await measure(cluster, ["-M", protocol, "-f", script.name], repeat, seconds)
    facts = {"members": MEMBERS, "accounts": rows, "clients": CLIENTS, "seconds": seconds, "protocol": protocol}
    return {**figures, **facts, "repeat": repeat}


def main(arguments: list[str] | None = None) -> None:
    parser = _bench.parser("guard", __doc__ or "", ROWS)
    parser.set_defaults(repeat=REPEAT)
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of each run (default {SECONDS:g})")
    parser.add_argument("--protocol", choices=("simple", "extended", "prepared"), default="simple", help="pgbench -M")
    options = parser.parse_args(arguments)
    figures = asyncio.run(run(options.rows, options.repeat, options.seconds, options.protocol))
    _bench.show(figures, as_json=options.json)


if __name__ == "__main__":
    main()
