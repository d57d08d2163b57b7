"""COPY from one server straight into another, through psycopg's ``pq`` layer: rows pass as the server's
own blocks.

Why not blocking calls: psycopg's get_copy_data and put_copy_data keep the GIL while libpq waits for the
network, so one blocked stream would stop all others. Both ends are non-blocking here, and every wait is a
poll() on their sockets, which releases the GIL. Rows are joined to 64 KiB writes: one call a row costs
more than the row (measured: 40 % of the client's CPU). Memory: one write and libpq's buffers; where a row
is larger, twice or three times the row (libpq's buffer, which grows by doubling, and the row)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
import select
import threading
import time

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, PollingStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from domicile.model.errors import DomicileError, ErrorCode
from domicile.postgres.brake import Brake
from domicile.postgres.failures import SAFE, Refusal, explain

WRITE_BYTES = 64 * 1024
STOP_POLL_MS = 200  # how late a stop is noticed while nothing moves
STALL_SECONDS_MAX = 3_600  # neither end says anything for so long: given up
CANCEL_SECONDS_MAX = 3.0

_IN, _OUT = select.POLLIN, select.POLLOUT
_BEFORE = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)  # of statements before the COPY


@dataclass(frozen=True, slots=True)
class Transferred:
    """What one COPY carried; ``bytes`` as they crossed, format overhead included."""

    rows: int
    bytes: int


async def transfer(
    source: AsyncConnection,
    target: AsyncConnection,
    statements: tuple[sql.Composable, sql.Composable],
    stop: threading.Event,
    what: str,
    brake: Brake | None = None,
) -> Transferred:
    """`pump` in a thread: ``statements`` are the COPY at the source and the COPY at the target; ``brake`` holds the
    stream back.

    Cancelled, it sets ``stop`` (which may be shared with other streams) and returns once the thread has
    let go."""
    texts = statements[0].as_bytes(source), statements[1].as_bytes(target)
    work = asyncio.to_thread(pump, (source.pgconn, target.pgconn), texts, stop, what, brake)
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)  # that it was stopped is of no interest to anybody
        raise


def pump(
    ends: tuple[PGconn, PGconn],
    statements: tuple[bytes, bytes],
    stop: threading.Event,
    what: str = "copy",
    brake: Brake | None = None,
) -> Transferred:
    """Run the first statement (COPY TO STDOUT) at the first end into the second (COPY FROM STDIN) at the second.
    Either may stand behind others in one text, whose answers are passed over.

    Blocks, so give it a thread. Neither transaction is ended here: the caller commits. ``stop`` set:
    interrupted within STOP_POLL_MS. Raises DomicileError (copy-failed and its kin, see failures.py;
    interrupted); then both connections have been cancelled and closed. ``what`` names the step in errors.
    """
    source, target = ends
    blocking = source.nonblocking, target.nonblocking
    source.nonblocking = target.nonblocking = 1
    try:
        transferred = _Pump(ends, stop, what, brake).run(*statements)
    except BaseException:
        _abandon(source)
        _abandon(target)
        raise
    source.nonblocking, target.nonblocking = blocking
    return transferred


class _Pump:
    """The two ends of one COPY."""

    def __init__(
        self, ends: tuple[PGconn, PGconn], stop: threading.Event, what: str, brake: Brake | None = None
    ) -> None:
        self._source, self._target = source, target = ends
        self._stop = stop
        self._what = what
        self._brake = brake
        self._blocked = 0.0  # seconds of the block at work
        self._heard = time.monotonic()
        self._both = select.poll()
        self._both.register(source.socket, _IN)
        self._both.register(target.socket, _IN)

    def run(self, out_sql: bytes, in_sql: bytes) -> Transferred:
        self._begin(self._target, in_sql, ExecStatus.COPY_IN)
        self._begin(self._source, out_sql, ExecStatus.COPY_OUT)
        sent = self._stream()
        rows_out = self._end(self._source)
        with _Lost(self, self._target):
            self._target.put_copy_end()
            self._flush(self._target)
        rows_in = self._end(self._target)
        if rows_in != rows_out:
            raise DomicileError(
                ErrorCode.COPY_FAILED,
                f"{self._what}: the source sent {rows_out} rows, the target took {rows_in}",
                facts={"step": self._what, "rows_out": rows_out, "rows_in": rows_in},
                safe=SAFE,
                hint="A rule or trigger at the target drops rows: disable it for the move.",
            )
        return Transferred(rows_in, sent)

    def _stream(self) -> int:
        get = self._source.get_copy_data
        parts: list[memoryview] = []
        size = sent = 0
        begun = time.monotonic()
        with _Lost(self, self._source):  # the target's errors were translated further in
            while True:
                length, row = get(1)
                if length == 0:
                    # Mostly more has come meanwhile: reading costs less than asking poll() first.
                    self._source.consume_input()
                    length, row = get(1)
                if length > 0:
                    parts.append(row)
                    size += length
                    if size >= WRITE_BYTES:
                        self._send_all(parts)
                        sent += size
                        begun = self._hold_back(size, begun)
                        size = 0
                        parts.clear()
                        row = memoryview(b"")  # or a large one would be held until the next has come
                elif length == 0:
                    self._wait_for_rows()
                else:
                    break
        self._send_all(parts)
        return sent + size

    def _hold_back(self, size: int, begun: float) -> float:
        """Wait as the brake says, after a block of ``size`` bytes at work since ``begun``; when the next begins."""
        now, blocked = time.monotonic(), self._blocked
        self._blocked = 0.0
        if self._brake is None or not (seconds := self._brake.wait(size, now - begun, blocked)):
            return now
        self._stop.wait(seconds)
        self._heard = time.monotonic()
        return self._heard

    def _send_all(self, rows: list[memoryview]) -> None:
        """Rows as one block; of a large row, its pieces: rows and messages need not end together, and libpq would copy
        all of it once more."""
        large = rows.pop() if rows and len(rows[-1]) > WRITE_BYTES else memoryview(b"")
        self._send(b"".join(rows))
        for start in range(0, len(large), WRITE_BYTES):
            self._send(large[start : start + WRITE_BYTES])

    def _send(self, block: bytes | memoryview) -> None:
        self._heard = time.monotonic()
        with _Lost(self, self._target):
            self._target.put_copy_data(block)
            # libpq grows its buffer without a limit unless each write is flushed before the next.
            self._flush(self._target)

    def _begin(self, conn: PGconn, statement: bytes, expected: ExecStatus) -> None:
        with _Lost(self, conn):
            conn.send_query(statement)
            self._flush(conn)
            result = self._result(conn)
            while result is not None and result.status in _BEFORE:
                result = self._result(conn)
        if result is None or result.status != expected:
            raise self._refused(conn, result)

    def _end(self, conn: PGconn) -> int:
        """Rows by the command tag, once the server has said that the COPY is complete."""
        with _Lost(self, conn):
            result = self._result(conn)
            if result is None or result.status != ExecStatus.COMMAND_OK:
                raise self._refused(conn, result)
            while self._result(conn) is not None:
                pass
        return result.command_tuples or 0

    def _result(self, conn: PGconn) -> PGresult | None:
        while conn.is_busy():
            self._poll(conn, _IN)
            conn.consume_input()
        return conn.get_result()

    def _flush(self, conn: PGconn) -> None:
        while conn.flush():
            # Reading too, as libpq asks: a server that wants to talk may not read until it was heard.
            if self._poll(conn, _IN | _OUT) & _IN:
                conn.consume_input()

    def _wait_for_rows(self) -> None:
        """Until the source has sent something; meanwhile the target may fail, and is heard."""
        ready = dict(self._patiently(self._both))
        if self._target.socket in ready:
            with _Lost(self, self._target):
                self._target.consume_input()
                self._target.put_copy_data(b"")  # sends nothing, but fails once the server has ended the COPY
        if self._source.socket in ready:
            self._source.consume_input()

    def _poll(self, conn: PGconn, events: int) -> int:
        poller = select.poll()
        poller.register(conn.socket, events)
        return self._patiently(poller)[0][1]

    def _patiently(self, poller: select.poll) -> list[tuple[int, int]]:
        while True:
            if self._stop.is_set():
                raise DomicileError(
                    ErrorCode.INTERRUPTED,
                    f"{self._what}: stopped",
                    safe=SAFE,
                    hint="Run apply again to go on.",
                )
            begun = time.monotonic()
            ready = poller.poll(STOP_POLL_MS)
            now = time.monotonic()
            self._blocked += now - begun
            if ready:
                self._heard = now
                return ready
            if now - self._heard > STALL_SECONDS_MAX:
                raise DomicileError(
                    ErrorCode.COPY_FAILED,
                    f"{self._what}: neither site moved for {STALL_SECONDS_MAX} s",
                    facts={"step": self._what, "seconds": STALL_SECONDS_MAX},
                    safe=SAFE,
                    hint="Look for locks at the target and for the network between, then run apply again.",
                )

    def lost(self, conn: PGconn) -> DomicileError:
        """After libpq refused a call: the server's own error where one came, else a lost connection."""
        result: PGresult | None = None
        try:
            if not conn.is_busy():  # else get_result would block
                result = conn.get_result()
        except psycopg.Error:
            pass
        return self._refused(conn, result)

    def _refused(self, conn: PGconn, result: PGresult | None) -> DomicileError:
        side = "source" if conn is self._source else "target"
        if result is None or result.status != ExecStatus.FATAL_ERROR:
            return explain(Refusal(), side, self._what)
        names = (
            DiagnosticField.SQLSTATE,
            DiagnosticField.TABLE_NAME,
            DiagnosticField.COLUMN_NAME,
            DiagnosticField.CONSTRAINT_NAME,
        )
        return explain(
            Refusal(*((result.error_field(name) or b"").decode(errors="replace") for name in names)),
            side,
            self._what,
        )


class _Lost:
    """Context in which libpq's own refusals become the error of that end."""

    __slots__ = ("_conn", "_pump")

    def __init__(self, pump: _Pump, conn: PGconn) -> None:
        self._pump = pump
        self._conn = conn

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, psycopg.Error):
            raise self._pump.lost(self._conn) from None


def _abandon(conn: PGconn) -> None:
    """Cancel what runs, then close: a server that waits for a lock would not notice the closed socket."""
    if conn.status == ConnStatus.OK and conn.transaction_status == TransactionStatus.ACTIVE:
        _cancel(conn)
    conn.finish()


def _cancel(conn: PGconn) -> None:
    """Best effort within CANCEL_SECONDS_MAX."""
    deadline = time.monotonic() + CANCEL_SECONDS_MAX
    try:
        cancel = conn.cancel_conn()
        cancel.start()
        while (status := cancel.poll()) not in (PollingStatus.OK, PollingStatus.FAILED):
            poller = select.poll()
            poller.register(cancel.socket, _IN if status == PollingStatus.READING else _OUT)
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1_000):
                break
        cancel.finish()
    except psycopg.Error:
        return
