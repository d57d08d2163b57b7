"""Reads the change stream of one slot: `pgoutput` over the replication protocol, through psycopg's `pq` layer, which is
all of psycopg that knows it.

Everything runs on the caller's event loop. The server ends a stream whose client is silent for ``wal_sender_timeout``,
so a timer tells it every second how far we are, whether the caller reads or not, as long as the loop turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
import re
import struct
import time

import psycopg
from psycopg import pq, sql

from domicile.model.errors import DomicileError, ErrorCode
from domicile.postgres import failures
from domicile.postgres.connect import SESSION, connect
from domicile.stream.slot import POLL_SECONDS, facts_of

STATUS_SECONDS = 1.0
FREE_SECONDS_MAX = 2.0  # for the session of a reader that has just been left to end at the server
READ_BYTES_MAX = 4 * 1024 * 1024  # of one answer, unless a single message is larger
EPOCH_OFFSET_SECONDS = 946_684_800  # the server counts from 2000-01-01

_DATA, _KEEPALIVE = ord("w"), ord("k")
_DATA_HEADER_BYTES = 25
_POSITION_AND_CLOCK = struct.Struct("!qq").unpack_from
_STATUS = struct.Struct("!cqqqqb").pack
_NAME = re.compile(r"[a-z0-9_]{1,63}")
_START = """
START_REPLICATION SLOT {slot} LOGICAL {start}
(proto_version '1', publication_names {publication}, messages 'true', binary {binary})"""
# No such slot or publication; the slot is invalid; the log it needs has been removed.
_LOST = ("42704", "55000", "58P01")
_IN_USE = "55006"
_DOING = "reading the change stream"


@asynccontextmanager
async def open_reader(conninfo: str, slot: str, publication: str, start: int, *, binary: bool) -> AsyncIterator[Reader]:
    """Stream from the slot, beginning behind ``start`` (a log position in bytes) or behind what was acknowledged to the
    server, whichever is later. Values come in binary or text form, under the engine's own session settings.

    Raises stream-lost, stream-blocked (another session reads from the slot), right-missing and what `connect` raises.
    Leaving the context ends the server's side too, a moment later.
    """
    assert _NAME.fullmatch(slot), slot
    assert _NAME.fullmatch(publication), publication
    # Warnings must be heard: since 18 a missing publication is one, and the stream would go on without its changes.
    settings = {**SESSION, "client_min_messages": "warning"}
    conn = await connect(conninfo, application_name=slot, settings=settings, replication=True)
    try:
        command = sql.SQL(_START).format(
            slot=sql.Identifier(slot),
            start=sql.SQL(_lsn(start)),
            publication=sql.Literal(publication),
            binary=sql.Literal("true" if binary else "false"),
        )
        reader = Reader(conn.pgconn, conninfo, slot, start)
        await reader.begin(command.as_bytes(conn))
        try:
            yield reader
        finally:
            reader.close()
    finally:
        await conn.close()


class Reader:
    """One stream; made by `open_reader`.

    ``server_position``: up to there everything committed has been returned by `read`, once the last transaction that it
    returned is complete; it grows with others' transactions too. ``server_clock``: when the server sent its latest
    message that was read, in microseconds since 2000-01-01; about a second old at most while the stream is idle.
    """

    def __init__(self, pgconn: pq.abc.PGconn, conninfo: str, slot: str, start: int) -> None:
        """For `open_reader`."""
        self.server_position = start
        self.server_clock = 0
        self._pgconn = pgconn
        self._conninfo = conninfo
        self._slot = slot
        self._acknowledged = 0  # nothing; even of what the caller has, others may need the log
        self._unpublished = False
        self._timer: asyncio.TimerHandle | None = None
        # What TLS has decrypted is not seen by a poll of the socket: servers since 17 send records of up to 16 KiB, of
        # which libpq takes as little as 8 at once.
        self._tries_max = 3 if pgconn.ssl_in_use or pgconn.used_gssapi else 1

    async def begin(self, command: bytes) -> None:
        """Start the stream; for `open_reader`."""
        self._pgconn.nonblocking = 1
        self._pgconn.notice_handler = self._noticed
        deadline = time.monotonic() + FREE_SECONDS_MAX
        while (sqlstate := await self._ask(command)) is not None:
            if sqlstate != _IN_USE or time.monotonic() > deadline:
                raise self._told(sqlstate)
            await asyncio.sleep(POLL_SECONDS)
        self._tick()

    async def read(self, most: int = 2000, wait_s: float | None = None) -> list[bytes]:
        """The next messages of the stream, in its order, at most ``most`` and about 4 MiB.

        Waits for the first, ``wait_s`` seconds at most, and returns an empty list when none came. Raises stream-lost
        when slot or publication are gone, site-unreachable when the connection is; what was not acknowledged is
        delivered again by the next reader.
        """
        loop = asyncio.get_running_loop()
        deadline = None if wait_s is None else loop.time() + wait_s
        await asyncio.sleep(0)  # others' turn, however fast messages come
        try:
            while not (found := self._take(most)):
                left = None if deadline is None else deadline - loop.time()
                if (left is not None and left <= 0) or not await _until(self._pgconn.socket, left):
                    return []
        except psycopg.OperationalError:
            raise await self._ended("") from None
        except _StreamEndedError as end:
            raise await self._ended(end.sqlstate) from None
        if self._unpublished:
            raise self._told(_LOST[0])
        return found

    def acknowledge(self, position: int) -> None:
        """Everything up to ``position`` is durable at the destination: the server may forget it, and will not send it
        again. Told with the next status. When nothing is pending, pass ``server_position``, so that the server need not
        keep the log of foreign traffic. A lower position than before is ignored."""
        self._acknowledged = max(self._acknowledged, position)

    def tend(self) -> None:
        """Tell the server now how far we are. The timer does it every second; never fails (the next `read` does)."""
        with suppress(psycopg.OperationalError):
            # What could not be sent last time goes first; while it cannot, more would only pile up.
            if not self._pgconn.flush():
                clock = int((time.time() - EPOCH_OFFSET_SECONDS) * 1_000_000)
                done = self._acknowledged
                # The last byte asks for an answer: it brings the server's position and clock while nothing else comes.
                self._pgconn.put_copy_data(_STATUS(b"r", max(self.server_position, done), done, done, clock, 1))
                self._pgconn.flush()

    def close(self) -> None:
        """Tell the server a last time how far we are, and stop; for `open_reader`. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.tend()

    async def _ask(self, command: bytes) -> str | None:
        """The SQLSTATE of the refusal, None when the stream has begun."""
        pgconn = self._pgconn
        result: pq.abc.PGresult | None = None
        try:
            pgconn.send_query(command)
            while pgconn.flush():
                await _until(pgconn.socket, writable=True)
            while True:
                while pgconn.is_busy():
                    await _until(pgconn.socket)
                    pgconn.consume_input()
                following = pgconn.get_result()
                if following is not None and following.status == pq.ExecStatus.COPY_BOTH:
                    return None
                if following is None:
                    return _sqlstate(result)
                result = following
        except psycopg.OperationalError:
            return ""

    def _tick(self) -> None:
        self.tend()
        self._timer = asyncio.get_running_loop().call_later(STATUS_SECONDS, self._tick)

    def _take(self, most: int) -> list[bytes]:
        """What there is, without waiting."""
        found: list[bytes] = []
        get, add = self._pgconn.get_copy_data, found.append
        room = READ_BYTES_MAX
        tries = self._tries_max
        last: memoryview | None = None
        while True:
            size, message = get(1)
            if size == 0:
                if not tries:
                    break
                tries -= 1
                self._pgconn.consume_input()
                continue
            if size < 0:
                raise _StreamEndedError(_sqlstate(self._pgconn.get_result()))
            if message[0] == _DATA:
                last = message
                add(bytes(message[_DATA_HEADER_BYTES:]))
                room -= size
                tries = self._tries_max
                if len(found) >= most or room <= 0:
                    break
            else:
                self._keepalive(message)
        if last is not None:
            self._heard(*_POSITION_AND_CLOCK(last, 9))
        return found

    def _keepalive(self, message: memoryview) -> None:
        assert message[0] == _KEEPALIVE, "the protocol knows no third kind"
        self._heard(*_POSITION_AND_CLOCK(message, 1))
        if message[17]:
            self.tend()

    def _heard(self, position: int, clock: int) -> None:
        # Rows bear their own position, which lies before commits that were sent earlier: it only grows.
        self.server_position = max(self.server_position, position)
        self.server_clock = max(self.server_clock, clock)

    def _noticed(self, notice: pq.abc.PGresult) -> None:
        if _sqlstate(notice) == "55000":  # "skipped loading publication"
            self._unpublished = True

    async def _ended(self, sqlstate: str) -> DomicileError:
        """The error for a stream that broke off: when the server drops or invalidates a slot it first ends the session
        that reads it, with the same words as at a shutdown."""
        error = self._told(sqlstate)
        if error.code is not ErrorCode.SITE_UNREACHABLE:
            return error
        with suppress(DomicileError):
            async with await connect(self._conninfo) as conn:
                facts = await facts_of(conn, self._slot)
            if facts is None or facts.lost:
                return self._told(_LOST[0], "" if facts is None else facts.reason)
        return error

    def _told(self, sqlstate: str, reason: str = "") -> DomicileError:
        facts: dict[str, object] = {"slot": self._slot, "sqlstate": sqlstate}
        if reason:
            facts["reason"] = reason
        if sqlstate in _LOST:
            return DomicileError(
                ErrorCode.STREAM_LOST,
                "the slot or the publication of the change stream is gone, or the log it needs",
                facts=facts,
                safe="The source serves. What was read before is complete; nothing after it was applied.",
                hint="Make the change stream anew, then copy again what was not handed over: domicile resume",
            )
        if sqlstate == _IN_USE:
            return DomicileError(
                ErrorCode.STREAM_BLOCKED,
                "another session reads from the slot of the change stream",
                facts=facts,
                hint="When that session has ended, go on with: domicile resume",
            )
        return failures.explain(failures.Refusal(sqlstate), "origin", _DOING)


class _StreamEndedError(Exception):
    """The server ended the stream."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


def _lsn(position: int) -> str:
    """Digits, hence no other SQL: the command takes a position without quotes."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def _sqlstate(result: pq.abc.PGresult | None) -> str:
    """Empty where the stream ended without an error, as at a shutdown."""
    said = result.error_field(pq.DiagnosticField.SQLSTATE) if result is not None else None
    return said.decode() if said else ""


async def _until(fd: int, seconds: float | None = None, *, writable: bool = False) -> bool:
    """Wait for the socket; False when ``seconds`` have passed."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if writable else (loop.add_reader, loop.remove_reader)
    add(fd, _settle, ready)
    try:
        async with asyncio.timeout(seconds):
            await ready
    except TimeoutError:
        return False
    finally:
        remove(fd)
    return True


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
