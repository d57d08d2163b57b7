"""Scans beside a server, as a process of its own: ``domicile scan``, with its order on standard input."""

from __future__ import annotations

import asyncio
from pathlib import Path
import shutil
import sys

from domicile.erasure import agent
from domicile.erasure.agent import Result
from domicile.erasure.scan import Order
from domicile.model.errors import DomicileError, ErrorCode

NICE = ("nice", "-n", "5")  # the server's own work comes first


async def scan(order: Order) -> Result:
    """What the scan found. Raises files-unreadable when it did not come to its end: nothing is known then."""
    program = [sys.executable, "-m", "domicile", "scan", str(order.data), "--json"]
    child = await asyncio.create_subprocess_exec(
        *(NICE if shutil.which(NICE[0]) else ()),
        *program,
        cwd=Path("/"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        out, _ = await child.communicate(agent.write_order(order))
    except BaseException:
        if child.returncode is None:
            child.kill()
            await asyncio.shield(child.wait())
        raise
    if child.returncode == 0:
        try:
            return agent.read_result(out)
        except ValueError:
            pass
    raise DomicileError(
        ErrorCode.FILES_UNREADABLE,
        "the scan of the server's files did not come to its end",
        facts={"exit_code": child.returncode},
        safe="What is removed is removed; nothing is known of what is left on disk.",
        hint="Run domicile scan DATA_DIRECTORY by hand to see why, then the purge again.",
    )
