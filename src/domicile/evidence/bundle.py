"""Bundles: what both sites' logs say of one move, in one file that needs nothing else to be verified.

A ZIP archive that any tool opens, of which exactly one byte sequence is accepted: entries stored, in a fixed order,
without times, extra fields or gaps. So there is nowhere to hide a byte, and nothing to unpack. Decision 0017."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
import re
import struct
from typing import Any
import zlib

from domicile.evidence import checkpoint, dsse, merkle, strict
from domicile.evidence.ledger import Ledger
from domicile.evidence.merkle import HASH, Run, Tree
from domicile.evidence.note import Key, Note, Signer, parse_note
from domicile.evidence.statement import Subject, encode_statement
from domicile.evidence.strict import Malformed, decode64, encode64, number

BYTES_MAX = 256 * 1024 * 1024
LOGS_MAX = 8
HISTORY_BYTES_MAX = 16 * 1024 * 1024
LINES_MAX = 4_000_000  # of leaves, and of hashes, of one log
MANIFEST, KEYS = "manifest.json", "keys.txt"
PARTS = ("checkpoint", "history.json", "leaves.jsonl", "tree.txt")
FORMAT = 1
_LOCAL, _CENTRAL, _END = b"PK\3\4", b"PK\1\2", b"PK\5\6"
_VERSION, _DATE = 20, 0x21  # ZIP 2.0; 1 January 1980, the earliest that ZIP knows
_PART = re.compile(rf"log-[0-{LOGS_MAX - 1}]/(?:{'|'.join(map(re.escape, PARTS))})")


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier checkpoint, and the proof that the next one has grown from it."""

    note: Note
    growth: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LogPart:
    """What one log says of the move: its last checkpoint, earlier ones, the move's leaves, and what the tree has
    beside them."""

    note: Note
    history: tuple[Earlier, ...]
    leaves: tuple[bytes, ...]
    runs: tuple[Run, ...]
    outside: tuple[bytes, ...]


def part_of(ledger: Ledger, move: str, notes: Sequence[Note]) -> LogPart:
    """What a log says of a move. ``notes`` are its checkpoints, the earliest first; the last one bounds the part."""
    return cut(ledger.tree, {i: ledger.leaves[i] for i in ledger.indexes(move)}, notes)


def cut(tree: Tree, leaves: Mapping[int, bytes], notes: Sequence[Note]) -> LogPart:
    """The same from a log's tree and the move's leaves by their indexes, which rise."""
    sizes = [checkpoint.read(n).size for n in notes]
    size = sizes[-1]
    indexes = [i for i in leaves if i < size]
    runs = tuple(merkle.runs_of(indexes))
    history = [
        Earlier(note, tuple(tree.consistency(old, new)))
        for note, old, new in zip(notes[:-1], sizes[:-1], sizes[1:], strict=True)
    ]
    return LogPart(notes[-1], tuple(history), tuple(leaves[i] for i in indexes), runs, tuple(tree.outside(runs, size)))


def build(subject: Subject, parts: Sequence[LogPart], keys: Sequence[Key], signer: Signer) -> bytes:
    """The bundle's bytes. ``signer`` is one of the logs; the same input gives the same bytes."""
    files = {KEYS: "".join(f"{k.text()}\n" for k in keys).encode()}
    for number_, part in enumerate(parts):
        files |= {f"log-{number_}/{name}": raw for name, raw in _encode_part(part).items()}
    predicate = {
        "format": FORMAT,
        "logs": [summary(p) for p in parts],
        "move": subject.move,
        "plan": subject.plan,
    }
    digests = [(name, sha256(raw).hexdigest()) for name, raw in sorted(files.items())]
    files[MANIFEST] = dsse.seal(encode_statement("bundle", digests, predicate), signer)
    return pack(files)


def summary(part: LogPart) -> dict[str, Any]:
    """What the manifest says of a log."""
    found = checkpoint.read(part.note)
    last = merkle.leaf_hash(part.leaves[-1]).hex() if part.leaves else ""
    return {"last": last, "leaves": len(part.leaves), "origin": found.origin, "size": found.size}


def parse_part(files: Mapping[str, bytes], place: int) -> LogPart:
    """One log's part of a bundle. Raises Malformed."""
    raw = {name: files[f"log-{place}/{name}"] for name in PARTS}
    note = parse_note(raw["checkpoint"])
    if max(raw["leaves.jsonl"].count(b"\n"), raw["tree.txt"].count(b"\n")) > LINES_MAX:
        raise Malformed("too many lines")
    lines = raw["leaves.jsonl"].split(b"\n")
    if lines.pop():
        raise Malformed("leaves that do not end with a line")
    runs, outside = _parse_tree(raw["tree.txt"])
    if sum(high - low for low, high in runs) != len(lines):
        raise Malformed("another number of leaves than the tree says")
    merkle.check_runs(runs, checkpoint.read(note).size)
    return LogPart(note, _parse_history(raw["history.json"]), tuple(lines), runs, outside)


def logs_in(files: Mapping[str, bytes]) -> int:
    """How many logs a bundle has. Raises Malformed when it has other files than a bundle's, or not all of them."""
    count = sum(name.endswith("/checkpoint") for name in files)
    wanted = {MANIFEST, KEYS} | {f"log-{n}/{p}" for n in range(count) for p in PARTS}
    if not count or files.keys() != wanted:
        raise Malformed("a file of the bundle is missing, or one is there that does not belong")
    return count


def pack(files: Mapping[str, bytes]) -> bytes:
    """The archive of these files, in the order of their names."""
    body, directory = bytearray(), bytearray()
    for name, raw in sorted(files.items()):
        directory += _central(name, raw, len(body))
        body += _local(name, raw) + raw
    return bytes(body + directory + _end(len(files), len(directory), len(body)))


def unpack(raw: bytes) -> dict[str, bytes]:
    """The files of an archive that ``pack`` could have made. Raises Malformed for every other."""
    if len(raw) > BYTES_MAX:
        raise Malformed(f"larger than {BYTES_MAX} bytes")
    files: dict[str, bytes] = {}
    directory = bytearray()
    at = 0
    while raw[at : at + 4] == _LOCAL:
        if len(raw) < at + 30:
            raise Malformed("the archive is cut off")
        size, name_size = struct.unpack_from("<LH", raw, at + 22)
        start = at + 30 + name_size
        name = raw[at + 30 : start].decode("ascii", "replace")
        content = raw[start : start + size]
        if name not in (MANIFEST, KEYS) and not _PART.fullmatch(name):
            raise Malformed("an entry that does not belong into a bundle")
        if files and name <= max(files):
            raise Malformed("an entry twice, or entries out of order")
        if len(content) != size:
            raise Malformed("the archive is cut off")
        if raw[at:start] != _local(name, content):
            raise Malformed("an entry that is compressed, damaged, or has more than name and content")
        directory += _central(name, content, at)
        files[name] = content
        at = start + size
    if not files or raw[at:] != directory + _end(len(files), len(directory), at):
        raise Malformed("no archive, or its directory is cut off or does not agree with its entries")
    return files


def _encode_part(part: LogPart) -> dict[str, bytes]:
    history = [{"checkpoint": e.note.encode(), "growth": [encode64(h) for h in e.growth]} for e in part.history]
    runs = "".join(f"leaves {low} {high}\n" for low, high in part.runs)
    return {
        "checkpoint": part.note.encode().encode(),
        "history.json": strict.canonical(history),
        "leaves.jsonl": b"".join(leaf + b"\n" for leaf in part.leaves),
        "tree.txt": (runs + "".join(f"{encode64(h)}\n" for h in part.outside)).encode(),
    }


def _parse_tree(raw: bytes) -> tuple[tuple[Run, ...], tuple[bytes, ...]]:
    try:
        lines = raw.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Malformed("a tree that is not ASCII") from None
    if lines.pop():
        raise Malformed("a tree that does not end with a line")
    runs = []
    for line in lines:
        words = line.split(" ")
        if len(words) != 3 or words[0] != "leaves":
            break
        runs.append((number(words[1]), number(words[2])))
    return tuple(runs), tuple(decode64(line, HASH) for line in lines[len(runs) :])


def _parse_history(raw: bytes) -> tuple[Earlier, ...]:
    if len(raw) > HISTORY_BYTES_MAX:
        raise Malformed("a history that is too long")
    found = strict.parse(raw)
    if not isinstance(found, list):
        raise Malformed("a history that is none")
    return tuple(_earlier(f) for f in found)


def _earlier(found: object) -> Earlier:
    match found:
        case {"checkpoint": str(note), "growth": list(steps), **more} if not more:
            if len(steps) > checkpoint.PROOF_STEPS_MAX or not all(isinstance(s, str) for s in steps):
                raise Malformed("a proof of growth that is too long")
            return Earlier(parse_note(note.encode("utf-8", "surrogatepass")), tuple(decode64(s, HASH) for s in steps))
    raise Malformed("an earlier checkpoint of another form")


def _facts(name: str, raw: bytes) -> bytes:
    size = len(raw)
    return struct.pack("<5H3L2H", _VERSION, 0, 0, 0, _DATE, zlib.crc32(raw), size, size, len(name), 0)


def _local(name: str, raw: bytes) -> bytes:
    return _LOCAL + _facts(name, raw) + name.encode("ascii", "replace")


def _central(name: str, raw: bytes, at: int) -> bytes:
    made_by = struct.pack("<H", _VERSION)
    return _CENTRAL + made_by + _facts(name, raw) + struct.pack("<3H2L", 0, 0, 0, 0, at) + name.encode()


def _end(count: int, size: int, at: int) -> bytes:
    return _END + struct.pack("<4H2LH", 0, 0, count, count, size, at, 0)
