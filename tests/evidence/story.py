"""A move as two sites would tell it, without servers: two logs with other moves in them, cosigned by each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from domicile.evidence import bundle, checkpoint, commit, merkle
from domicile.evidence.bundle import LogPart
from domicile.evidence.ledger import Ledger, Witness
from domicile.evidence.note import Key, KeyType, Note, Signer
from domicile.evidence.statement import (
    Approval,
    Copy,
    Handover,
    Hex,
    Pause,
    Plan,
    Predicate,
    Purge,
    Residual,
    Scan,
    Snapshot,
    StepBack,
    Subject,
    Verdict,
)

NOON = 1_767_225_600  # POSIX seconds
SITES = ("eu.shop.example/evidence", "us.shop.example/evidence")


def digest(text: str) -> Hex:
    return Hex(sha256(text.encode()).hexdigest())


SUBJECT = Subject("spring", digest("plan of spring"))
OTHER = Subject("autumn", digest("plan of autumn"))


def seed(text: str) -> bytes:
    return sha256(f"seed of {text}".encode()).digest()


@dataclass
class Site:
    """A site's log, and its witness of the other's."""

    ledger: Ledger
    witness: Witness
    log_signer: Signer


def site(name: str, secret: str = "") -> Site:
    signer = Signer(name, KeyType.LOG, seed(f"{secret}log {name}"))
    return Site(Ledger(signer), Witness(Signer(name, KeyType.WITNESS, seed(f"{secret}witness {name}"))), signer)


def source_acts(wave: int, *, purge: bool = True) -> list[Predicate]:
    at = ("us", NOON + wave)
    root = digest(f"root {wave}")
    members = commit.cohort_commitment(commit.commitment(seed(str(n)), b"%d" % n) for n in range(3))
    acts: list[Predicate] = [
        Snapshot(*at, wave, "0/16B3748", 3, Hex(members)),
        Verdict(*at, wave, "equal", 21, 0, root),
        Handover(*at, wave, "eu", 1, root),
        StepBack(*at, wave, 1),
        Verdict(*at, wave, "equal", 21, 0, root),
        Handover(*at, wave, "eu", 1, root),
        Pause(*at, wave, 1, 3_100),
    ]
    if purge:
        acts += [
            Purge(*at, wave, 21, "0/17B3748", root),
            Scan(*at, "pages and log", "tables", 0, 20, 20),
            Residual(*at, "backups", "kept 30 days", NOON + 30 * 86_400),
        ]
    return acts


def target_acts(wave: int) -> list[Predicate]:
    at = ("eu", NOON + wave)
    return [Copy(*at, wave, 21, 4_096), Handover(*at, wave, "eu", 1, digest(f"root {wave}"))]


def opening() -> list[Predicate]:
    plan = Plan("us", NOON, "orders", "us", "eu", "live", 6, 2, digest("cohort"), 2, 86_400)
    people = (digest("somebody"), digest("somebody else"))
    return [plan, *(Approval("us", NOON, "purge", who, NOON, NOON + 3_600) for who in people)]


class Story:
    """The move ``spring`` of two waves, and some of the move ``autumn`` in the same logs."""

    def __init__(self, waves: int = 2, secret: str = "", *, approvals: bool = True) -> None:
        self.eu, self.us = (site(name, secret) for name in SITES)
        self.notes: dict[str, list[Note]] = {SITES[0]: [], SITES[1]: []}
        for act in opening() if approvals else ():
            self.us.ledger.record(OTHER, act)
            self.us.ledger.record(SUBJECT, act)
        self.cosign()
        for wave in range(waves):
            for act in source_acts(wave):
                self.us.ledger.record(SUBJECT, act)
            self.us.ledger.record(OTHER, Copy("us", NOON, wave, 1, 1))
            for act in target_acts(wave):
                self.eu.ledger.record(SUBJECT, act)
            self.eu.ledger.record(OTHER, Copy("eu", NOON, wave, 1, 1))
            self.cosign()

    def cosign(self) -> None:
        """Each site cosigns the other's log as it is now."""
        for own, other in ((self.eu, self.us), (self.us, self.eu)):
            note = own.ledger.checkpoint()
            before = other.witness.seen.get(own.ledger.key.name)
            growth = own.ledger.tree.consistency(before.size) if before else []
            cosigned = other.witness.cosign(note, own.ledger.key, growth, NOON + 100)
            self.notes[own.ledger.key.name].append(cosigned)

    @property
    def keys(self) -> tuple[Key, ...]:
        return tuple(k for s in (self.eu, self.us) for k in (s.ledger.key, s.witness.key))

    def parts(self, subject: Subject = SUBJECT) -> list[LogPart]:
        return [bundle.part_of(s.ledger, subject.move, self.notes[s.ledger.key.name]) for s in (self.eu, self.us)]

    def bundle(self, parts: Sequence[LogPart] | None = None, subject: Subject = SUBJECT) -> bytes:
        return bundle.build(subject, parts or self.parts(subject), self.keys, self.us.log_signer)


def resigned(story: Story, place: int, **changes: object) -> bytes:
    """A bundle whose maker changed one log's part, and signed the manifest over it."""
    parts = story.parts()
    parts[place] = replace(parts[place], **changes)  # type: ignore[arg-type]
    return story.bundle(parts)


def without(story: Story, place: int, leaf: int) -> bytes:
    """A bundle without one leaf, with a true tree around the hole: what a maker who has the keys can do."""
    part = story.parts()[place]
    indexes = [i for low, high in part.runs for i in range(low, high)]
    leaves = list(part.leaves)
    del indexes[leaf], leaves[leaf]
    ledger = (story.eu, story.us)[place].ledger
    runs = merkle.runs_of(indexes)
    size = checkpoint.read(part.note).size
    outside = ledger.tree.outside(runs, size)
    return resigned(story, place, leaves=tuple(leaves), runs=tuple(runs), outside=tuple(outside))
