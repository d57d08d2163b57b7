"""Every error an operator can meet: a code, the facts, what is safe now, and what to do next.

Libraries raise ``DomicileError``; only faces print it and exit. The exit code is a property of the error
code, so scripts can rely on it. No message, fact or hint carries a personal value: keys of tables and
columns, counts, and (where the operator must act on them) primary keys of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class ErrorCode(StrEnum):
    """Stable names; they appear in ``--json`` and in ``docs/reference/errors.md``."""

    CONFIG_INVALID = "config-invalid"
    CONFIRMATION_MISSING = "confirmation-missing"
    FILE_EXISTS = "file-exists"
    MAP_INVALID = "map-invalid"
    MAP_INCOMPLETE = "map-incomplete"
    SITE_UNREACHABLE = "site-unreachable"
    ACCESS_DENIED = "access-denied"
    RIGHT_MISSING = "right-missing"
    SETTING_WRONG = "setting-wrong"
    SCHEMAS_DIFFER = "schemas-differ"
    SCHEMA_CHANGED = "schema-changed"
    CONDITION_INVALID = "condition-invalid"
    COHORT_EMPTY = "cohort-empty"
    COHORT_DEPARTED = "cohort-departed"
    COHORT_RESERVED = "cohort-reserved"
    PLAN_INVALID = "plan-invalid"
    PLAN_STALE = "plan-stale"
    PLAN_REFUSED = "plan-refused"
    PLAN_APPLIED = "plan-applied"
    MOVE_UNKNOWN = "move-unknown"
    MOVE_BUSY = "move-busy"
    PHASE_FORBIDS = "phase-forbids"
    LEASE_LOST = "lease-lost"
    FENCE_BUDGET = "fence-budget"
    PAUSE_BUDGET = "pause-budget"
    LAG_BUDGET = "lag-budget"
    WAL_BUDGET = "wal-budget"
    WAY_BACK_CLOSED = "way-back-closed"
    WAY_BACK_BLOCKED = "way-back-blocked"
    KEYS_COLLIDE = "keys-collide"
    KEYS_IN_PASSING = "keys-in-passing"
    STREAM_BLOCKED = "stream-blocked"
    STREAM_LOST = "stream-lost"
    STREAM_TRUNCATED = "stream-truncated"
    STREAM_UNCLEAR = "stream-unclear"
    COPY_FAILED = "copy-failed"
    DISK_FULL = "disk-full"
    DISCREPANCY = "discrepancy"
    REFERENCE_MISSING = "reference-missing"
    VERDICT_MISSING = "verdict-missing"
    UNDO_WINDOW = "undo-window"
    APPROVAL_MISSING = "approval-missing"
    CLUSTER_FAILED = "cluster-failed"
    EVIDENCE_INVALID = "evidence-invalid"
    EVIDENCE_FORKED = "evidence-forked"
    EVIDENCE_MISSING = "evidence-missing"
    FILES_UNREADABLE = "files-unreadable"
    INTERRUPTED = "interrupted"
    INTERNAL = "internal"


EXIT_OK = 0
EXIT_FAILED = 1  # the work failed; status says where it stands
EXIT_USAGE = 2  # the command line or a file is wrong; nothing was touched
EXIT_REFUSED = 3  # a check failed or a rule forbids it; nothing was touched
EXIT_UNREACHABLE = 4  # a site or the control database could not be used
EXIT_DISCREPANCY = 5  # the two sites differ
EXIT_INTERRUPTED = 130

_EXIT_BY_CODE: Mapping[ErrorCode, int] = MappingProxyType(
    {
        ErrorCode.CONFIG_INVALID: EXIT_USAGE,
        ErrorCode.CONFIRMATION_MISSING: EXIT_USAGE,
        ErrorCode.FILE_EXISTS: EXIT_USAGE,
        ErrorCode.MAP_INVALID: EXIT_USAGE,
        ErrorCode.MAP_INCOMPLETE: EXIT_REFUSED,
        ErrorCode.SITE_UNREACHABLE: EXIT_UNREACHABLE,
        ErrorCode.ACCESS_DENIED: EXIT_UNREACHABLE,
        ErrorCode.RIGHT_MISSING: EXIT_REFUSED,
        ErrorCode.SETTING_WRONG: EXIT_REFUSED,
        ErrorCode.SCHEMAS_DIFFER: EXIT_REFUSED,
        ErrorCode.SCHEMA_CHANGED: EXIT_REFUSED,
        ErrorCode.CONDITION_INVALID: EXIT_USAGE,
        ErrorCode.COHORT_EMPTY: EXIT_REFUSED,
        ErrorCode.COHORT_DEPARTED: EXIT_REFUSED,
        ErrorCode.COHORT_RESERVED: EXIT_REFUSED,
        ErrorCode.PLAN_INVALID: EXIT_USAGE,
        ErrorCode.PLAN_STALE: EXIT_REFUSED,
        ErrorCode.PLAN_REFUSED: EXIT_REFUSED,
        ErrorCode.PLAN_APPLIED: EXIT_REFUSED,
        ErrorCode.MOVE_UNKNOWN: EXIT_USAGE,
        ErrorCode.MOVE_BUSY: EXIT_REFUSED,
        ErrorCode.PHASE_FORBIDS: EXIT_REFUSED,
        ErrorCode.KEYS_COLLIDE: EXIT_REFUSED,
        ErrorCode.REFERENCE_MISSING: EXIT_REFUSED,
        ErrorCode.VERDICT_MISSING: EXIT_REFUSED,
        ErrorCode.UNDO_WINDOW: EXIT_REFUSED,
        ErrorCode.APPROVAL_MISSING: EXIT_REFUSED,
        ErrorCode.WAY_BACK_CLOSED: EXIT_REFUSED,
        ErrorCode.DISCREPANCY: EXIT_DISCREPANCY,
        ErrorCode.EVIDENCE_INVALID: EXIT_USAGE,
        ErrorCode.EVIDENCE_MISSING: EXIT_REFUSED,
        ErrorCode.INTERRUPTED: EXIT_INTERRUPTED,
    }
)


class DomicileError(Exception):
    """One operating error. Programmer errors assert instead.

    ``facts`` are machine-readable (names, counts, units in the key); ``safe`` says what still stands;
    ``hint`` is the next step.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        facts: Mapping[str, object] = MappingProxyType({}),
        safe: str = "Nothing was changed.",
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.facts = dict(facts)
        self.safe = safe
        self.hint = hint

    @property
    def exit_code(self) -> int:
        """The documented exit code of the command that met this error."""
        return _EXIT_BY_CODE.get(self.code, EXIT_FAILED)

    def as_dict(self) -> dict[str, object]:
        """The ``--json`` form."""
        return {
            "error": str(self.code),
            "message": self.message,
            "facts": self.facts,
            "safe": self.safe,
            "hint": self.hint,
        }
