"""DBOS in this process: its start and stop, which moves this process carries, and steps that leave no trace once their
lease is gone.

A process that carries a move of its own launches it with no queue but the move's; a worker with the queues of its
sites and a `Board`, which takes the lease of what the queue gives out. Workflows run on the loop that launched. Whoever
carries a move no more *stands down*: step and workflow end unrecorded, and the next one repeats the step that was cut.
DBOS helps: a workflow that was given out again takes no record of its former runner. Source: DBOS 3.4, ``_queue``,
``_recovery``, and ``owner_xid`` in ``_sys_db``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import wraps
import secrets
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote, urlencode

from dbos import DBOS, DBOSConfig, WorkflowHandleAsync
from psycopg.conninfo import conninfo_to_dict

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Status
from domicile.model.site import MoveId, SiteName
from domicile.move.carrier import Carrier
from domicile.move.run import Outcome

APPLICATION_VERSION = "domicile-3"  # changes only with the order of steps
SYSTEM_SCHEMA = "domicile_dbos"
CONNECTIONS_MAX = 4
POLLING_SECONDS = 0.1  # how often the end of a workflow that was taken up again is looked for
QUEUE_SECONDS = 0.5  # how often a queue is looked into

# As postgres/connect.py has it; SQLAlchemy makes these connections.
_NOTICE_A_CUT_LINE = {
    "keepalives_idle": "20",
    "keepalives_interval": "10",
    "keepalives_count": "4",
    "tcp_user_timeout": "60000",
}

P = ParamSpec("P")
T = TypeVar("T")
Board = Callable[[MoveId, str], AbstractAsyncContextManager[Carrier]]


class StoodDown(BaseException):
    """Leaves a step and its workflow without a record, to be taken up by another. No Exception: nobody handles it."""

    def __init__(self, *, lost: bool) -> None:
        super().__init__()
        self.lost = lost  # the lease is gone; else it is given back


@dataclass(slots=True)
class _Here:
    """What runs in this process; one at a time, as DBOS is."""

    board: Board | None
    carriers: dict[str, Carrier] = field(default_factory=dict)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    stood_down: asyncio.Event = field(default_factory=asyncio.Event)
    leaving: bool = False


_running: list[_Here] = []


@asynccontextmanager
async def launched(control: str, runner: str, queues: Sequence[str], board: Board | None = None) -> AsyncIterator[None]:
    """DBOS runs while the block does and gives out what stands in ``queues``. At its end whoever is still aboard stands
    down.

    The executor id is new each time: DBOS itself takes nothing up again that another process has left.
    """
    assert not _running, "one DBOS per process"
    here = _Here(board)
    config = DBOSConfig(
        name="domicile",
        system_database_url=_url(control),
        dbos_system_schema=SYSTEM_SCHEMA,
        application_version=APPLICATION_VERSION,
        executor_id=f"{runner}:{secrets.token_hex(4)}",
        log_level="CRITICAL",
        sys_db_pool_size=CONNECTIONS_MAX,
        notification_listener_polling_interval_sec=0.1,
    )
    DBOS(config=config)
    DBOS.listen_queues(queues)
    _running.append(here)
    try:
        DBOS.launch()
        yield
    finally:
        here.leaving = True
        await _cancelled(here.tasks)
        # DBOS made its own pool the loop's default and is about to close it: whoever comes after needs another.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())
        await asyncio.to_thread(DBOS.destroy)
        _running.remove(here)


@asynccontextmanager
async def carried(carrier: Carrier) -> AsyncIterator[None]:
    """This process carries the move while the block runs; workflows get ids only."""
    carriers = _here().carriers
    carriers[carrier.move.move_id] = carrier
    try:
        async with carrier.move.pool.keeping():
            yield
    finally:
        del carriers[carrier.move.move_id]


def carrier_of(move_id: str) -> Carrier:
    """The carrier of a move that this process carries."""
    return _here().carriers[move_id]


async def leave() -> None:
    """From now on whoever comes to a `pause_point` stands down, and nobody comes aboard; returns when all have left."""
    here = _here()
    here.leaving = True
    while here.tasks:
        await asyncio.wait(here.tasks)


def leaving() -> bool:
    """True when this process takes nothing up any more."""
    return _here().leaving


def pause_point() -> None:
    """Where a move may wait for another process without a writer noticing: called in a step."""
    if _here().leaving:
        raise StoodDown(lost=False)


@asynccontextmanager
async def aboard(move_id: str, kind: str) -> AsyncIterator[None]:
    """Around a whole workflow: its move is carried by this process, or is taken aboard for as long as the block runs.

    An error that no step has handled fails the move, so that it is seen and not tried for ever.
    """
    here = _here()
    task = asyncio.current_task()
    assert task is not None
    here.tasks.add(task)
    try:
        if move_id in here.carriers:
            yield
        else:
            async with _boarded(here, MoveId(move_id), kind):
                yield
    except StoodDown:
        here.stood_down.set()
        raise
    finally:
        here.tasks.discard(task)


@asynccontextmanager
async def _boarded(here: _Here, move_id: MoveId, kind: str) -> AsyncIterator[None]:
    assert here.board is not None, "what is given out is carried here, or boarded"
    try:
        async with here.board(move_id, kind) as carrier, carried(carrier):
            try:
                yield
            except Exception:
                if carrier.lease.gone:
                    raise StoodDown(lost=True) from None
                await _give_up(carrier)
                raise
    except DomicileError as error:
        if error.code is ErrorCode.LEASE_LOST:
            raise StoodDown(lost=True) from None
        raise


def step(work: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """A durable step of the move whose id is its first argument. It stands down instead of ending when the lease is
    gone: what it would tell is not its to tell any more."""

    @wraps(work)
    async def fenced(*args: P.args, **kwargs: P.kwargs) -> T:
        carrier = carrier_of(str(args[0]))
        try:
            result = await work(*args, **kwargs)
        except Exception:
            if carrier.lease.gone:
                raise StoodDown(lost=True) from None
            raise
        if carrier.lease.gone or Outcome.LOST in (result if isinstance(result, tuple) else (result,)):
            raise StoodDown(lost=True)
        return result

    return DBOS.step()(fenced)


async def outcome_of(handle: WorkflowHandleAsync[str]) -> Outcome:
    """How the workflow ended; lost, when it stood down."""
    result = asyncio.ensure_future(handle.get_result(polling_interval_sec=POLLING_SECONDS))
    stood_down = asyncio.ensure_future(_here().stood_down.wait())
    try:
        await asyncio.wait((result, stood_down), return_when=asyncio.FIRST_COMPLETED)
        return Outcome.LOST if stood_down.done() else Outcome(result.result())
    finally:
        await _cancelled({result, stood_down})


def queue_of(site: SiteName) -> str:
    """The queue of the moves that leave a site: the workers beside it carry them."""
    return f"domicile-{site}"


def own_queue(move_id: MoveId) -> str:
    """A queue of one move, for the process that carries this move and nothing else. No site has a slash in its name."""
    return f"domicile/{move_id}"


async def register_queue(name: str, *, moves_max: int = 1) -> None:
    """Make the queue known. ``moves_max``: how many of it one worker carries at a time; the last one to say so decides
    for all."""
    await DBOS.register_queue_async(
        name, worker_concurrency=moves_max, polling_interval_sec=QUEUE_SECONDS, on_conflict="always_update"
    )


async def _give_up(carrier: Carrier) -> None:
    move_id = carrier.move.move_id
    error = DomicileError(ErrorCode.INTERNAL, "an unexpected error in the mover")
    await carrier.moves.set_status(move_id, Status.FAILED, error)
    await carrier.orders.withdraw(move_id)


async def _cancelled(tasks: set[asyncio.Future[Any]] | set[asyncio.Task[Any]]) -> None:
    """End them, and wait until they have."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    if ending:
        await asyncio.wait(ending)
    for task in ending:
        if not task.cancelled():
            task.exception()  # looked at, so that nobody complains that it was not


def _here() -> _Here:
    return _running[-1]


def _url(conninfo: str) -> str:
    """A libpq conninfo as the URL that DBOS wants; service, passfile and the like stay libpq's business."""
    given = {k: str(v) for k, v in conninfo_to_dict(conninfo).items() if v is not None}
    user, password, dbname = given.pop("user", ""), given.pop("password", ""), given.pop("dbname", "")
    host, port = given.pop("host", ""), given.pop("port", "")
    given = {**_NOTICE_A_CUT_LINE, **given}
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    if host.startswith("/"):
        given, host = {**given, "host": host}, ""
    place = (f"{login}@" if login else "") + host + (f":{port}" if port else "")
    return f"postgresql://{place}/{quote(dbname, safe='')}" + (f"?{urlencode(given)}" if given else "")
