"""Which files there are in a data directory, and what class of place each is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
import re
import stat
import struct

from domicile.erasure import wal
from domicile.model.erasure import Place

PAGE = 8_192
_LOG_NAME_CHARS = 24
_RELATION = re.compile(r"^(t\d+_)?(\d+)(_fsm|_vm|_init)?(\.\d+)?$")
_PACKED = (".gz", ".zst", ".lz4", ".bz2", ".xz", ".zip")


@dataclass(frozen=True, slots=True)
class File:
    """A file to be read. ``pages``: it consists of PostgreSQL's pages; ``log``: of the write-ahead log."""

    path: Path
    place: Place
    name: str  # under the data directory: the relation's, for the parts of one
    pages: bool = False
    log: bool = False
    packed: bool = False  # compressed as a whole: not read


def files_of(data: Path, places: Mapping[str, Place]) -> Iterator[File]:
    """Every file of a data directory, the write-ahead log's first: that goes soonest. ``places``: what the database
    says of relations' files, by ``base/5/1259``; others are judged by their first page."""
    log = [p for p in _under(data / "pg_wal", lambda _: False, set()) if len(p.name) == _LOG_NAME_CHARS]
    log.sort(key=wal.first_address)
    yield from (File(path, Place.WAL, str(path.relative_to(data)), log=True) for path in log)
    read = set(log)
    for path in _under(data, lambda link: _is_followed(link.relative_to(data))):
        if path in read:
            continue
        inside = path.relative_to(data)
        top = inside.parts[0]
        if top in ("base", "global", "pg_tblspc"):
            yield _relation(path, inside, places)
        elif top == "pg_wal":
            yield File(path, Place.WAL, str(inside), log=len(path.name) == _LOG_NAME_CHARS)
        elif top == "pg_replslot":
            yield File(path, Place.SLOTS if path.suffix == ".spill" else Place.OTHER, str(inside))
        elif top in ("log", "pg_log") or path.suffix == ".log":
            yield File(path, Place.LOGS, str(inside), packed=path.suffix in _PACKED)
        else:
            yield File(path, Place.OTHER, str(inside))


def files_kept(directory: Path) -> Iterator[File]:
    """Every file of an archive or a base backup; links are followed. OSError when it cannot be entered, or is not
    there."""
    is_directory = stat.S_ISDIR(directory.stat().st_mode)
    for path in _under(directory, lambda _: True) if is_directory else iter([directory]):
        name = str(path)
        log = re.fullmatch(r"[0-9A-F]{24}(\.partial)?", path.name) is not None
        pages = _RELATION.match(path.name) is not None
        yield File(path, Place.KEPT, name, pages=pages, log=log, packed=path.suffix in _PACKED)


def logs_of(data: Path, collected: str) -> tuple[Path, ...]:
    """Where the server writes its log: the collector's file, else what its standard error leads to. Files inside the
    data directory are read with it."""
    candidates = [data / collected] if collected else []
    try:
        pid = (data / "postmaster.pid").read_text().split()[0]
        candidates.append(Path(f"/proc/{pid}/fd/2").readlink())
    except (OSError, IndexError):
        candidates.append(data.parent / "server.log")
    return tuple(p for p in candidates if p.is_file() and not p.is_relative_to(data))


def _under(directory: Path, follow: Callable[[Path], bool], met: set[tuple[int, int]] | None = None) -> Iterator[Path]:
    """Every regular file below, in a fixed order; no directory is entered twice. A directory that cannot be entered and
    a link that is not followed or leads nowhere are yielded themselves, so that they are told as unread; OSError for
    the outermost."""
    inner, met = met is not None, set() if met is None else met
    try:
        state = directory.stat()
        if (state.st_dev, state.st_ino) in met:
            return
        met.add((state.st_dev, state.st_ino))
        paths = sorted(directory.iterdir())
    except OSError as error:
        if not inner:
            raise
        if not isinstance(error, FileNotFoundError):  # dropped meanwhile
            yield directory
        return
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError:
            yield path
            continue
        if stat.S_ISDIR(mode) and (not path.is_symlink() or follow(path)):
            yield from _under(path, follow, met)
        elif stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            yield path


def _is_followed(inside: Path) -> bool:
    """Whether a link in a data directory is one that PostgreSQL or its packagers make to a directory."""
    parts = inside.parts
    return parts in (("pg_wal",), ("log",), ("pg_log",)) or (parts[0] == "pg_tblspc" and len(parts) == 2)


def _relation(path: Path, inside: Path, places: Mapping[str, Place]) -> File:
    if "pgsql_tmp" in str(inside):
        return File(path, Place.TEMPORARY, str(inside))
    match = _RELATION.match(path.name)
    if match is None:
        return File(path, Place.OTHER, str(inside))
    name = str(inside.parent / match[2])
    if match[1]:
        return File(path, Place.TEMPORARY, str(inside), pages=True)
    if match[3]:
        return File(path, Place.MAPS, str(inside))
    return File(path, places.get(name) or _judged(path), name, pages=True)


def _judged(path: Path) -> Place:
    """A table's pages have no special space at their end, an index's have."""
    try:
        with path.open("rb") as file:
            head = file.read(18)
    except OSError:  # it is gone, or told as unread when it is to be scanned
        return Place.TABLES
    return Place.INDEXES if len(head) == 18 and struct.unpack_from("<H", head, 16)[0] < PAGE else Place.TABLES
