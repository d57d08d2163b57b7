"""What the map's commands write: all of a file or nothing, and never over what somebody else wrote."""

from __future__ import annotations

from pathlib import Path
import stat
import time

import psycopg
import pytest
from tests.cli.desk import MAP, Desk

from domicile.cli.options import rewrite
from domicile.model.errors import DomicileError

NEW_COLUMN = "alter table app.account add phone text"
UPDATE = ("survey", "app", "--site", "beijing", "--update", "app.map.yaml")
SURVEY = ("survey", "app", "--site", "beijing")


def test_a_file_is_replaced_through_a_link_and_keeps_its_mode(tmp_path: Path) -> None:
    file, link = tmp_path / "kept" / "map.yaml", tmp_path / "map.yaml"
    file.parent.mkdir()
    file.write_bytes(b"old\r\n")
    file.chmod(0o640)
    link.symlink_to(file)
    rewrite(link, "new\r\n", b"old\r\n")
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode), link.is_symlink()) == (b"new\r\n", 0o640, True)
    with pytest.raises(DomicileError, match="has been changed since it was read"):
        rewrite(link, "newer", b"old\r\n")
    assert file.read_bytes() == b"new\r\n"
    assert [f.name for f in file.parent.iterdir()] == ["map.yaml"], "nothing is left behind"


def test_a_map_that_is_saved_meanwhile_is_kept(desk: Desk) -> None:
    file, theirs = desk.folder / "app.map.yaml", MAP + "# mine\n"
    with psycopg.connect(desk.source) as conn, psycopg.connect(desk.source, autocommit=True) as watch:
        watch.execute(NEW_COLUMN)
        conn.execute("lock table app.note in access exclusive mode")
        running = desk.start(*UPDATE)
        waits = "select 1 from pg_locks where not granted and database = (select oid from pg_database"
        deadline = time.monotonic() + 60
        while not watch.execute(f"{waits} where datname = current_database())".encode()).fetchone():
            assert running.poll() is None, desk.talk()
            assert time.monotonic() < deadline, desk.talk()
            time.sleep(0.05)
        file.write_text(theirs)
    running.communicate(timeout=60)
    assert running.returncode == 2, desk.talk()
    assert "has been changed since it was read" in desk.talk()
    assert file.read_text() == theirs
    again = desk.domicile(*UPDATE)
    assert "columns added: " in again.err
    assert "wrote app.map.yaml" in again.err
    assert file.read_text().endswith("# mine\n")


def test_what_does_not_go_together_is_refused(desk: Desk) -> None:
    for more in (("--explain", "app.note", "-o", "x.yaml"), ("--explain", "app.note", "--update", "app.map.yaml")):
        refused = desk.domicile(*SURVEY, *more)
        assert (refused.code, "--explain writes no map" in refused.err) == (2, True), refused.err
    refused = desk.domicile(*UPDATE, "--subject", "app.account")
    assert (refused.code, "leave --subject out" in refused.err) == (2, True), refused.err
    (desk.folder / "other.yaml").write_text(MAP.replace("dataset: app", "dataset: other"))
    refused = desk.domicile(*SURVEY, "--update", "other.yaml")
    assert refused.code == 2
    assert "is the map of dataset other, not of app" in refused.err


def test_lists_that_are_only_begun_are_said_to_be_written(desk: Desk) -> None:
    with psycopg.connect(desk.source, autocommit=True) as conn:
        conn.execute("drop table app.note; alter table app.account drop market, drop email")
    text = "".join(MAP.partition("  app.note")[:1]).replace(", market: subject.market", "")
    (desk.folder / "app.map.yaml").write_text(text)
    done = desk.domicile(*UPDATE)
    assert "wrote app.map.yaml" in done.err, done.err
    assert "nothing is new" not in done.err
    assert (desk.folder / "app.map.yaml").read_text() == text.replace("subject}\n", "subject, not_personal: []}\n")


def test_a_schema_of_somebody_else_is_not_replaced(desk: Desk) -> None:
    schema = desk.folder / "datamap.schema.json"
    schema.write_text('{"title": "ours"}')
    refused = desk.domicile(*SURVEY, "-o", "mine.yaml")
    assert (refused.code, "datamap.schema.json exists already" in refused.err) == (2, True), refused.err
    assert not (desk.folder / "mine.yaml").exists()
    assert schema.read_text() == '{"title": "ours"}'
    schema.write_text('{"title": "domicile data map", "of": "an older one"}')
    assert desk.domicile("map", "export", "app", "-o", "app.fides.yml").code == 0
    assert desk.domicile("map", "import", "app.fides.yml", "-o", "mine.yaml").code == 0
    assert schema.read_text() == desk.domicile("map", "schema").out
