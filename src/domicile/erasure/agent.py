"""The order and the result of a scan as JSON: what travels between the purge and the scanner beside the server."""

from __future__ import annotations

import base64
from dataclasses import dataclass
import json
import os
from pathlib import Path

from domicile.erasure.prints import Gatherer, Prints
from domicile.erasure.scan import Order, Scan, Tally
from domicile.model.erasure import Place

VERSION = 1
ORDER_BYTES_MAX = 64 << 20
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Result:
    """What one scan found. ``tallies`` has every place that was looked at."""

    tallies: dict[Place, Tally]
    bytes: int
    seconds: float

    @property
    def mb_per_s(self) -> float:
        return self.bytes / 1e6 / self.seconds if self.seconds else 0.0


def carry_out(order: Order) -> Result:
    """Scan. Raises OSError when the data directory cannot be read."""
    scan = Scan(order)
    scan.run()
    return Result(scan.tallies, scan.bytes, scan.seconds)


def write_order(order: Order) -> bytes:
    """The order without its data directory: that is the agent's to name."""
    return json.dumps(
        {
            "version": VERSION,
            "key": order.prints.key.hex(),
            "prints": base64.b64encode(order.prints.pack()).decode(),
            "places": order.places,
            "kept": [str(p) for p in order.kept],
            "logs": [str(p) for p in order.logs],
            "mb_per_s_max": order.mb_per_s_max,
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
            logs=tuple(map(Path, found["logs"])),
            mb_per_s_max=float(found["mb_per_s_max"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not an order for a scan") from error


def write_result(result: Result) -> dict[str, object]:
    """As plain data for JSON."""
    return {
        "version": VERSION,
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
        return Result(tallies, int(found["bytes"]), float(found["seconds"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not the result of a scan") from error


def _plain(raw: bytes) -> Prints:
    gathered = Gatherer(os.urandom(KEY_BYTES))
    for number, line in enumerate(raw.splitlines()):
        gathered.add(line, number)
    return gathered.prints()
