"""Inputs that were found: one file each, from which the fault can be seen again, and which the tests try for ever."""

from __future__ import annotations

import base64
from dataclasses import dataclass
import hashlib
import json
from pathlib import Path
import sys
from typing import Any
import zlib

from reliability.fuzz.rule import Input

FOLDER = Path(__file__).parent / "found"
_ROOT = Path(__file__).resolve().parent.parent.parent
_PLAIN_MAX = 4_000  # longer ones are compressed: they repeat themselves


@dataclass(frozen=True, slots=True)
class Found:
    """An input and what it did. ``seed`` and ``number`` make the unshrunk one again; ``size`` was its length."""

    target: str
    fault: str
    given: Input
    seed: int
    number: int
    about: str

    @property
    def path(self) -> Path:
        """Where it is kept: one file for one kind of fault."""
        return FOLDER / f"{self.target}-{hashlib.sha256(self.fault.encode()).hexdigest()[:8]}.json"

    def write(self, folder: Path = FOLDER) -> Path:
        """Keep it, in place of an earlier one of its kind."""
        folder.mkdir(exist_ok=True)
        content = {
            "target": self.target,
            "fault": self.fault,
            "seed": self.seed,
            "number": self.number,
            "input": encoded(self.given),
            "about": self.about,
        }
        path = folder / self.path.name
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="ascii")
        return path


def read(path: Path) -> Found:
    """One file."""
    content = json.loads(path.read_text(encoding="ascii"))
    given = decoded(content["input"])
    return Found(content["target"], content["fault"], given, content["seed"], content["number"], content["about"])


def encoded(given: Input) -> Any:
    """As data for JSON, which has neither bytes nor lone surrogates that every reader takes."""
    match given:
        case tuple():
            return [encoded(part) for part in given]
        case bytes() if len(given) > _PLAIN_MAX:
            return {"zlib": base64.b64encode(zlib.compress(given, 9)).decode()}
        case bytes():
            return {"hex": given.hex()}
        case _ if len(given) > _PLAIN_MAX:
            text = given.encode("utf-8", "surrogatepass")
            return {"zlib text": base64.b64encode(zlib.compress(text, 9)).decode()}
        case _:
            return given


def decoded(data: Any) -> Input:
    """The input again."""
    match data:
        case list():
            return tuple(part for part in map(decoded, data) if not isinstance(part, tuple))
        case {"hex": str(digits)}:
            return bytes.fromhex(digits)
        case {"zlib": str(packed)}:
            return zlib.decompress(base64.b64decode(packed))
        case {"zlib text": str(packed)}:
            return zlib.decompress(base64.b64decode(packed)).decode("utf-8", "surrogatepass")
        case _:
            return str(data)


def without_places(text: str) -> str:
    """A traceback without the folders of the machine that it was met on."""
    for folder in (str(_ROOT), sys.prefix, sys.base_prefix, str(Path.home())):
        text = text.replace(folder + "/", "")
    return text[-3_000:]
