"""Notes, checkpoints, proofs, envelopes and statements, against the vectors that their specifications give."""

from __future__ import annotations

from dataclasses import fields, replace
import json

import pytest
from tests.evidence.both import tool
from tests.evidence.story import NOON, SITES, SUBJECT, Story, digest, opening, seed, site, source_acts, target_acts

from domicile.evidence import checkpoint, commit, dsse, note, statement, strict
from domicile.evidence.checkpoint import Checkpoint
from domicile.evidence.ledger import Witness
from domicile.evidence.note import KeyType, Signer, parse_key, parse_note
from domicile.evidence.statement import KINDS, Hex, Statement, Subject
from domicile.evidence.strict import Malformed

# golang.org/x/mod/sumdb/note, package example.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = """If you think cryptography is the answer to your problem,
then you don't know what your problem is.

— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
"""
# c2sp.org/tlog-cosignature.
C2SP_CHECKPOINT = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/"
    "Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZ"
    "qhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)
# RFC 8032, section 7.1, tests 1 to 3: public key, message, signature.
RFC_8032 = (
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
)


def test_a_note_signed_by_another_implementation() -> None:
    key, found = parse_key(GO_KEY), parse_note(GO_NOTE.encode())
    assert checkpoint.is_signed(found, key)
    assert found.encode() == GO_NOTE
    assert key.text() == GO_KEY
    assert not checkpoint.is_signed(replace(found, text=found.text.replace("your", "my")), key)


def test_the_checkpoint_of_the_specification() -> None:
    found = parse_note(C2SP_CHECKPOINT.encode())
    head = checkpoint.read(found)
    assert (head.origin, head.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert head.text() == found.text
    assert found.encode() == C2SP_CHECKPOINT
    stamp = int.from_bytes(found.signatures[1].raw[:8])
    assert stamp == 1_679_315_147
    assert tool.read_checkpoint(C2SP_CHECKPOINT.encode())["root"] == head.root


def test_dsse_s_own_vector() -> None:
    wanted = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == wanted


@pytest.mark.parametrize(("public", "message", "signature"), RFC_8032)
def test_the_single_file_s_ed25519(public: str, message: str, signature: str) -> None:
    key, said, raw = (bytes.fromhex(x) for x in (public, message, signature))
    assert tool.signed_by(key, raw, said)
    assert not tool.signed_by(key, raw, said + b"x")
    for at in (0, 31, 32, 63):
        assert not tool.signed_by(key, raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :], said)
    s = int.from_bytes(raw[32:], "little") + tool.L  # the same signature, were its bound not checked
    assert not tool.signed_by(key, raw[:32] + s.to_bytes(32, "little"), said)
    assert not tool.signed_by(key, raw[:-1], said)


def test_a_tlog_proof_stands_alone() -> None:
    story = Story()
    ledger, note_ = story.us.ledger, story.notes[SITES[1]][-1]
    for index in range(len(ledger.leaves)):
        raw = ledger.proof(index, note_).encode().encode()
        assert raw.startswith(b"c2sp.org/tlog-proof@v1\nindex %d\n" % index)
        found = checkpoint.parse_proof(raw)
        assert found.check(ledger.leaves[index], ledger.key, story.keys) == {SITES[0]: NOON + 100}
        with pytest.raises(Malformed, match="not in the log"):
            found.check(ledger.leaves[index - 1], ledger.key)
        with pytest.raises(Malformed, match="not signed"):
            found.check(ledger.leaves[index], story.eu.ledger.key)
    extra = raw.replace(b"index", b"extra YQ==\nindex", 1)
    assert checkpoint.parse_proof(extra) == found


def test_a_site_is_not_its_own_witness() -> None:
    one = site(SITES[0])
    note_ = one.ledger.checkpoint()
    own = one.witness.cosign(note_, one.ledger.key, [], NOON)
    assert checkpoint.cosignature_times(own, [one.witness.key]) == {}


def test_a_witness_refuses_a_log_that_shrinks_or_forks() -> None:
    """The forked log shown to two parties: the witness of both sees it."""
    one, twin, witness = site(SITES[0]), site(SITES[0]), site(SITES[1]).witness
    for act in opening():
        one.ledger.record(SUBJECT, act)
    early = one.ledger.checkpoint()
    for act in source_acts(0):
        one.ledger.record(SUBJECT, act)
        twin.ledger.record(SUBJECT, act)
    witness.cosign(early, one.ledger.key, [], NOON)
    later = one.ledger.checkpoint()
    with pytest.raises(Malformed, match="forked"):
        witness.cosign(twin.ledger.checkpoint(), one.ledger.key, twin.ledger.tree.consistency(3), NOON)
    witness.cosign(later, one.ledger.key, one.ledger.tree.consistency(3), NOON)
    with pytest.raises(Malformed, match="rolled back"):
        witness.cosign(early, one.ledger.key, [], NOON)
    with pytest.raises(Malformed, match="not signed"):
        witness.cosign(later, site(SITES[0], "stranger").ledger.key, [], NOON)
    witness.cosign(later, one.ledger.key, [], NOON + 1)  # the same again is no growth, and no harm


def test_every_kind_of_statement_is_read_back() -> None:
    acts = [*opening(), *source_acts(0), *target_acts(0)]
    acts.append(KINDS["rollback"](**{f.name: getattr(acts[-1], f.name) for f in fields(acts[-1])}))
    acts.append(KINDS["abort"]("us", NOON, 1))  # type: ignore[call-arg]
    acts.append(KINDS["gap"]("us", NOON, 1, 2, digest("root")))  # type: ignore[call-arg]
    assert {a.kind for a in acts} == KINDS.keys()
    for number, act in enumerate(acts):
        said = Statement(SUBJECT, number, digest("before"), act)
        raw = said.encode()
        assert statement.decode(raw) == said
        assert tool.read_act(raw)["kind"] == act.kind
        found = json.loads(raw)
        assert found["_type"] == "https://in-toto.io/Statement/v1"
        assert found["subject"] == [{"name": "spring", "digest": {"sha256": SUBJECT.plan}}]


def test_both_verifiers_know_the_same_fields() -> None:
    letters = {"int": "i", "Hex": "h", "str": "w"}
    for kind, act in KINDS.items():
        ours = {f.name: letters[str(f.type)] for f in fields(act)}
        theirs = dict(f.split(":") for f in f"site:w time:i {tool.FIELDS[kind]}".split())
        assert ours == theirs
    assert tool.FIELDS.keys() == KINDS.keys()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"rows":21', b'"rows":21,"rows":21'),
        (b'"rows":21', b'"rows":21.0'),
        (b'"rows":21', b'"rows":-1'),
        (b'"rows":21', b'"rows":true'),
        (b'"rows":21', b'"rows":"21"'),
        (b'"rows":21', b'"rows": 21'),
        (b'"rows":21', b'"rows":99999999999999999999'),
        (b'"rows":21', b'"rows":NaN'),
        (b'"rows":21,', b""),
        (b'"rows":21', b'"note":"Ada","rows":21'),
        (b'"site":"eu"', b'"site":"ada@example.com"'),
        (b'"site":"eu"', b'"site":"\\u0065u"'),
        (b"evidence:copy:v1", b"evidence:copy:v2"),
        (b"Statement/v1", b"Statement/v0.1"),
        (b'"name":"spring"', b'"name":"spring","uri":"x"'),
    ],
)
def test_a_statement_has_one_form(old: bytes, new: bytes) -> None:
    raw = Statement(SUBJECT, 0, statement.FIRST, target_acts(0)[0]).encode()
    assert old in raw
    bad = raw.replace(old, new)
    with pytest.raises(Malformed):
        statement.decode(bad)
    with pytest.raises(tool.Refused):
        tool.read_act(bad)


def test_a_statement_takes_no_free_text() -> None:
    act = replace(target_acts(0)[0], site="Ada Lovelace <ada@example.com>")
    with pytest.raises(Malformed, match="other characters"):
        Statement(SUBJECT, 0, statement.FIRST, act).encode()
    with pytest.raises(Malformed):
        Statement(Subject("spring", Hex("short")), 0, statement.FIRST, target_acts(0)[0]).encode()


def test_deep_nesting_is_refused() -> None:
    for reader in (strict.parse, tool.canonical_json):
        with pytest.raises((Malformed, tool.Refused)):
            reader(b"[" * 60_000 + b"]" * 60_000)


def test_a_commitment_opens_with_its_salt_only() -> None:
    salt = seed("salt")
    said = commit.commitment(salt, b"42")
    assert commit.opens(said, salt, b"42")
    assert not commit.opens(said, seed("another"), b"42")
    assert not commit.opens(said, salt, b"43")
    # RFC 4231, test case 1 has another key length; HMAC itself is the standard library's.
    assert commit.cohort_commitment(["b", "a"]) == commit.cohort_commitment(["a", "b"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no signatures\n",
        GO_NOTE.replace("— ", "- "),
        GO_NOTE.replace("AM=\n", "AN=\n"),  # stray bits
        GO_NOTE + "\n",
        GO_NOTE[:-1],
        GO_NOTE.replace("problem,", "problem,\t"),
        GO_NOTE + GO_NOTE.splitlines(keepends=True)[-1] * note.SIGNATURES_MAX,
        GO_NOTE.replace("x08go/ZJ", "x08go_ZJ"),
    ],
)
def test_a_note_has_one_form(text: str) -> None:
    with pytest.raises(Malformed):
        parse_note(text.encode())


@pytest.mark.parametrize("size", ["-1", "01", "", "1e3", "٣", "99999999999999999", " 1"])
def test_a_checkpoint_s_size_is_a_plain_number(size: str) -> None:
    head = Checkpoint("a.example", 1, bytes(32)).text().replace("\n1\n", f"\n{size}\n")
    with pytest.raises(Malformed):
        checkpoint.read(note.signed(head, Signer("a.example", KeyType.LOG, seed("a"))))


def test_a_key_says_its_own_id() -> None:
    for bad in (GO_KEY.replace("c74f20a3", "c74f20a4"), GO_KEY[:-4], GO_KEY.replace("+AR", "+CR"), "a b+" + GO_KEY):
        with pytest.raises(Malformed):
            parse_key(bad)
        with pytest.raises(tool.Refused):
            tool.read_keys(bad.encode())


def test_keys_are_kept_apart() -> None:
    witness = Witness(Signer("a.example", KeyType.WITNESS, seed("x")))
    assert witness.key.id != Signer("a.example", KeyType.LOG, seed("x")).key.id
