"""What a person reads of a bundle: the walk through it, the certificate, the keys."""

from __future__ import annotations

import io
import json
from pathlib import Path
import subprocess
import sys

import pytest
from tests.evidence.story import Story

from domicile.cli import render_evidence
from domicile.cli.output import Output
from domicile.commands.evidence import Bundle, Told
from domicile.evidence import dsse, statement
from domicile.evidence.note import parse_keys
from domicile.evidence.verify import verify

CONFIG = """
version: 1
sites:
  beijing: {jurisdiction: CN, conninfo: "host=127.0.0.1"}
  singapore: {jurisdiction: SG, conninfo: "host=127.0.0.2"}
datasets:
  store: {map: store.map.yaml, at: [beijing, singapore]}
"""


def told() -> Bundle:
    story = Story()
    raw = story.bundle()
    said = [
        Told(part.note.text.split("\n")[0], place, statement.decode(dsse.parse(leaf).payload))
        for part in story.parts()
        for place, leaf in enumerate(part.leaves)
    ]
    return Bundle(raw, verify(raw, story.keys), tuple(said), story.keys)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_walk_through_a_bundle_fits(columns: int) -> None:
    out = io.StringIO()
    output = Output({"COLUMNS": str(columns)}, out)
    output.result({}, *render_evidence.story(told(), output.stdout.width))
    lines = out.getvalue().splitlines()
    assert [line for line in lines if len(line) > columns] == []
    for word in ("plan", "handover 0", "stepback 0", "pause 1", "purge 1", "residual", "proven"):
        assert any(word in line for line in lines), word


def test_a_certificate_says_whose_keys_they_were() -> None:
    page = told().certificate
    assert "the installation that made the bundle" in page
    assert "the examiner brought" not in page


def test_keys_are_printed_as_verifiers_read_them(tmp_path: Path) -> None:
    (tmp_path / "domicile.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "domicile", "evidence", "keys"]
    texts = [
        subprocess.run([*command, *more], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        for more in ([], [], ["--json"])
    ]
    assert texts[0] == texts[1], "made once"
    keys = parse_keys(texts[0].encode())
    assert [k.name for k in keys] == ["store/beijing/log"] * 2 + ["store/singapore/log"] * 2
    assert [text for both in json.loads(texts[2]).values() for text in both] == [k.text() for k in keys]
