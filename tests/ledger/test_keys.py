"""The private keys: whose they are, who may read them, and that nobody's are made twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from domicile.evidence.note import KeyType
from domicile.ledger import keys
from domicile.ledger.keys import FOLDER, NAME_MAX, log_keys, origin_of, short
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.site import DatasetName, SiteName

STORE, BEIJING = DatasetName("store"), SiteName("beijing")


def path_of(state: Path) -> Path:
    return state / FOLDER / "store" / "beijing.keys"


def test_they_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    first = log_keys(tmp_path, STORE, BEIJING)
    assert first.public == log_keys(tmp_path, STORE, BEIJING).public
    assert [(k.name, k.type) for k in first.public] == [
        ("store/beijing/log", KeyType.LOG),
        ("store/beijing/log", KeyType.WITNESS),
    ]
    assert first.log.key.public != first.witness.key.public
    assert path_of(tmp_path).stat().st_mode & 0o777 == 0o600
    assert path_of(tmp_path).parent.stat().st_mode & 0o077 == 0
    assert [p.name for p in path_of(tmp_path).parent.iterdir()] == ["beijing.keys"]


def test_many_at_once_find_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: log_keys(tmp_path, STORE, BEIJING).public, range(32)))
    assert len(found) == 1


def test_who_comes_second_takes_what_the_first_has_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have found no file; the first one's leaves may be in the log by the time when the second one has its own."""
    make, first = keys.tempfile.mkstemp, list[object]()

    def after_another(*args: Any, **named: Any) -> tuple[int, str]:
        if not first:
            first.append(None)
            first[0] = log_keys(tmp_path, STORE, BEIJING).public
        return make(*args, **named)

    monkeypatch.setattr(keys.tempfile, "mkstemp", after_another)
    assert log_keys(tmp_path, STORE, BEIJING).public == first[0]
    assert [p.name for p in path_of(tmp_path).parent.iterdir()] == ["beijing.keys"]


@pytest.mark.parametrize("damage", ["", "one line\n", "other", "swapped", "id", "\xff"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, damage: str) -> None:
    log_keys(tmp_path, STORE, BEIJING)
    path = path_of(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    texts = {
        "other": "".join(lines).replace("beijing", "nanjing"),
        "swapped": "".join(reversed(lines)),
        "id": lines[0].replace("log+", "log+0", 1) + lines[1],
    }
    path.write_text(texts.get(damage, damage), encoding="latin-1")
    with pytest.raises(DomicileError) as refused:
        log_keys(tmp_path, STORE, BEIJING)
    assert refused.value.code is ErrorCode.CONFIG_INVALID
    assert "PRIVATE" not in refused.value.message


def test_long_names_are_cut_and_stay_apart() -> None:
    one, other = (origin_of(DatasetName("d" * 63), SiteName("s" * 62 + end)) for end in "ab")
    assert one != other
    assert len(one) == NAME_MAX
    assert short("x" * NAME_MAX) == "x" * NAME_MAX
