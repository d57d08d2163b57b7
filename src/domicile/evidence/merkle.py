"""The Merkle tree of RFC 6962: roots, proofs that a leaf is in a tree or that a tree has only grown, and their checks.

``Tree`` keeps every hash and can prove things; ``Frontier`` keeps one hash per set bit of its size, enough to append
and to know the root. Hashes are 32 bytes, SHA-256."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from domicile.evidence.strict import Malformed

EMPTY_ROOT = sha256(b"").digest()
HASH = 32

Run = tuple[int, int]  # leaves from the first index up to, and not with, the second


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf's bytes."""
    return sha256(b"\0" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node above two others."""
    return sha256(b"\1" + left + right).digest()


@dataclass(slots=True)
class Frontier:
    """A tree's size and the roots of its perfect subtrees, the largest first: what an appender must keep."""

    size: int = 0
    roots: list[bytes] = field(default_factory=list)

    def append(self, leaf: bytes) -> None:
        """Add the hash of one more leaf."""
        at = self.size
        while at & 1:
            leaf = node_hash(self.roots.pop(), leaf)
            at >>= 1
        self.roots.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The tree's root hash."""
        if not self.roots:
            return EMPTY_ROOT
        found = self.roots[-1]
        for left in reversed(self.roots[:-1]):
            found = node_hash(left, found)
        return found


class Tree:
    """A tree with all of its hashes, 64 bytes a leaf."""

    def __init__(self) -> None:
        self._levels = [bytearray()]

    def __len__(self) -> int:
        return len(self._levels[0]) // HASH

    def append(self, leaf: bytes) -> int:
        """Add the hash of one more leaf; its index."""
        levels = self._levels
        index = at = len(levels[0]) // HASH
        levels[0] += leaf
        height = 0
        while at & 1:
            leaf = node_hash(bytes(levels[height][-2 * HASH : -HASH]), leaf)
            height += 1
            if height == len(levels):
                levels.append(bytearray())
            levels[height] += leaf
            at >>= 1
        return index

    def root(self, size: int | None = None) -> bytes:
        """The root hash, of the first ``size`` leaves if given."""
        size = self._size(size)
        return self._node(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """The proof that a leaf is in the tree of ``size`` leaves: from its sibling upward."""
        size = self._size(size)
        assert 0 <= index < size, "a leaf of the tree"
        proof = []
        low, high = 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                proof.append(self._node(middle, high))
                high = middle
            else:
                proof.append(self._node(low, middle))
                low = middle
        return proof[::-1]

    def consistency(self, old: int, size: int | None = None) -> list[bytes]:
        """The proof that the tree of ``size`` leaves begins with the one of ``old``. Empty for 0 and for ``size``."""
        size = self._size(size)
        assert 0 <= old <= size, "an earlier tree"
        return _consistency(old, size, self._node)

    def outside(self, runs: Sequence[Run], size: int | None = None) -> list[bytes]:
        """The hashes of the largest subtrees that hold none of the runs' leaves, left to right: with those leaves,
        the tree's root can be computed (``root_with``)."""
        size = self._size(size)
        return [self._node(low, high) for low, high in _gaps(runs, size)]

    def _size(self, size: int | None) -> int:
        assert size is None or 0 <= size <= len(self), "a size that the tree has had"
        return len(self) if size is None else size

    def _node(self, low: int, high: int) -> bytes:
        count = high - low
        if count & (count - 1) == 0:
            at = low // count * HASH
            return bytes(self._levels[count.bit_length() - 1][at : at + HASH])
        middle = low + _split(count)
        return node_hash(self._node(low, middle), self._node(middle, high))


def growth(old: Frontier, hashes: Sequence[bytes]) -> list[bytes]:
    """The proof that a tree of ``old`` and these leaves behind it begins with ``old``: no other hash is needed for it,
    because a subtree that meets both is in no such proof. As ``Tree.consistency``."""
    starts, at = {}, 0
    for root in old.roots:
        starts[at] = root
        at += 1 << (old.size - at).bit_length() - 1

    def node(low: int, high: int) -> bytes:
        if high <= old.size:
            return starts[low]
        new = Frontier()
        for leaf in hashes[low - old.size : high - old.size]:
            new.append(leaf)
        return new.root()

    return _consistency(old.size, old.size + len(hashes), node)


def root_of_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root that a proof leads to (RFC 9162, 2.1.3.2). Raises Malformed when it is no proof of that leaf."""
    if not 0 <= index < size:
        raise Malformed("the leaf is not in a tree of that size")
    at, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            raise Malformed("the proof is too long")
        if at & 1 or at == last:
            found = node_hash(step, found)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            found = node_hash(found, step)
        at >>= 1
        last >>= 1
    if last:
        raise Malformed("the proof is too short")
    return found


def check_consistency(old: tuple[int, bytes], new: tuple[int, bytes], proof: Sequence[bytes]) -> None:
    """That the tree ``new`` (size, root) begins with ``old`` (RFC 9162, 2.1.4.2). Raises Malformed when it does not."""
    (old_size, old_root), (size, root) = old, new
    if old_size > size:
        raise Malformed("the tree has shrunk")
    if old_size in (0, size):
        same = old_root == (root if old_size else EMPTY_ROOT)
        if proof or not same:
            raise Malformed("two roots of one size")
        return
    steps = list(proof)
    if old_size & (old_size - 1) == 0:
        steps.insert(0, old_root)
    if not steps:
        raise Malformed("the proof is too short")
    at, last = old_size - 1, size - 1
    while at & 1:
        at >>= 1
        last >>= 1
    first = second = steps[0]
    for step in steps[1:]:
        if last == 0:
            raise Malformed("the proof is too long")
        if at & 1 or at == last:
            first, second = node_hash(step, first), node_hash(step, second)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            second = node_hash(second, step)
        at >>= 1
        last >>= 1
    if last or first != old_root or second != root:
        raise Malformed("the later tree does not begin with the earlier one")


def root_with(leaves: Iterable[bytes], runs: Sequence[Run], size: int, outside: Sequence[bytes]) -> bytes:
    """The root of a tree of ``size`` leaves, of which ``leaves`` (hashes, in order) stand at ``runs`` and ``outside``
    are the subtrees between them. Raises Malformed when there are too few or too many of either."""
    check_runs(runs, size)
    left = {"leaves": iter(leaves), "outside": iter(outside)}
    starts = [a for a, _ in runs]

    def take(kind: str) -> bytes:
        found = next(left[kind], None)
        if found is None:
            raise Malformed(f"too few {kind}")
        return found

    def node(low: int, high: int) -> bytes:
        if not _meets(runs, starts, low, high):
            return take("outside")
        if high - low == 1:
            return take("leaves")
        middle = low + _split(high - low)
        return node_hash(node(low, middle), node(middle, high))

    found = node(0, size) if size else EMPTY_ROOT
    for kind, rest in left.items():
        if next(rest, None) is not None:
            raise Malformed(f"too many {kind}")
    return found


def runs_of(indexes: Iterable[int]) -> list[Run]:
    """Rising indexes as runs."""
    runs: list[Run] = []
    for index in indexes:
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs


def check_runs(runs: Sequence[Run], size: int) -> None:
    """That runs rise, do not touch, and lie in the tree. Raises Malformed."""
    end = -1
    for low, high in runs:
        if not end < low < high <= size:
            raise Malformed("runs of leaves that do not rise, or leave the tree")
        end = high


def _consistency(old: int, size: int, node: Callable[[int, int], bytes]) -> list[bytes]:
    if old in (0, size):
        return []
    proof = []
    low, high = 0, size
    while old != high:
        middle = low + _split(high - low)
        if old <= middle:
            proof.append(node(middle, high))
            high = middle
        else:
            proof.append(node(low, middle))
            low = middle
    if low:
        proof.append(node(low, high))
    return proof[::-1]


def _gaps(runs: Sequence[Run], size: int) -> Iterator[Run]:
    starts = [a for a, _ in runs]
    todo = [(0, size)] if size else []
    while todo:
        low, high = todo.pop()
        if not _meets(runs, starts, low, high):
            yield low, high
        elif high - low > 1:
            middle = low + _split(high - low)
            todo += [(middle, high), (low, middle)]


def _meets(runs: Sequence[Run], starts: Sequence[int], low: int, high: int) -> bool:
    at = bisect_right(starts, high - 1) - 1  # the last run that begins before the end
    return at >= 0 and runs[at][1] > low


def _split(count: int) -> int:
    """The largest power of two below ``count``."""
    return 1 << ((count - 1).bit_length() - 1)
