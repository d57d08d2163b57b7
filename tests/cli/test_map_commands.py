"""The map's commands as a project's CI runs them."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
from tests.cli.desk import Desk
from tests.conftest import ROOT

from domicile.cli.map_commands import github_lines
from domicile.commands.maps import MapCheck, PlacedFinding
from domicile.survey.datamap_file import parse
from domicile.survey.finding import Level


def test_a_map_through_its_life(desk: Desk) -> None:
    made = desk.domicile("survey", "app", "--site", "beijing", "-o", "mine.yaml")
    assert made.code == 0, made.err
    text = (desk.folder / "mine.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=datamap.schema.json\n")
    schema = (desk.folder / "datamap.schema.json").read_text()
    assert schema == (ROOT / "schemas" / "datamap.schema.json").read_text() == desk.domicile("map", "schema").out
    assert "      email: user.contact.email\n" in text
    (desk.folder / "app.map.yaml").write_text(text)

    same = desk.domicile("survey", "app", "--site", "beijing", "--update", "app.map.yaml")
    assert (same.code, same.out) == (0, "")
    assert "nothing is new" in same.err
    assert (desk.folder / "app.map.yaml").read_text() == text

    with psycopg.connect(desk.source, autocommit=True) as conn:
        conn.execute("alter table app.note add phone text")
        conn.execute("create table app.tag (id bigint primary key, label text)")
    refused = desk.domicile("map", "check", "app", "--site", "beijing", "--annotations", "github")
    assert refused.code == 3
    line = text.splitlines().index("  app.note:") + 1
    start = f"::error file=app.map.yaml,line={line},title=domicile map check::app.note: column phone is not classified"
    assert start in refused.out
    assert (
        "::error file=app.map.yaml,line=1,title=domicile map check::app.tag: is not in the data map%0A" in refused.out
    )
    as_json = desk.domicile("map", "check", "app", "--site", "beijing", "--json", GITHUB_ACTIONS="true")
    assert {(f["table"], f["line"]) for f in as_json.json["findings"] if f["level"] == "error"} == {
        ("app.note", line),
        ("app.tag", 1),
    }
    assert as_json.json["file"].endswith("app.map.yaml")
    assert start in as_json.err

    updated = desk.domicile("survey", "app", "--site", "beijing", "--update", "app.map.yaml")
    assert "tables added: app.tag" in updated.err
    assert "columns added: app.note.phone" in updated.err
    assert desk.domicile("map", "check", "app", "--site", "beijing").code == 0

    exported = desk.domicile("map", "export", "app", "--format", "fides", "-o", "app.fides.yml")
    assert exported.code == 0, exported.err
    imported = desk.domicile("map", "import", "app.fides.yml")
    assert imported.code == 0, imported.err
    assert "undecided: none" in imported.err
    assert parse(imported.out).tables == parse((desk.folder / "app.map.yaml").read_text()).tables


def test_annotations_escape_what_github_reads() -> None:
    finding = PlacedFinding(Level.INFO, 'a."x:y,%"', "50% of it\nis odd", "", 0, 7)
    lines = list(github_lines(MapCheck("/repo/maps/a,b.yaml", (finding,)), Path("/repo")))
    assert lines == ['::notice file=maps/a%2Cb.yaml,line=7,title=domicile map check::a."x:y,%25": 50%25 of it%0Ais odd']
    assert json.dumps(lines)
