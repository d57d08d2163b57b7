"""Bundles that were tampered with: each is refuted, by the check that it should be, and by both verifiers alike."""

from __future__ import annotations

from dataclasses import replace
import random

import pytest
from tests.evidence.both import judged, tool
from tests.evidence.story import NOON, OTHER, SITES, SUBJECT, Story, digest, resigned, source_acts, without

from domicile.evidence import bundle, checkpoint, dsse
from domicile.evidence.bundle import Earlier, pack, unpack
from domicile.evidence.ledger import Head, Ledger, seal_leaf
from domicile.evidence.merkle import leaf_hash
from domicile.evidence.note import Signer
from domicile.evidence.statement import Copy
from domicile.evidence.verify import CHECKS, verify

SAMPLED = 40  # of the bytes within entries, through both verifiers


@pytest.fixture(scope="module")
def story() -> Story:
    return Story()


def test_a_good_bundle_is_proven(story: Story) -> None:
    raw = story.bundle()
    assert judged(raw, story.keys) == ("proven", "")
    assert judged(raw, story.keys, story.notes[SITES[0]] + story.notes[SITES[1]]) == ("proven", "")
    report = verify(raw, story.keys)
    assert [c.name for c in report.checks] == list(CHECKS) == tool.CHECKS
    assert report.figures["rows_purged"] == 42
    assert report.figures["pause_us_max"] == 3_100
    assert any("residuals" in line for line in report.not_shown)


def test_a_bundle_is_the_same_every_time(story: Story) -> None:
    assert story.bundle() == Story().bundle()


def test_without_keys_it_is_not_anchored(story: Story) -> None:
    assert judged(story.bundle()) == ("unanchored", "")


def test_every_byte_counts(story: Story) -> None:
    """Every byte of the file flipped, in one bit each: the archive itself shows it."""
    raw = bytearray(story.bundle())
    for at in range(len(raw)):
        raw[at] ^= 1 << at % 8
        assert verify(bytes(raw), story.keys).failed == "container", at
        raw[at] ^= 1 << at % 8


def test_every_byte_counts_under_a_new_checksum(story: Story) -> None:
    """Bytes within entries flipped, and the archive made anew around them: the signatures show it."""
    files = unpack(story.bundle())
    draw = random.Random(6)
    places = [(name, at) for name, raw in files.items() for at in range(len(raw))]
    found = set()
    for name, at in draw.sample(places, SAMPLED):
        raw = bytearray(files[name])
        raw[at] ^= 1 << draw.randrange(8)
        verdict, check = judged(pack({**files, name: bytes(raw)}), story.keys)
        assert verdict == "refuted", (name, at)
        found.add(check)
    assert {"container", "envelope", "manifest"} <= found


def test_every_file_counts(story: Story) -> None:
    files = unpack(story.bundle())
    for name in files:
        assert judged(pack({n: r for n, r in files.items() if n != name}), story.keys) == ("refuted", "container")
        assert judged(pack({**files, name: b""}), story.keys)[0] == "refuted"
    assert judged(pack({**files, "log-2/checkpoint": files["log-1/checkpoint"]}), story.keys)[1] == "container"


def test_a_leaf_that_is_dropped(story: Story) -> None:
    """Even by who has the keys: the next one names it, and the last one is named by the manifest's count."""
    for place in (0, 1, 7, 13):
        assert judged(without(story, 1, place), story.keys) == ("refuted", "chain")
    part = story.parts()[1]
    cut = replace(part, leaves=part.leaves[:-1])
    files = {**unpack(story.bundle()), **_files(cut, 1)}
    assert judged(pack(files), story.keys)[1] == "container"  # as many leaves as the tree says
    last = without(story, 1, 22)
    files = unpack(story.bundle()) | {n: r for n, r in unpack(last).items() if n.startswith("log-1/")}
    assert judged(pack(files), story.keys) == ("refuted", "manifest")


def test_leaves_in_another_order(story: Story) -> None:
    leaves = list(story.parts()[1].leaves)
    leaves[3], leaves[4] = leaves[4], leaves[3]
    assert judged(resigned(story, 1, leaves=tuple(leaves)), story.keys) == ("refuted", "chain")
    leaves = list(story.parts()[1].leaves)
    leaves[4] = leaves[3]
    assert judged(resigned(story, 1, leaves=tuple(leaves)), story.keys) == ("refuted", "chain")


def test_a_leaf_that_was_never_logged(story: Story) -> None:
    part = story.parts()[0]
    head = Head(len(part.leaves), digest(""))
    head = replace(head, previous=type(head.previous)(leaf_hash(part.leaves[-1]).hex()))
    leaf, _ = seal_leaf(SUBJECT, head, Copy("eu", NOON, 1, 5, 5), story.eu.log_signer)
    more = resigned(story, 0, leaves=(*part.leaves, leaf), runs=(*part.runs[:-1], (part.runs[-1][0], 6)))
    assert judged(more, story.keys) == ("refuted", "inclusion")


def test_leaves_replayed_from_another_move(story: Story) -> None:
    parts = story.parts(OTHER)
    assert judged(story.bundle(parts), story.keys) == ("refuted", "move")
    leaves = (*story.parts()[1].leaves[:-1], parts[1].leaves[0])
    assert judged(resigned(story, 1, leaves=leaves), story.keys) == ("refuted", "move")


def test_leaves_of_the_other_log(story: Story) -> None:
    parts = story.parts()
    assert judged(resigned(story, 0, leaves=parts[1].leaves[:4]), story.keys) == ("refuted", "envelope")


def test_a_checkpoint_rolled_back(story: Story) -> None:
    notes = story.notes[SITES[1]]
    part = story.parts()[1]
    assert judged(resigned(story, 1, note=notes[1]), story.keys)[0] == "refuted"
    assert judged(resigned(story, 1, note=notes[0], history=part.history[:1]), story.keys)[0] == "refuted"
    back = (part.history[1], part.history[0])
    assert judged(resigned(story, 1, history=back), story.keys) == ("refuted", "history")
    dropped = (replace(part.history[0]),)
    assert judged(resigned(story, 1, history=dropped), story.keys) == ("refuted", "history")  # proof of another step


def test_rolled_back_whole_by_its_maker(story: Story) -> None:
    """All of it remade, an earlier state of the log: true as far as it goes. Who saw a later checkpoint sees it."""
    short = Story(waves=1)
    assert judged(short.bundle(), story.keys) == ("proven", "")
    later = story.notes[SITES[1]][-1]
    assert judged(short.bundle(), story.keys, [later]) == ("refuted", "seen")


def test_a_forked_log_shown_to_two_parties() -> None:
    """Two histories of one length, each cosigned by a witness that was deceived or took part: the parties compare."""
    one, two = Story(), Story()
    two.us.ledger.record(SUBJECT, source_acts(1)[0])
    one.us.ledger.record(OTHER, source_acts(1)[0])
    for told in (one, two):
        told.cosign()
    assert judged(one.bundle(), one.keys) == judged(two.bundle(), one.keys) == ("proven", "")
    for mine, yours in ((one, two), (two, one)):
        assert judged(mine.bundle(), one.keys, [yours.notes[SITES[1]][-1]]) == ("refuted", "seen")


def test_a_fork_within_a_bundle(story: Story) -> None:
    twin = Story(secret="")
    twin.us.ledger.record(OTHER, Copy("us", NOON, 9, 9, 9))
    other = Ledger(story.us.log_signer)
    for act in source_acts(0):
        other.record(SUBJECT, act)
    part = story.parts()[1]
    alien = Earlier(other.checkpoint(), part.history[-1].growth)
    assert judged(resigned(story, 1, history=(alien,)), story.keys) == ("refuted", "history")


def test_checkpoints_that_cannot_be_compared_are_named(story: Story) -> None:
    short = story.us.ledger.tree
    between = checkpoint.Checkpoint(SITES[1], 7, short.root(7))
    note = checkpoint.issue(between, story.us.log_signer)
    report = verify(story.bundle(), story.keys, [note])
    assert report.outcome == "proven"
    assert any("no proof is here" in line for line in report.not_shown)


def test_signed_by_an_unknown_key(story: Story) -> None:
    stranger = Story(secret="stranger")
    assert judged(stranger.bundle(), story.keys) == ("refuted", "checkpoint")
    assert judged(stranger.bundle(), story.keys[:1]) == ("refuted", "checkpoint")
    assert judged(stranger.bundle()) == ("unanchored", "")


def test_cosigned_by_nobody_that_is_trusted(story: Story) -> None:
    logs_only = [k for k in story.keys if k.type == 1]
    assert judged(story.bundle(), logs_only) == ("refuted", "cosignature")
    bare = replace(story.parts()[0].note, signatures=story.parts()[0].note.signatures[:1])
    assert judged(resigned(story, 0, note=bare), story.keys) == ("refuted", "cosignature")
    own = checkpoint.cosigned(bare, story.eu.witness._signer, NOON)
    assert judged(resigned(story, 0, note=own), story.keys) == ("refuted", "cosignature")
    false = replace(own.signatures[1], name=SITES[1], key_id=story.us.witness.key.id)
    assert judged(resigned(story, 0, note=replace(bare, signatures=(*bare.signatures, false))), story.keys) == (
        "refuted",
        "cosignature",
    )


def test_a_witness_s_key_signs_nothing_of_the_log(story: Story) -> None:
    """It bears the log's name, and is trusted, for cosigning others' checkpoints alone."""
    part, witness = story.parts()[1], story.us.witness._signer
    assert witness.key.name == SITES[1]
    head = checkpoint.issue(checkpoint.read(part.note), witness)
    by_witness = replace(part.note, signatures=(*head.signatures, *part.note.signatures[1:]))
    assert judged(resigned(story, 1, note=by_witness), story.keys) == ("refuted", "checkpoint")
    sealed = dsse.seal(dsse.parse(part.leaves[4]).payload, witness)
    leaves = (*part.leaves[:4], sealed, *part.leaves[5:])
    assert judged(resigned(story, 1, leaves=leaves), story.keys) == ("refuted", "envelope")
    earlier = replace(part.history[0], note=checkpoint.issue(checkpoint.read(part.history[0].note), witness))
    assert judged(resigned(story, 1, history=(earlier, *part.history[1:])), story.keys) == ("refuted", "history")


def test_a_true_signature_does_not_excuse_a_false_one(story: Story) -> None:
    """Two lines in the name of one key: readers who look at one line each must not come to two answers."""
    note = story.parts()[0].note
    true, *others = note.signatures
    false = replace(true, raw=true.raw[:-1] + bytes([true.raw[-1] ^ 1]))
    for both in ((true, false), (false, true)):
        doubled = replace(note, signatures=(*both, *others))
        assert judged(resigned(story, 0, note=doubled), story.keys) == ("refuted", "checkpoint")


def test_an_earlier_checkpoint_that_the_log_has_not_signed(story: Story) -> None:
    """Its size and root are true: what is wrong is who says so."""
    part = story.parts()[1]
    stranger = Story(secret="stranger").us.log_signer
    alien = replace(part.history[0], note=checkpoint.issue(checkpoint.read(part.history[0].note), stranger))
    assert judged(resigned(story, 1, history=(alien, *part.history[1:])), story.keys) == ("refuted", "history")


def test_a_checkpoint_that_was_brought_and_is_nobody_s(story: Story) -> None:
    """Whoever was given one that the log has not signed was deceived, and hears of it; also where its root is true, and
    where nothing here can be compared with it."""
    stranger = Story(secret="stranger")
    true = checkpoint.read(story.notes[SITES[1]][-1])
    for size, root in ((true.size, true.root), (7, story.us.ledger.tree.root(7))):
        note = checkpoint.issue(checkpoint.Checkpoint(SITES[1], size, root), stranger.us.log_signer)
        assert judged(story.bundle(), story.keys, [note]) == ("refuted", "seen")


def test_a_manifest_of_a_stranger(story: Story) -> None:
    signer = Story(secret="stranger").us.log_signer
    assert judged(bundle.build(SUBJECT, story.parts(), story.keys, signer), story.keys) == ("refuted", "manifest")
    witness: Signer = story.us.witness._signer
    assert judged(bundle.build(SUBJECT, story.parts(), story.keys, witness), story.keys) == ("refuted", "manifest")


@pytest.mark.parametrize(
    ("old", "new", "check"),
    [
        (b'"format":1', b'"format":true', "container"),
        (b'"format":1', b'"format":2', "container"),
        (b'"leaves":4', b'"leaves":4.0', "container"),
        (b'"leaves":4', b'"leaves":44444444444444444', "container"),
        (b'"leaves":4', b'"leaves":true', "manifest"),
        (b'"leaves":4', b'"leaves":3', "manifest"),
    ],
)
def test_a_manifest_that_says_something_else(story: Story, old: bytes, new: bytes, check: str) -> None:
    """Signed by who has the keys, too."""
    files = unpack(story.bundle())
    said = dsse.parse(files[bundle.MANIFEST]).payload
    assert old in said
    told = dsse.seal(said.replace(old, new), story.us.log_signer)
    assert judged(pack({**files, bundle.MANIFEST: told}), story.keys) == ("refuted", check)


def test_a_signature_of_another_length(story: Story) -> None:
    note = story.parts()[0].note
    for raw in (note.signatures[0].raw[:-1], note.signatures[0].raw + b"x", b"x"):
        short = replace(note.signatures[0], raw=raw)
        bad = replace(note, signatures=(short, *note.signatures[1:]))
        assert judged(resigned(story, 0, note=bad), story.keys) == ("refuted", "checkpoint")


def test_a_leaf_is_no_manifest(story: Story) -> None:
    files = unpack(story.bundle())
    leaf = story.parts()[1].leaves[0]
    assert judged(pack({**files, bundle.MANIFEST: leaf}), story.keys) == ("refuted", "container")
    as_leaf = resigned(story, 1, leaves=(files[bundle.MANIFEST], *story.parts()[1].leaves[1:]))
    assert judged(as_leaf, story.keys) == ("refuted", "envelope")


def test_a_forged_statement_of_an_outsider(story: Story) -> None:
    part = story.parts()[1]
    payload = dsse.parse(part.leaves[4]).payload.replace(b'"outcome":"equal"', b'"outcome":"better"')
    forged = dsse.seal(payload, Story(secret="stranger").us.log_signer)
    leaves = (*part.leaves[:4], forged, *part.leaves[5:])
    assert judged(resigned(story, 1, leaves=leaves), story.keys) == ("refuted", "envelope")


def _files(part: bundle.LogPart, place: int) -> dict[str, bytes]:
    return {f"log-{place}/{name}": raw for name, raw in bundle._encode_part(part).items()}
