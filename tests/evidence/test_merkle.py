"""The tree against the vectors of RFC 6962's reference implementation, and against its definition."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from domicile.evidence import merkle
from domicile.evidence.merkle import Frontier, Tree, leaf_hash, node_hash
from domicile.evidence.strict import Malformed

# Leaves and roots of certificate-transparency's merkle_tree_test.
LEAVES = [
    bytes.fromhex(h)
    for h in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
SIZE = 33


def hashes(count: int) -> list[bytes]:
    return [leaf_hash(b"%d" % n) for n in range(count)]


def grown(leaves: list[bytes]) -> Tree:
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree


def defined(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return node_hash(defined(leaves[:k]), defined(leaves[k:]))


def test_roots_of_the_reference() -> None:
    tree, frontier = Tree(), Frontier()
    assert tree.root() == frontier.root() == sha256(b"").digest()
    for leaf, root in zip(LEAVES, ROOTS, strict=True):
        tree.append(leaf_hash(leaf))
        frontier.append(leaf_hash(leaf))
        assert tree.root().hex() == frontier.root().hex() == root


def test_every_size_and_every_proof() -> None:
    leaves = hashes(SIZE)
    tree = grown(leaves)
    for size in range(SIZE + 1):
        root = tree.root(size)
        assert root == defined(leaves[:size])
        for index in range(size):
            proof = tree.inclusion(index, size)
            assert merkle.root_of_inclusion(leaves[index], index, size, proof) == root
        for old in range(size + 1):
            merkle.check_consistency((old, tree.root(old)), (size, root), tree.consistency(old, size))


def test_a_changed_proof_is_refused() -> None:
    leaves = hashes(SIZE)
    tree, other = grown(leaves), grown([leaf_hash(b"x"), *leaves[1:]])
    for size in range(2, SIZE + 1):
        for old in range(1, size):
            proof = tree.consistency(old, size)
            worse = [proof[:-1], [*proof, proof[0]], [bytes(32), *proof[1:]], [*proof[:-1], bytes(32)]]
            for bad in worse:
                with pytest.raises(Malformed):
                    merkle.check_consistency((old, tree.root(old)), (size, tree.root(size)), bad)
            with pytest.raises(Malformed):
                merkle.check_consistency((old, other.root(old)), (size, tree.root(size)), proof)
    for index in range(SIZE):
        proof = tree.inclusion(index)
        with pytest.raises(Malformed):
            merkle.root_of_inclusion(leaves[index], index, SIZE, proof[:-1])
        with pytest.raises(Malformed):
            merkle.root_of_inclusion(leaves[index], index, SIZE, [*proof, proof[0]])
        assert merkle.root_of_inclusion(leaves[index], index, SIZE, [bytes(32), *proof[1:]]) != tree.root()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.data())
def test_any_leaves_lead_to_the_root(size: int, data: st.DataObject) -> None:
    leaves = hashes(size)
    tree = grown(leaves)
    indexes = sorted(data.draw(st.sets(st.integers(0, size - 1))))
    runs = merkle.runs_of(indexes)
    outside = tree.outside(runs)
    chosen = [leaves[i] for i in indexes]
    assert merkle.root_with(chosen, runs, size, outside) == tree.root()
    for few, rest in ((chosen[1:], outside), (chosen, outside[1:])):
        if (few, rest) != (chosen, outside):
            with pytest.raises(Malformed, match="too few"):
                merkle.root_with(few, runs, size, rest)
    with pytest.raises(Malformed, match="too many"):
        merkle.root_with([*chosen, bytes(32)], runs, size, outside)


def test_a_bad_run_is_refused() -> None:
    for runs in ([(0, 0)], [(0, 2), (2, 3)], [(2, 3), (0, 1)], [(0, 9)], [(3, 1)]):
        with pytest.raises(Malformed):
            merkle.check_runs(runs, 8)


@pytest.mark.parametrize("old", range(SIZE))
def test_growth_is_proven_from_what_an_appender_keeps(old: int) -> None:
    leaves = hashes(SIZE)
    frontier = Frontier()
    for leaf in leaves[:old]:
        frontier.append(leaf)
    for size in range(old, SIZE + 1):
        assert merkle.growth(frontier, leaves[old:size]) == grown(leaves[:size]).consistency(old)
