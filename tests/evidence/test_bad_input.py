"""Files that are no bundle: refused in bounded time and room, with a reason."""

from __future__ import annotations

import io
import zipfile

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
from tests.evidence.both import judged
from tests.evidence.story import Story

from domicile.evidence import bundle
from domicile.evidence.bundle import pack, unpack
from domicile.evidence.verify import verify

STORY = Story()
GOOD = STORY.bundle()
CONTAINER = ("refuted", "container")


def archive(entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    """As another program writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, raw in entries:
            made.writestr(zipfile.ZipInfo(name), raw, method)
        made.comment = comment
    return file.getvalue()


def test_any_tool_opens_a_bundle() -> None:
    with zipfile.ZipFile(io.BytesIO(GOOD)) as found:
        assert found.testzip() is None
        assert {i.filename: found.read(i) for i in found.infolist()} == unpack(GOOD)


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 29, 30, 40, 100, len(GOOD) // 2, len(GOOD) - 22, len(GOOD) - 1])
def test_a_truncated_bundle(cut: int) -> None:
    assert judged(GOOD[:cut], STORY.keys) == CONTAINER


def test_more_than_a_bundle() -> None:
    assert judged(GOOD + b"\n", STORY.keys) == CONTAINER
    assert judged(b"#!/bin/sh\n" + GOOD, STORY.keys) == CONTAINER
    assert judged(GOOD + GOOD, STORY.keys) == CONTAINER


def test_a_zip_bomb() -> None:
    files = unpack(GOOD)
    bomb = archive([*((n, r) for n, r in files.items() if n != bundle.KEYS), (bundle.KEYS, bytes(50_000_000))], 8)
    assert len(bomb) < 100_000
    assert judged(bomb, STORY.keys) == CONTAINER
    boast = bytearray(GOOD)
    boast[18:26] = b"\xff" * 8  # an entry that claims four gigabytes
    assert judged(bytes(boast), STORY.keys) == CONTAINER


def test_other_archives_of_the_same_files() -> None:
    entries = sorted(unpack(GOOD).items())
    assert judged(archive(entries), STORY.keys) == CONTAINER
    assert judged(archive(entries, comment=b"hello"), STORY.keys) == CONTAINER
    assert judged(archive(entries[::-1]), STORY.keys) == CONTAINER


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "log-0/../x", "log-9/checkpoint", "é", "", "a" * 7]
)
def test_an_entry_that_does_not_belong(name: str) -> None:
    raw = bundle._local(name, b"x") + b"x"
    at = bundle._central(name, b"x", 0) if name.isascii() else b""
    assert judged(raw + at + bundle._end(1, len(at), len(raw)), STORY.keys) == CONTAINER


def test_an_entry_twice() -> None:
    once = bundle._local(bundle.KEYS, b"x") + b"x"
    both = bundle._central(bundle.KEYS, b"x", 0) + bundle._central(bundle.KEYS, b"x", len(once))
    assert judged(once + once + both + bundle._end(2, len(both), 2 * len(once)), STORY.keys) == CONTAINER


def test_a_huge_file_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "BYTES_MAX", len(GOOD) - 1)
    assert verify(GOOD, STORY.keys).failed == "container"


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        (bundle.KEYS, b"\xff"),
        (bundle.KEYS, b""),
        (bundle.KEYS, b"a+00000000+AAAA\n"),
        (bundle.KEYS, unpack(GOOD)[bundle.KEYS] * 2),
        (bundle.MANIFEST, b"{}"),
        (bundle.MANIFEST, b"[" * 200_000),
        (bundle.MANIFEST, unpack(GOOD)[bundle.MANIFEST].replace(b'{"payload"', b'{"payload":"YQ==","payload"')),
        ("log-0/checkpoint", b"a\n1\n\n"),
        ("log-0/history.json", b"[" * 200_000 + b"]" * 200_000),
        ("log-0/history.json", b'[{"checkpoint":"a","checkpoint":"b","growth":[]}]'),
        ("log-0/history.json", b"{}"),
        ("log-0/history.json", b'[{"checkpoint":1,"growth":[]}]'),
        ("log-0/history.json", b'[{"checkpoint":"a","growth":[1]}]'),
        ("log-0/history.json", b'[{"checkpoint":"\\ud800","growth":[]}]'),
        ("log-0/history.json", b"\xef\xbb\xbf[]"),
        ("log-0/tree.txt", b"leaves 0 99999999999999999999\n"),
        ("log-0/tree.txt", b"leaves 0 1000000000\n"),
        ("log-0/tree.txt", b"leaves 3 1\n"),
        ("log-0/tree.txt", b"leaves 0 4\nnot base64\n"),
        ("log-0/tree.txt", "leaves 0 ٤\n".encode()),
        ("log-0/tree.txt", b"\xff\n"),
        ("log-0/leaves.jsonl", b"\n" * 5),
        ("log-0/leaves.jsonl", b"no end"),
        ("log-0/leaves.jsonl", b"\n" * (bundle.LINES_MAX + 1)),
        ("log-0/tree.txt", b"\n" * (bundle.LINES_MAX + 1)),
        ("log-0/tree.txt", b"".join(b"leaves %d %d\n" % (5 * n, 5 * n + 4) for n in range(1_000))),
        ("log-0/history.json", b"[" + b"[]," * (bundle.HISTORY_BYTES_MAX // 3) + b"[]]"),
        ("log-0/history.json", b"[1]"),
    ],
)
def test_a_part_of_another_form(name: str, raw: bytes) -> None:
    assert judged(pack({**unpack(GOOD), name: raw}), STORY.keys) == CONTAINER


@pytest.mark.parametrize(
    "leaf",
    [b"", b"{}", b"x" * 70_000, b'{"payload":"YQ==","payload":"YQ=="}', b"[" * 60_000, b"\xff" * 10],
)
def test_a_leaf_of_another_form(leaf: bytes) -> None:
    files = unpack(GOOD)
    rest = files["log-0/leaves.jsonl"].split(b"\n")[1:]
    bad = pack({**files, "log-0/leaves.jsonl": b"\n".join([leaf, *rest])})
    assert judged(bad, STORY.keys) == ("refuted", "envelope")


def test_the_reason_is_given() -> None:
    files = unpack(GOOD)
    rest = files["log-0/leaves.jsonl"].split(b"\n")[1:]
    bad = pack({**files, "log-0/leaves.jsonl": b"\n".join([b'{"payload":"YQ==","payload":"YQ=="}', *rest])})
    report = verify(bad, STORY.keys)
    assert report.failed == "envelope"
    assert any("duplicate keys" in c.why for c in report.checks)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused(raw: bytes) -> None:
    assert judged(raw) == CONTAINER


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(unpack(GOOD))), st.binary(max_size=120), st.floats(0, 1))
def test_any_bytes_in_any_file_are_refused(name: str, raw: bytes, where: float) -> None:
    files = unpack(GOOD)
    at = int(where * len(files[name]))
    changed = files[name][:at] + raw + files[name][at + len(raw) :]
    if changed != files[name]:
        assert judged(pack({**files, name: changed}), STORY.keys)[0] == "refuted"
