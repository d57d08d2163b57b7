"""What stands in the way of a stream's publication and slot, told."""

from __future__ import annotations

from collections.abc import Sequence

from domicile.model.errors import DomicileError, ErrorCode
from domicile.postgres.drain import BLOCKERS_NAMED_MAX, Blocker


def held(slot: str, pid: int | None, seconds: float) -> DomicileError:
    return DomicileError(
        ErrorCode.STREAM_BLOCKED,
        f"another session holds the slot of the change stream since {seconds:.3g} s and does not end",
        facts={"slot": slot, "pid": pid},
        safe="The slot is as it was.",
        hint="End that session at the server, then go on with: domicile resume",
    )


def blocked(doing: str, waiting_for: Sequence[Blocker], seconds: float) -> DomicileError:
    prepared = sum(b.pid is None for b in waiting_for)
    hint = "Let these transactions end, or end them, then go on with: domicile resume"
    if prepared:
        hint = "Commit or roll back the prepared transactions (pg_prepared_xacts), then: domicile resume"
    return DomicileError(
        ErrorCode.STREAM_BLOCKED,
        f"{doing}: {len(waiting_for)} transactions were in the way for {seconds:.3g} s"
        + (f", {prepared} of them prepared" if prepared else ""),
        facts={
            "blockers": [b.as_dict() for b in waiting_for[:BLOCKERS_NAMED_MAX]],
            "blockers_total": len(waiting_for),
            "prepared": prepared,
        },
        safe="Nothing was changed; no publication and no slot was left behind.",
        hint=hint,
    )


def mismatch(name: str, *, missing: bool) -> DomicileError:
    return DomicileError(
        ErrorCode.STREAM_LOST if missing else ErrorCode.SCHEMA_CHANGED,
        "the publication of the change stream is gone" if missing else "the change stream was made for other tables",
        facts={"publication": name},
        hint="The stream must begin anew: drop it, then copy again what was not handed over.",
    )
