"""The order and the result of a scan as JSON: what travels between the purge and the scanner beside the server."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import asdict, dataclass
import json
import os
from pathlib import Path
import pwd
import socket

from domicile.erasure.prints import Gatherer, Prints
from domicile.erasure.scan import Order, Scan, Tally, Told, nobody
from domicile.model.erasure import Place, Server

VERSION = 1
ORDER_BYTES_MAX = 64 << 20
KEY_BYTES = 32
BY_MAX = 200  # characters


@dataclass(frozen=True, slots=True)
class Result:
    """What one scan found. ``tallies`` has every place that was looked at."""

    tallies: dict[Place, Tally]
    bytes: int
    seconds: float
    by: str = ""  # account and host of whoever scanned

    @property
    def mb_per_s(self) -> float:
        return self.bytes / 1e6 / self.seconds if self.seconds else 0.0


def carry_out(order: Order, held_back: Callable[[], float] = lambda: 0.0, told: Told = nobody) -> Result:
    """Scan. ``held_back`` and ``told`` as for `Scan`. Raises OSError when the data directory cannot be read, ValueError
    when it is not that of the server which the order names."""
    if order.server is not None and not _is_of(order.data, order.server):
        raise ValueError("the order is for another server's data directory, or for one that has been started again")
    scan = Scan(order, held_back, told)
    scan.run()
    return Result(scan.tallies, scan.bytes, scan.seconds, f"{_account()}@{socket.gethostname()}")


def _is_of(data: Path, server: Server) -> bool:
    with (data / "global" / "pg_control").open("rb") as control:
        beginning = control.read(8)
    try:
        return server.keeps(beginning, (data / "postmaster.pid").read_text(encoding="utf-8"))
    except FileNotFoundError:  # it does not run
        return False


def _account() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def write_order(order: Order) -> bytes:
    """The order without its data directory: that is the agent's to name."""
    return json.dumps(
        {
            "version": VERSION,
            "key": order.prints.key.hex(),
            "prints": base64.b64encode(order.prints.pack()).decode(),
            "places": order.places,
            "kept": [str(p) for p in order.kept],
            "collected": order.collected,
            "mb_per_s_max": order.mb_per_s_max,
            "expired": [str(p) for p in order.expired],
            "server": asdict(order.server) if order.server else None,
        }
    ).encode()


def read_order(data: Path, raw: bytes) -> Order:
    """An order of the purge, or values in plain, one a line. ValueError for what is neither."""
    if not raw.lstrip().startswith(b"{"):
        return Order(data, _plain(raw))
    try:
        found = json.loads(raw)
        if found["version"] != VERSION:
            raise ValueError("an order of another version of domicile")
        return Order(
            data=data,
            prints=Prints.unpack(bytes.fromhex(found["key"]), base64.b64decode(found["prints"], validate=True)),
            places={str(name): Place(place) for name, place in found["places"].items()},
            kept=tuple(map(Path, found["kept"])),
            collected=str(found["collected"]),
            mb_per_s_max=float(found["mb_per_s_max"]),
            expired=tuple(map(Path, found["expired"])),
            server=_server(found["server"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not an order for a scan") from error


def _server(found: dict[str, object] | None) -> Server | None:
    if found is None:
        return None
    return Server(int(str(found["identifier"])), float(str(found["started"])), str(found["port"]))


def write_result(result: Result) -> dict[str, object]:
    """As plain data for JSON."""
    return {
        "version": VERSION,
        "by": result.by,
        "bytes": result.bytes,
        "seconds": result.seconds,
        "mb_per_s": round(result.mb_per_s, 1),
        "places": {
            str(place): {
                "bytes": tally.bytes,
                "files": tally.files,
                "copies": sum(tally.found.values()),
                "found": {str(which): times for which, times in tally.found.items()},
                "not_read": tally.not_read,
            }
            for place, tally in result.tallies.items()
        },
    }


def read_result(raw: bytes) -> Result:
    """What `write_result` wrote. ValueError for something else."""
    try:
        found = json.loads(raw)
        if found["version"] != VERSION:
            raise ValueError("the result of another version of domicile")
        tallies = {
            Place(name): Tally(
                int(place["bytes"]),
                int(place["files"]),
                {int(which): int(times) for which, times in place["found"].items()},
                {str(reason): int(times) for reason, times in place["not_read"].items()},
            )
            for name, place in found["places"].items()
        }
        return Result(tallies, int(found["bytes"]), float(found["seconds"]), str(found["by"])[:BY_MAX])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not the result of a scan") from error


def _plain(raw: bytes) -> Prints:
    gathered = Gatherer(os.urandom(KEY_BYTES))
    for number, line in enumerate(raw.splitlines()):
        gathered.add(line, number)
    return gathered.prints()
