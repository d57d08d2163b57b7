"""`domicile survey --explain TABLE` from the command line."""

from __future__ import annotations

from tests.cli.desk import Desk


def test_explain_from_the_command_line(desk: Desk) -> None:
    shown = desk.domicile("survey", "app", "--site", "beijing", "--explain", "note")
    assert shown.code == 0
    assert shown.out.startswith("app.note: owned")
    assert "ways to an owner, the best first" in shown.out
    assert "foreign key" in shown.out
    assert "\nstructure\n" in shown.out
    assert "primary key (id)" in shown.out

    found = desk.domicile("survey", "app", "--site", "beijing", "--explain", "app.note", "--json").json
    assert (found["table"], found["role"]) == ("app.note", "owned")
    [way, *_] = found["ways"]
    assert (way["chosen"], way["share"]) == (True, 1.0)
    assert way["rows"] == way["reached"] > 0
    assert {"name": "id", "type": "bigint", "nullable": False} in found["structure"]["columns"]
    assert "primary key (id)" in found["structure"]["keys"]

    absent = desk.domicile("survey", "app", "--site", "beijing", "--explain", "app.notes")
    assert absent.code == 3
    assert "there is no table app.notes" in absent.err
    assert "Did you mean app.note?" in absent.err
