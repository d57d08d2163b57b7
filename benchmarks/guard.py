"""What does the guard cost users who do not move?

    python -m benchmarks.guard [--rows 2000000] [--repeat 12] [--seconds 2] [--protocol simple] [--json]

pgbench's TPC-B-like transaction, 8 clients, subject ``pgbench_accounts(aid)``, owned ``pgbench_history(aid)``: two of
its four writes meet the guard. ``none``: no guard. ``idle``: a move and its wave are registered, the triggers
installed, not armed. ``armed``: the wave is fenced; its members lie scattered over all accounts, and no client touches
one of them. Each repeat runs the three and then, backwards, again, after a run that does not count; the next repeat
begins with another of them: so no variant has a better place. ``tps_ratio_*`` are the medians over the repeats of tps
over that of ``none``; a shared machine needs many."""

from __future__ import annotations

import asyncio
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
REPEAT = 12
SECONDS = 2
CLIENTS = 8
MEMBERS = 1_000
VARIANTS = ("none", "idle", "armed")
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


async def pgbench(cluster: EmbeddedCluster, seconds: int, *options: str) -> float:
    """Transactions per second; a failed transaction is an error."""
    command = [str(cluster.binaries.bindir / "pgbench"), "-n", "-c", str(CLIENTS), "-j", "2", "-T", str(seconds)]
    process = await asyncio.create_subprocess_exec(
        *command, *options, cluster.conninfo(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = (part.decode() for part in await process.communicate())
    tps = re.search(r"^tps = ([\d.]+)", out, re.MULTILINE)
    if process.returncode or tps is None or "failed transactions: 0 " not in out:
        raise RuntimeError(f"pgbench: {err or out}")
    return float(tps[1])


async def measure(cluster: EmbeddedCluster, options: list[str], repeat: int, seconds: int) -> dict[str, object]:
    """All variants, ``repeat`` times."""
    tps: dict[str, list[float]] = {v: [] for v in VARIANTS}
    async with await connect(cluster.conninfo(), settings=SESSION) as conn:
        for round_no in range(repeat):
            await switch(conn, "none")  # an armed guard refuses to truncate
            for statement in SETTLE.split(";"):
                await conn.execute(statement.encode())
            await pgbench(cluster, seconds, *options)
            first = round_no % len(VARIANTS)
            there = VARIANTS[first:] + VARIANTS[:first]
            now = dict.fromkeys(VARIANTS, 0.0)
            for variant in there + there[::-1]:
                await switch(conn, variant)
                now[variant] += await pgbench(cluster, seconds, *options) / 2
            for variant, rate in now.items():
                tps[variant].append(rate)
            _bench.say(f"repeat {round_no + 1}: " + ", ".join(f"{v} {rate:.0f} tps" for v, rate in now.items()))
    figures: dict[str, object] = {}
    for variant in VARIANTS[1:]:
        ratios = [ours / bare for ours, bare in zip(tps[variant], tps["none"], strict=True)]
        figures[f"tps_ratio_{variant}"] = _bench.median(ratios)
        figures[f"tps_ratios_{variant}"] = [round(r, 3) for r in ratios]
    return {**figures, "tps_none": _bench.median(tps["none"])}


async def run(rows: int, repeat: int, seconds: int, protocol: str) -> dict[str, object]:
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
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"of each run (default {SECONDS})")
    parser.add_argument("--protocol", choices=("simple", "extended", "prepared"), default="simple", help="pgbench -M")
    options = parser.parse_args(arguments)
    figures = asyncio.run(run(options.rows, options.repeat, options.seconds, options.protocol))
    _bench.show(figures, as_json=options.json)


if __name__ == "__main__":
    main()
