"""Writing evidence: leaves that are chained by move, a log in memory, and the witness that every other site is to it.

A site's log is kept by whoever records the act: ``seal_leaf`` and ``merkle.Frontier`` are what a transaction needs.
``Ledger`` holds a whole log in memory, for exports, tests and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domicile.evidence import checkpoint, dsse
from domicile.evidence.checkpoint import Checkpoint, LeafProof
from domicile.evidence.merkle import Tree, leaf_hash
from domicile.evidence.note import Key, Note, Signer
from domicile.evidence.statement import FIRST, Hex, Predicate, Statement, Subject
from domicile.evidence.strict import Malformed


@dataclass(frozen=True, slots=True)
class Head:
    """Where a move stands in one log: how many leaves it has there, and the hash of the last."""

    sequence: int = 0
    previous: Hex = FIRST


def seal_leaf(subject: Subject, head: Head, predicate: Predicate, signer: Signer) -> tuple[bytes, Head]:
    """The next leaf of a move in a log, and the head after it. Raises Malformed when a value does not fit."""
    leaf = dsse.seal(Statement(subject, head.sequence, head.previous, predicate).encode(), signer)
    return leaf, Head(head.sequence + 1, Hex(leaf_hash(leaf).hex()))


class Ledger:
    """One site's log, in memory. The signer's name is the log's origin."""

    def __init__(self, signer: Signer) -> None:
        self.tree = Tree()
        self.leaves: list[bytes] = []
        self._signer = signer
        self._heads: dict[str, Head] = {}
        self._indexes: dict[str, list[int]] = {}

    @property
    def key(self) -> Key:
        """What the log's signatures are verified with."""
        return self._signer.key

    def record(self, subject: Subject, predicate: Predicate) -> int:
        """Append one act of a move; its index in the log."""
        leaf, self._heads[subject.move] = seal_leaf(
            subject, self._heads.get(subject.move, Head()), predicate, self._signer
        )
        self.leaves.append(leaf)
        index = self.tree.append(leaf_hash(leaf))
        self._indexes.setdefault(subject.move, []).append(index)
        return index

    def indexes(self, move: str) -> Sequence[int]:
        """Where the move's leaves are."""
        return self._indexes.get(move, ())

    def checkpoint(self) -> Note:
        """The log as it is now, signed by it, cosigned by nobody yet."""
        head = Checkpoint(self.key.name, len(self.tree), self.tree.root())
        return checkpoint.issue(head, self._signer)

    def proof(self, index: int, note: Note) -> LeafProof:
        """That a leaf is in the log of a checkpoint."""
        return LeafProof(index, tuple(self.tree.inclusion(index, checkpoint.read(note).size)), note)


class Witness:
    """Cosigns checkpoints of other sites' logs, each only if the log has grown from the last one cosigned.

    ``seen`` is its memory; who keeps it must write it down before the cosignature leaves."""

    def __init__(self, signer: Signer) -> None:
        self.seen: dict[str, Checkpoint] = {}
        self._signer = signer

    @property
    def key(self) -> Key:
        """What its cosignatures are verified with."""
        return self._signer.key

    def cosign(self, note: Note, log: Key, growth: Sequence[bytes], time: int) -> Note:
        """The checkpoint with this witness's cosignature. Raises Malformed: not the log's, rolled back, or forked."""
        found = checkpoint.read(note)
        if found.origin != log.name or not checkpoint.is_signed(note, log):
            raise Malformed("the checkpoint is not signed by the log's key")
        known = self.seen.get(found.origin)
        if known is not None:
            checkpoint.check_growth(known, found, growth)
        self.seen[found.origin] = found
        return checkpoint.cosigned(note, self._signer, time)
