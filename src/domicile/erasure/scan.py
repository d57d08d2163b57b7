"""The scan: every file of a data directory once, in pieces of a few MiB; what was found, by place.

It runs beside a server at work: a file that goes meanwhile is passed over, a page that is written meanwhile may be read
half old and half new. What has not reached the files (CHECKPOINT) is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
import struct
import time

from domicile.erasure import decode, wal
from domicile.erasure.files import PAGE, File, files_kept, files_of, logs_of
from domicile.erasure.prints import WHOLE_MAX, Prints
from domicile.model.erasure import Place, Server

READ = 1 << 20  # bytes at a time; a multiple of a page
OVERLAP = WHOLE_MAX - 1
PAUSE_S_MIN = 0.01  # shorter ones are saved up
HELD_BACK_MAX = 0.95
PACKED, BROKEN, SQUEEZED = "files compressed as a whole", "beginnings of values under lz4", "page images under zstd"
WITH_CHUNKS = (Place.TABLES, Place.TOAST, Place.KEPT, Place.STATISTICS)


Told = Callable[[int, int], None]


def nobody(_read: int, _of: int) -> None:
    """Nobody wants to know how far it is."""


@dataclass(slots=True)
class Tally:
    """What was found in one place. ``found``: copies by fingerprint. ``not_read``: how often, by reason."""

    bytes: int = 0
    files: int = 0
    found: dict[int, int] = field(default_factory=dict)
    not_read: dict[str, int] = field(default_factory=dict)

    def hit(self, which: int) -> None:
        self.found[which] = self.found.get(which, 0) + 1

    def miss(self, reason: str, times: int = 1) -> None:
        if times:
            self.not_read[reason] = self.not_read.get(reason, 0) + times


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be scanned. ``kept``: archives and backups; ``expired``: those that were to be gone by now: nothing is
    missed of one that is. ``mb_per_s_max``: 0 for as fast as it goes. ``server``: whose files they must be, and whose
    log outside the data directory is read, too (``collected``: its file, where a collector writes it); None: whosever,
    and no log."""

    data: Path
    prints: Prints
    places: Mapping[str, Place] = field(default_factory=dict)
    kept: tuple[Path, ...] = ()
    collected: str = ""
    mb_per_s_max: float = 0.0
    expired: tuple[Path, ...] = ()
    server: Server | None = None


class Scan:
    """One pass. `run` once, then read ``tallies``, ``bytes`` and ``seconds``. ``held_back`` tells the share of the time
    in which it is to rest now, 0 to below 1; ``told`` hears after each piece how many bytes of how many were read."""

    def __init__(self, order: Order, held_back: Callable[[], float] = lambda: 0.0, told: Told = nobody) -> None:
        self._order = order
        self._held_back = held_back
        self._told = told
        self._of = 0
        self._rested = time.process_time()
        self._prints = order.prints
        self._reader = wal.Reader()
        self._log_chunks, self._log_place = decode.Chunks(), Place.WAL  # from one file of the log to the next
        self._begun = time.monotonic()
        self.tallies: dict[Place, Tally] = {place: Tally() for place in Place}
        self.bytes = 0
        self.seconds = 0.0

    def run(self) -> None:
        """Read everything. What cannot be read is in the tally of its place; one file is never an error.

        Raises OSError when the data directory itself cannot be read.
        """
        self._of = self._in_all()
        order = self._order
        self._relations(files_of(order.data, order.places))
        for path in logs_of(order.data, order.collected) if order.server else ():
            self._relations([File(path, Place.LOGS, str(path))])
        for path in (*order.kept, *(p for p in order.expired if not _is_gone(p))):
            try:
                self._relations(files_kept(path))
            except OSError as error:
                self.tallies[Place.KEPT].miss(_reason(error))
        self.seconds = time.monotonic() - self._begun

    def _in_all(self) -> int:
        """Bytes that there are to read, about. The files are listed once more when they are read: meanwhile the server
        gives those of its log other names."""
        order = self._order
        logs = logs_of(order.data, order.collected) if order.server else ()
        listings = (files_of(order.data, order.places), *map(files_kept, (*order.kept, *order.expired)))
        size = sum(_size(path) for path in logs)
        for files in listings:
            with suppress(OSError):
                size += sum(_size(file.path) for file in files if not file.packed)
        return size

    def _relations(self, files: Iterable[File]) -> None:
        """The parts of one relation follow each other: a value's chunks may lie in two of them."""
        chunks, last = decode.Chunks(), ""
        place = Place.OTHER
        for file in files:
            if file.name != last:
                self._end(chunks, place)
                chunks, last, place = decode.Chunks(), file.name, file.place
            self._file(file, chunks)
        self._end(chunks, place)
        self._log_breaks_off()

    def _end(self, chunks: decode.Chunks, place: Place) -> None:
        self._values(chunks.rest(), place)
        if place is Place.TOAST:  # a table's rows may look like chunks
            self.tallies[place].miss(BROKEN, chunks.broken)

    def _file(self, file: File, chunks: decode.Chunks) -> None:
        tally = self.tallies[file.place]
        tally.files += 1
        if file.packed:
            tally.miss(PACKED)
            return
        try:
            if file.log:
                self._log(file)
            elif file.pages:
                self._pages(file, chunks)
            else:
                self._plain(file)
        except FileNotFoundError as error:  # it went meanwhile; a link that leads nowhere is still there
            if file.path.is_symlink():
                tally.miss(_reason(error))
        except OSError as error:
            tally.miss(_reason(error))

    def _pages(self, file: File, chunks: decode.Chunks) -> None:
        with file.path.open("rb") as opened:
            while data := opened.read(READ):
                for hit in self._prints.search(data):
                    self.tallies[_part(file.place, data, hit.at)].hit(hit.which)
                for at, value in decode.inline(data, pages=True):
                    self._values([value], _part(file.place, data, at))
                if file.place in WITH_CHUNKS:
                    self._values(chunks.add(data, pages=True), file.place)
                self._read(file.place, len(data))

    def _plain(self, file: File) -> None:
        before = b""
        with file.path.open("rb") as opened:
            while data := opened.read(READ):
                self._fresh(before + data, len(before), file.place)
                before = (before + data)[-OVERLAP:]
                self._read(file.place, len(data))

    def _log(self, file: File) -> None:
        for stretch in self._reader.stretches(file.path):
            place = Place.RECYCLED if stretch.recycled and file.place is Place.WAL else file.place
            if not stretch.carried:
                self._log_breaks_off()
            self._log_place, chunks = place, self._log_chunks
            self._fresh(stretch.data, stretch.carried, place)
            self._values((v for _, v in decode.inline(stretch.data, stretch.carried)), place)
            self._values(chunks.add(stretch.data, stretch.carried), place)
            for image in self._reader.images(stretch):
                if image is None:
                    self.tallies[place].miss(SQUEEZED)
                else:
                    squeezed = (v for _, v in decode.inline(image))
                    self._values([image, *squeezed, *chunks.add(image)], place)
            self._read(place, len(stretch.data) - stretch.carried)

    def _log_breaks_off(self) -> None:
        """What is not complete now stays so."""
        self._values(self._log_chunks.rest(), self._log_place)

    def _fresh(self, data: bytes, carried: int, place: Place) -> None:
        """Hits that do not lie wholly in what was searched before."""
        for hit in self._prints.search(data):
            if hit.at + self._prints.lengths[hit.which] > carried:
                self.tallies[place].hit(hit.which)

    def _values(self, values: Iterable[bytes], place: Place) -> None:
        tally = self.tallies[place]
        for value in values:
            for hit in self._prints.search(value):
                tally.hit(hit.which)

    def _read(self, place: Place, count: int) -> None:
        """Count what was read, and rest where it went faster than allowed, or whoever ordered it is to be held back."""
        self.tallies[place].bytes += count
        self.bytes += count
        self._told(self.bytes, max(self.bytes, self._of))
        share, busy = min(self._held_back(), HELD_BACK_MAX), time.process_time() - self._rested
        if busy > PAUSE_S_MIN:  # of the processor, which is what a scan needs most; waiting for it is no work
            if share > 0:
                time.sleep(busy * share / (1 - share))
            self._rested = time.process_time()
        if self._order.mb_per_s_max:
            ahead = self.bytes / 1e6 / self._order.mb_per_s_max - (time.monotonic() - self._begun)
            if ahead > PAUSE_S_MIN:
                time.sleep(ahead)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it has gone
        return 0


def _is_gone(path: Path) -> bool:
    """Not there, in a directory that is: without one, another machine's path may be meant, or nothing is mounted."""
    try:
        path.lstat()
    except FileNotFoundError:
        return path.parent.is_dir()
    except OSError:
        pass
    return False


def _part(place: Place, data: bytes, at: int) -> Place:
    """A hit in a table's page: in a tuple, or in the space between the page's pointers and its tuples."""
    if place is not Place.TABLES:
        return place
    page = at - at % PAGE
    lower, upper = struct.unpack_from("<HH", data, page + 12)
    return Place.FREED if lower <= at - page < upper else place


def _reason(error: OSError) -> str:
    return f"files that cannot be read: {(error.strerror or 'unknown reason').lower()}"
