"""The verdict on a bundle: checks in a fixed order, the first that fails ends it and is named.

``proven``: every check passed, under keys that the examiner brought. ``unanchored``: the same under the bundle's own
keys, so it agrees with itself and nobody known has signed it. ``refuted``: a check failed.

``tools/verify_domicile_bundle.py`` makes the same checks with none of this code; tests hold both to the same answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from types import MappingProxyType
from typing import Any

from domicile.evidence import bundle, checkpoint, dsse, merkle, statement, strict
from domicile.evidence.account import Account, check_acts, check_agreement
from domicile.evidence.bundle import LogPart
from domicile.evidence.checkpoint import Checkpoint
from domicile.evidence.note import Key, KeyType, Note, parse_keys
from domicile.evidence.statement import FIRST, Hex, Statement, Subject
from domicile.evidence.strict import Malformed

CHECKS: Mapping[str, str] = MappingProxyType(
    {
        "container": "the file is one bundle, within its bounds, and holds nothing else",
        "checkpoint": "each log's key has signed the log's size and root",
        "cosignature": "another site has seen each log at this size, grown from all that it saw before",
        "history": "earlier checkpoints are the log's own, and each log has only grown",
        "envelope": "each statement is signed by its log, and in the one accepted form",
        "move": "each statement is about this move and this plan",
        "chain": "no statement of the move is missing, doubled or out of order in its log",
        "inclusion": "each statement stands in its log, at its place",
        "acts": "the acts follow the rules: no purge without a clean verdict, nor at home; epochs rise",
        "agreement": "the logs tell of the same handovers, with the same epochs and roots",
        "manifest": "the bundle is as its maker signed it: these files, no other, to the byte",
        "seen": "the logs have grown from every checkpoint that you brought",
    }
)


class Outcome(StrEnum):
    """What is said of the whole bundle."""

    PROVEN = "proven"
    UNANCHORED = "unanchored"
    REFUTED = "refuted"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what it proves, and ``passed``, ``failed`` or ``not reached``."""

    name: str
    proves: str
    result: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict, check by check; what the bundle tells; and what it does not show."""

    outcome: Outcome
    checks: tuple[Check, ...]
    figures: Mapping[str, object]
    not_shown: tuple[str, ...]

    @property
    def failed(self) -> str:
        """The name of the check that failed, or ''."""
        return next((c.name for c in self.checks if c.result == "failed"), "")


@dataclass(slots=True)
class _Work:
    """What the checks find, one after the other."""

    raw: bytes
    keys: tuple[Key, ...]
    seen: Sequence[Note]
    files: dict[str, bytes] = field(default_factory=dict)
    parts: list[LogPart] = field(default_factory=list)
    heads: list[Checkpoint] = field(default_factory=list)
    statements: list[list[Statement]] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)
    subject: Subject | None = None
    not_shown: list[str] = field(default_factory=list)

    def log_keys(self, origin: str) -> list[Key]:
        return [k for k in self.keys if k.type is KeyType.LOG and k.name == origin]

    def signed_by_log(self, note: Note, origin: str) -> bool:
        return any(checkpoint.is_signed(note, k) for k in self.log_keys(origin))


def verify(raw: bytes, keys: Sequence[Key] = (), seen: Sequence[Note] = ()) -> Report:
    """The verdict on a bundle's bytes. ``keys`` are whom the examiner trusts; ``seen`` are checkpoints that he has from
    elsewhere. Raises nothing that a bundle could cause."""
    work = _Work(raw, tuple(keys), seen)
    results: list[Check] = []
    failed = False
    for name, check in _STEPS:
        result, why = "not reached", ""
        if not failed:
            try:
                check(work)
                result = "passed"
            except Malformed as error:
                result, why, failed = "failed", str(error), True
        results.append(Check(name, CHECKS[name], result, why))
    if failed:
        return Report(Outcome.REFUTED, tuple(results), {}, ())
    account = Account.of(work.statements)
    shown = [*work.not_shown, *account.not_shown(len(work.parts))]
    if not seen:
        shown.append("that nobody was shown another log: bring checkpoints that others were given")
    if not keys:
        shown.insert(0, "who signed: the keys are the bundle's own; bring the sites' keys from elsewhere")
    outcome = Outcome.PROVEN if keys else Outcome.UNANCHORED
    return Report(outcome, tuple(results), {**_what(work), **account.figures()}, tuple(shown))


def _container(work: _Work) -> None:
    work.files = bundle.unpack(work.raw)
    work.parts = [bundle.parse_part(work.files, n) for n in range(bundle.logs_in(work.files))]
    work.heads = [checkpoint.read(p.note) for p in work.parts]
    own = parse_keys(work.files[bundle.KEYS])
    work.keys = work.keys or own
    if len({h.origin for h in work.heads}) != len(work.heads):
        raise Malformed("one log twice")
    uri, _, work.manifest = statement.open_statement(dsse.parse(work.files[bundle.MANIFEST]).payload)
    if uri != statement.type_uri("bundle") or work.manifest.keys() != {"format", "logs", "move", "plan"}:
        raise Malformed("a manifest of another form")
    if statement.check_number(work.manifest["format"]) != bundle.FORMAT:
        raise Malformed("a bundle of another version")
    work.subject = Subject(statement.check_name(work.manifest["move"]), statement.check_hex(work.manifest["plan"]))


def _checkpoint(work: _Work) -> None:
    for head, part in zip(work.heads, work.parts, strict=True):
        if not work.log_keys(head.origin):
            raise Malformed(f"no key that you trust is of the log {head.origin}")
        if not work.signed_by_log(part.note, head.origin):
            raise Malformed(f"{head.origin}: the checkpoint is not signed by the log's key")


def _cosignature(work: _Work) -> None:
    for head, part in zip(work.heads, work.parts, strict=True):
        if not checkpoint.cosignature_times(part.note, work.keys):
            raise Malformed(f"{head.origin}: no other site that you trust has cosigned the checkpoint")


def _history(work: _Work) -> None:
    for head, part in zip(work.heads, work.parts, strict=True):
        notes = [*(e.note for e in part.history), part.note]
        for earlier, later in zip(part.history, notes[1:], strict=True):
            if not work.signed_by_log(earlier.note, head.origin):
                raise Malformed(f"{head.origin}: an earlier checkpoint is not signed by the log's key")
            try:
                checkpoint.check_growth(checkpoint.read(earlier.note), checkpoint.read(later), earlier.growth)
            except Malformed as why:
                raise Malformed(f"{head.origin}: {why}") from None


def _envelope(work: _Work) -> None:
    for head, part in zip(work.heads, work.parts, strict=True):
        keys = {k.label: k for k in work.log_keys(head.origin)}
        found = []
        for place, leaf in enumerate(part.leaves):
            try:
                envelope = dsse.parse(leaf)
                key = keys.get(envelope.key_id)
                if key is None or not envelope.is_signed(key):
                    raise Malformed("not signed by the log's key")
                found.append(statement.decode(envelope.payload))
            except Malformed as why:
                raise Malformed(f"{head.origin}, statement {place}: {why}") from None
        work.statements.append(found)


def _move(work: _Work) -> None:
    for head, found in zip(work.heads, work.statements, strict=True):
        for place, said in enumerate(found):
            if said.subject != work.subject:
                raise Malformed(f"{head.origin}, statement {place}: of another move or plan")


def _chain(work: _Work) -> None:
    for head, part, found in zip(work.heads, work.parts, work.statements, strict=True):
        previous = FIRST
        for place, (leaf, said) in enumerate(zip(part.leaves, found, strict=True)):
            if said.sequence != place or said.previous != previous:
                raise Malformed(f"{head.origin}: statement {place} of the move is missing, or not at its place")
            previous = Hex(merkle.leaf_hash(leaf).hex())


def _inclusion(work: _Work) -> None:
    for head, part in zip(work.heads, work.parts, strict=True):
        hashes = (merkle.leaf_hash(leaf) for leaf in part.leaves)
        try:
            root = merkle.root_with(hashes, part.runs, head.size, part.outside)
        except Malformed as why:
            raise Malformed(f"{head.origin}: {why}") from None
        if root != head.root:
            raise Malformed(f"{head.origin}: the statements do not lead to the checkpoint's root")


def _acts(work: _Work) -> None:
    for head, found in zip(work.heads, work.statements, strict=True):
        check_acts(head.origin, found)


def _agreement(work: _Work) -> None:
    check_agreement(work.statements)


def _manifest(work: _Work) -> None:
    envelope = dsse.parse(work.files[bundle.MANIFEST])
    origins = {h.origin for h in work.heads}
    keys = [k for k in work.keys if k.label == envelope.key_id and k.type is KeyType.LOG and k.name in origins]
    if not any(envelope.is_signed(k) for k in keys):
        raise Malformed("the manifest is not signed by the key of a log of the bundle")
    _, digests, _ = statement.open_statement(envelope.payload)
    files = [(n, sha256(raw).hexdigest()) for n, raw in sorted(work.files.items()) if n != bundle.MANIFEST]
    if digests != files:
        raise Malformed("a file is not as the manifest says")
    if strict.canonical(work.manifest["logs"]) != strict.canonical([bundle.summary(p) for p in work.parts]):
        raise Malformed("the logs are not as the manifest says: a statement was left out at the end")


def _seen(work: _Work) -> None:
    heads = {h.origin: (h, p) for h, p in zip(work.heads, work.parts, strict=True)}
    for note in work.seen:
        seen = checkpoint.read(note)
        if seen.origin not in heads:
            work.not_shown.append(f"the log {seen.origin}, of which you brought a checkpoint: it is not in the bundle")
            continue
        head, part = heads[seen.origin]
        if not work.signed_by_log(note, seen.origin):
            raise Malformed(f"{seen.origin}: the checkpoint that you brought is not signed by the log's key")
        if seen.size > head.size:
            raise Malformed(
                f"{seen.origin}: rolled back: you have seen {seen.size} leaves, the bundle says {head.size}"
            )
        known = {c.size: c.root for c in (head, *(checkpoint.read(e.note) for e in part.history))}
        if seen.size not in known:
            work.not_shown.append(
                f"that {seen.origin} grew from your checkpoint of {seen.size} leaves: no proof is here"
            )
        elif known[seen.size] != seen.root:
            raise Malformed(f"{seen.origin}: forked: you were shown another log of {seen.size} leaves")


def _what(work: _Work) -> dict[str, object]:
    assert work.subject is not None, "read from the manifest"
    logs = [
        {
            "origin": h.origin,
            "size": h.size,
            "statements": len(p.leaves),
            "cosigned": checkpoint.cosignature_times(p.note, work.keys),
        }
        for h, p in zip(work.heads, work.parts, strict=True)
    ]
    return {"move": work.subject.move, "plan": str(work.subject.plan), "logs": logs}


_STEPS: tuple[tuple[str, Callable[[_Work], None]], ...] = (
    ("container", _container),
    ("checkpoint", _checkpoint),
    ("cosignature", _cosignature),
    ("history", _history),
    ("envelope", _envelope),
    ("move", _move),
    ("chain", _chain),
    ("inclusion", _inclusion),
    ("acts", _acts),
    ("agreement", _agreement),
    ("manifest", _manifest),
    ("seen", _seen),
)
