"""Checkpoints of a log, their cosignatures, and proofs that need no server: c2sp.org/tlog-checkpoint, tlog-cosignature
and tlog-proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import struct

from domicile.evidence.merkle import HASH, check_consistency, leaf_hash, root_of_inclusion
from domicile.evidence.note import NAME, Key, KeyType, Note, Signature, Signer, parse_note, signed
from domicile.evidence.strict import Malformed, decode64, encode64, number

PROOF_HEADER = "c2sp.org/tlog-proof@v1"
PROOF_STEPS_MAX = 64


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says it is: its name, its size in leaves, its root."""

    origin: str
    size: int
    root: bytes

    @property
    def head(self) -> tuple[int, bytes]:
        """Size and root."""
        return self.size, self.root

    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{encode64(self.root)}\n"


def issue(checkpoint: Checkpoint, signer: Signer) -> Note:
    """The log's own signature under its checkpoint."""
    assert signer.key.name == checkpoint.origin, "a log signs in its own name"
    return signed(checkpoint.text(), signer)


def read(note: Note) -> Checkpoint:
    """The checkpoint in a note, whoever signed it. Raises Malformed; extension lines are refused."""
    lines = note.text.split("\n")
    if len(lines) != 4 or lines.pop() or not NAME.fullmatch(lines[0]):
        raise Malformed("a checkpoint has three lines")
    return Checkpoint(lines[0], number(lines[1]), decode64(lines[2], HASH))


def is_signed(note: Note, key: Key) -> bool:
    """Whether the log's key has signed the note. Every line in its name must verify."""
    own = [s for s in note.signatures if s.is_of(key)]
    return bool(own) and all(key.verifies(s.raw, note.text.encode()) for s in own)


def cosigned(note: Note, signer: Signer, time: int) -> Note:
    """The note with one more cosignature, at a POSIX time in seconds. Its maker must have checked consistency
    (``ledger.Witness`` does)."""
    stamp = struct.pack(">Q", time)
    raw = stamp + signer.sign(_cosigned_message(note.text, time))
    return Note(note.text, (*note.signatures, Signature(signer.key.name, signer.key.id, raw)))


def cosignature_times(note: Note, keys: Sequence[Key]) -> dict[str, int]:
    """Which witnesses have cosigned, and when. A witness of the log's own name does not count: nobody is his own
    witness. Raises Malformed when a cosignature in a known name is false."""
    origin = read(note).origin
    times = {}
    for key in keys:
        if key.type is not KeyType.WITNESS or key.name == origin:
            continue
        for line in note.signatures:
            if line.is_of(key):
                if len(line.raw) != 72:
                    raise Malformed("a cosignature of another length")
                time = int.from_bytes(line.raw[:8])
                if not key.verifies(line.raw[8:], _cosigned_message(note.text, time)):
                    raise Malformed(f"the cosignature of {key.name} is false")
                times[key.name] = time
    return times


def _cosigned_message(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()


@dataclass(frozen=True, slots=True)
class LeafProof:
    """That one leaf is in a log: a ``.tlog-proof`` file."""

    index: int
    steps: tuple[bytes, ...]
    note: Note

    def encode(self) -> str:
        """The file."""
        steps = "".join(f"{encode64(s)}\n" for s in self.steps)
        return f"{PROOF_HEADER}\nindex {self.index}\n{steps}\n{self.note.encode()}"

    def check(self, leaf: bytes, key: Key, witnesses: Sequence[Key] = ()) -> dict[str, int]:
        """That ``leaf`` is in the log of ``key``; who has cosigned, and when. Raises Malformed when it is not."""
        found = read(self.note)
        if found.origin != key.name or not is_signed(self.note, key):
            raise Malformed("the checkpoint is not signed by the log's key")
        if root_of_inclusion(leaf_hash(leaf), self.index, found.size, self.steps) != found.root:
            raise Malformed("the leaf is not in the log")
        return cosignature_times(self.note, witnesses)


def parse_proof(raw: bytes) -> LeafProof:
    """The proof in a ``.tlog-proof`` file; extra data is skipped, for nobody has signed it. Raises Malformed."""
    head, blank, note = raw.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Malformed("a proof that is not ASCII") from None
    if lines.pop(0) != PROOF_HEADER or not blank:
        raise Malformed("not a tlog-proof")
    if lines and lines[0].startswith("extra "):
        decode64(lines.pop(0).removeprefix("extra "))
    if not lines or not lines[0].startswith("index ") or len(lines) > PROOF_STEPS_MAX + 1:
        raise Malformed("a proof without an index, or too long")
    index = number(lines.pop(0).removeprefix("index "))
    return LeafProof(index, tuple(decode64(line, HASH) for line in lines), parse_note(note))


def check_growth(old: Checkpoint, new: Checkpoint, proof: Sequence[bytes]) -> None:
    """That a log has only grown between two of its checkpoints. Raises Malformed: rolled back, or forked."""
    if old.origin != new.origin:
        raise Malformed("checkpoints of two logs")
    if new.size < old.size:
        raise Malformed("rolled back: a later checkpoint is smaller")
    try:
        check_consistency(old.head, new.head, proof)
    except Malformed as why:
        raise Malformed(f"forked: {why}") from None
