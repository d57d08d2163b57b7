"""One of many gets a value, at whichever site; nobody is given one that a row may hold; no value is stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from domicile.control.database import open_control
from domicile.directory.directory import SubjectHash
from domicile.directory.unique_values import UniqueValues
from domicile.model.site import DatasetName

STORE = DatasetName("store")
ADDRESS = "ann@example.org"


@pytest.fixture
async def values(database: str, tmp_path: Path) -> AsyncIterator[UniqueValues]:
    async with await open_control(database) as conn:
        yield UniqueValues(conn, SubjectHash.of_state(tmp_path), STORE)


async def pairs(*held: tuple[str, str]) -> AsyncIterator[tuple[str, str]]:
    for pair in held:
        yield pair


async def test_a_value_is_one_subject_s(values: UniqueValues) -> None:
    assert await values.reserve("email", ADDRESS, "1")
    assert await values.reserve("email", ADDRESS, "1"), "a sign-up that died is repeated"
    assert not await values.reserve("email", ADDRESS, "2")
    assert await values.reserve("phone", ADDRESS, "2"), "another kind of value"
    assert not await values.release("email", ADDRESS, "2"), "not theirs"
    assert await values.release("email", ADDRESS, "1")
    assert not await values.release("email", ADDRESS, "1")
    assert await values.reserve("email", ADDRESS, "2")
    assert await values.release_all("2") == 2
    assert await values.reserve("email", ADDRESS, "3")


async def test_two_datasets(database: str, tmp_path: Path) -> None:
    async with await open_control(database) as conn:
        keyed = SubjectHash.of_state(tmp_path)
        for name, subject in (("store", "1"), ("forum", "2")):
            assert await UniqueValues(conn, keyed, DatasetName(name)).reserve("email", ADDRESS, subject)


async def test_many_at_once(database: str, tmp_path: Path) -> None:
    """Twenty sign-ups with one address, each over a connection of its own."""
    keyed = SubjectHash.of_state(tmp_path)

    async def sign_up(subject: str) -> bool:
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
            return await UniqueValues(conn, keyed, STORE).reserve("email", ADDRESS, subject)

    await (await open_control(database)).close()
    assert sum(await asyncio.gather(*(sign_up(str(n)) for n in range(20)))) == 1


async def test_what_rows_hold_already(values: UniqueValues) -> None:
    """Loaded once per site: what is there twice is counted, the first keeps it, and a second load changes nothing."""
    here = [("a@x", "1"), ("b@x", "2"), ("c@x", "3")]
    there = [("c@x", "4"), ("d@x", "5")]
    assert await values.reserve_all("email", pairs(*here)) == 0
    assert await values.reserve_all("email", pairs(*there)) == 1
    assert await values.reserve_all("email", pairs(*here)) == 0
    assert not await values.reserve("email", "a@x", "9")
    assert await values.reserve("email", "e@x", "9")
    assert await values.reserve_all("email", pairs(("twice@x", "6"), ("twice@x", "7"))) == 1


async def test_no_value_is_stored(values: UniqueValues, database: str) -> None:
    await values.reserve("email", ADDRESS, "4711")
    with psycopg.connect(database) as conn:
        [row] = conn.execute("select v::text from domicile_directory.unique_value as v").fetchall()
    assert ADDRESS not in row[0]
    assert "4711" not in row[0]
    assert ADDRESS.encode().hex() not in row[0]
