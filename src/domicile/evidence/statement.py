"""What a leaf says: in-toto statements (v1), one kind of predicate for each act of a move.

The subject of a statement is the move, by name and by the digest of its plan. Values are numbers, hashes and short
names from a small alphabet; no field takes free text. Times are for people: nothing is ordered by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
import re
from types import MappingProxyType
from typing import Any, ClassVar

from domicile.evidence import strict
from domicile.evidence.strict import Malformed

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
NUMBER_MAX = 2**53 - 1
_HEX = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/-]{0,99}")


class Hex(str):
    """A SHA-256 hash, in hex."""

    __slots__ = ()


FIRST = Hex("0" * 64)  # the predecessor of a move's first leaf in a log


@dataclass(frozen=True, slots=True)
class Subject:
    """The move that a statement is about."""

    move: str
    plan: Hex


@dataclass(frozen=True, slots=True)
class Predicate:
    """What every act says of itself. ``time`` is POSIX seconds."""

    kind: ClassVar[str]
    site: str
    time: int


@dataclass(frozen=True, slots=True)
class Plan(Predicate):
    """The move was planned: how many subjects, in how many waves; ``cohort`` commits to whom. A purge needs approvals
    by so many different people, and comes so long after the last arrival."""

    kind: ClassVar[str] = "plan"
    dataset: str
    source: str
    target: str
    mode: str
    subjects: int
    waves: int
    cohort: Hex
    approvals: int
    undo_seconds: int


@dataclass(frozen=True, slots=True)
class Approval(Predicate):
    """Somebody approved an act, at ``given`` and until ``expires`` (POSIX seconds). ``approver`` is a commitment, not a
    name: one for each person."""

    kind: ClassVar[str] = "approval"
    act: str
    approver: Hex
    given: int
    expires: int


@dataclass(frozen=True, slots=True)
class Abort(Predicate):
    """The rest of the move is given up: so many waves that had not moved."""

    kind: ClassVar[str] = "abort"
    waves: int


@dataclass(frozen=True, slots=True)
class WaveAct(Predicate):
    """An act on one wave."""

    wave: int


@dataclass(frozen=True, slots=True)
class Snapshot(WaveAct):
    """The view the copy reads: its place in the source's log, and who is in the wave."""

    kind: ClassVar[str] = "snapshot"
    position: str
    subjects: int
    members: Hex


@dataclass(frozen=True, slots=True)
class Copy(WaveAct):
    """The wave's rows stand at the target."""

    kind: ClassVar[str] = "copy"
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Verdict(WaveAct):
    """Both sites were compared: ``outcome`` is ``equal`` or ``different``; ``root`` is over all rows."""

    kind: ClassVar[str] = "verdict"
    outcome: str
    rows: int
    differences: int
    root: Hex


@dataclass(frozen=True, slots=True)
class Handover(WaveAct):
    """The wave's home changes to ``home``, at ``epoch``: at the site that it leaves the departure, at its new home the
    arrival. ``root`` is that of the verdict on which it rests."""

    kind: ClassVar[str] = "handover"
    home: str
    epoch: int
    root: Hex


@dataclass(frozen=True, slots=True)
class Rollback(Handover):
    """The same, back to the source."""

    kind: ClassVar[str] = "rollback"


@dataclass(frozen=True, slots=True)
class Pause(WaveAct):
    """How long the wave's writers waited for the handover or rollback of this epoch, in microseconds."""

    kind: ClassVar[str] = "pause"
    epoch: int
    pause_us: int


@dataclass(frozen=True, slots=True)
class StepBack(WaveAct):
    """The wave is served where it was. ``epoch``: its departure under that epoch is taken back; 0: it had not
    departed, and what was prepared for it is forgotten."""

    kind: ClassVar[str] = "stepback"
    epoch: int


@dataclass(frozen=True, slots=True)
class Gap(WaveAct):
    """A failover took from this site the verdict (of ``root``) on which the wave's departure of ``epoch`` rests, and
    the departure: that one is told again behind this, because another site's log has the arrival."""

    kind: ClassVar[str] = "gap"
    epoch: int
    root: Hex


@dataclass(frozen=True, slots=True)
class Purge(WaveAct):
    """The source copy was removed, up to a place in the source's log."""

    kind: ClassVar[str] = "purge"
    rows: int
    position: str
    root: Hex


@dataclass(frozen=True, slots=True)
class Scan(Predicate):
    """A search for what the purged waves have left, by a method, with its sensitivity: canaries planted, and found."""

    kind: ClassVar[str] = "scan"
    method: str
    place: str
    copies_found: int
    canaries_planted: int
    canaries_found: int


@dataclass(frozen=True, slots=True)
class Residual(Predicate):
    """What remains, where, why, and until when (POSIX seconds; 0: not known)."""

    kind: ClassVar[str] = "residual"
    place: str
    reason: str
    expires: int


_KINDS = (
    Plan,
    Approval,
    Abort,
    Snapshot,
    Copy,
    Verdict,
    Handover,
    Rollback,
    Pause,
    StepBack,
    Gap,
    Purge,
    Scan,
    Residual,
)
KINDS: Mapping[str, type[Predicate]] = MappingProxyType({c.kind: c for c in _KINDS})


@dataclass(frozen=True, slots=True)
class Statement:
    """One leaf's content. ``sequence`` counts the leaves of a move in one log from 0; ``previous`` is the hash of the
    one before, so that none can be left out."""

    subject: Subject
    sequence: int
    previous: Hex
    predicate: Predicate

    def encode(self) -> bytes:
        """The in-toto statement, canonical JSON. Raises Malformed when a value is not what its field takes."""
        content = {f.name: getattr(self.predicate, f.name) for f in fields(self.predicate)}
        chained = {**content, "previous": self.previous, "sequence": self.sequence}
        raw = encode_statement(self.predicate.kind, [(self.subject.move, self.subject.plan)], chained)
        if decode(raw) != self:
            raise Malformed("a statement that would not be read back")
        return raw


def type_uri(kind: str) -> str:
    """The type of a predicate."""
    return f"urn:domicile:evidence:{kind}:v1"


def encode_statement(kind: str, subjects: list[tuple[str, str]], predicate: Mapping[str, Any]) -> bytes:
    """An in-toto statement of one of our kinds about things with names and SHA-256 digests."""
    return strict.canonical(
        {
            "_type": STATEMENT_TYPE,
            "predicate": dict(predicate),
            "predicateType": type_uri(kind),
            "subject": [{"digest": {"sha256": d}, "name": n} for n, d in subjects],
        }
    )


def open_statement(raw: bytes) -> tuple[str, list[tuple[str, Hex]], dict[str, Any]]:
    """Predicate type, subjects and predicate of a statement. Raises Malformed."""
    found = strict.parse(raw)
    if not isinstance(found, dict) or found.keys() != {"_type", "predicate", "predicateType", "subject"}:
        raise Malformed("not a statement")
    if found["_type"] != STATEMENT_TYPE or not isinstance(found["predicate"], dict):
        raise Malformed("a statement of another type")
    if not isinstance(found["subject"], list) or not isinstance(found["predicateType"], str):
        raise Malformed("a statement without subjects or a type")
    return found["predicateType"], [_subject(s) for s in found["subject"]], found["predicate"]


def decode(raw: bytes) -> Statement:
    """The statement of a leaf. Raises Malformed: an unknown kind, a field too many, too few, or of another form."""
    uri, subjects, content = open_statement(raw)
    kind = next((c for k, c in KINDS.items() if type_uri(k) == uri), None)
    if kind is None or len(subjects) != 1:
        raise Malformed("a statement of no known kind, or not about one move")
    wanted = {f.name: f.type for f in fields(kind)}
    if content.keys() != {*wanted, "previous", "sequence"}:
        raise Malformed(f"a {kind.kind} statement with a field too many or too few")
    values = {name: _value(content[name], str(wanted[name])) for name in wanted}
    return Statement(
        Subject(check_name(subjects[0][0]), subjects[0][1]),
        _value(content["sequence"], "int"),
        _value(content["previous"], "Hex"),
        kind(**values),
    )


def check_name(value: object) -> str:
    """A short name. Raises Malformed."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Malformed("a name with other characters, or too long")
    return value


def check_hex(value: object) -> Hex:
    """A SHA-256 hash in hex. Raises Malformed."""
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise Malformed("not a hash in hex")
    return Hex(value)


def check_number(value: object) -> int:
    """A count. Raises Malformed."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= NUMBER_MAX:
        raise Malformed("not a count")
    return value


def _value(value: object, kind: str) -> Any:
    match kind:
        case "int":
            return check_number(value)
        case "Hex":
            return check_hex(value)
        case _:
            return check_name(value)


def _subject(found: object) -> tuple[str, Hex]:
    match found:
        case {"name": str(name), "digest": {"sha256": digest, **more_digests}, **more} if not more and not more_digests:
            return name, check_hex(digest)
    raise Malformed("a subject of another form")
