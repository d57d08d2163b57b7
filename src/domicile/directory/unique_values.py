"""Values that may be there once at all sites together, reserved before a row with them is written at any.

An application that signs somebody up reserves the e-mail address for the subject's key (chosen beforehand), writes the
row at the home, and releases the address when the row is deleted or gets another one. A reservation says who has the
value, not where: a move changes nothing about it. It does not expire. Where a sign-up dies between the two steps the
value stays reserved for that key: the same sign-up may be repeated, and nobody else is given a value that a row may
hold. Value and claimant are keyed hashes: the table names nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator

from psycopg import AsyncConnection

from domicile.directory.directory import SubjectHash
from domicile.model.site import DatasetName

_RESERVE = """
    insert into domicile_directory.unique_value as v (dataset, name, value, claimant) values (%s, %s, %s, %s)
    on conflict (dataset, name, value) do update set claimant = v.claimant
    returning claimant"""
_CLAIM = "create temporary table value_claim (value bytea, claimant bytea) on commit drop"
# Sorted, so that two loads cannot wait for each other; of one value within the load the first claimant gets it.
_RESERVE_ALL = """
    insert into domicile_directory.unique_value (dataset, name, value, claimant)
    select %s, %s, value, min(claimant) from pg_temp.value_claim group by value order by value
    on conflict do nothing"""
_REFUSED = """
    select count(*) from pg_temp.value_claim as c
        join domicile_directory.unique_value as v on v.dataset = %s and v.name = %s and v.value = c.value
    where v.claimant <> c.claimant"""


class UniqueValues:
    """The values of one dataset, over one connection to the control database (autocommit).

    ``name`` says which kind of value is meant (``email``). Values are compared as texts: whoever reserves brings them
    into one form first (lower case, a phone number in E.164)."""

    def __init__(self, conn: AsyncConnection, keyed: SubjectHash, dataset: DatasetName) -> None:
        self._conn, self._keyed, self._dataset = conn, keyed, dataset

    async def reserve(self, name: str, value: str, subject: str) -> bool:
        """True when the value is this subject's from now on, or was already; False when it is somebody else's.

        Idempotent, and safe among any number of callers at any sites: one of them gets it."""
        claimant = self._claimant(subject)
        cursor = await self._conn.execute(_RESERVE, (self._dataset, name, self._hash(name, value), claimant))
        row = await cursor.fetchone()
        assert row is not None, "the row is there, whoever has it"
        return bool(row[0] == claimant)

    async def release(self, name: str, value: str, subject: str) -> bool:
        """Give the value up; False when it is not this subject's. Idempotent. Only when no row holds it any more."""
        cursor = await self._conn.execute(
            "delete from domicile_directory.unique_value where dataset = %s and name = %s and value = %s"
            " and claimant = %s",
            (self._dataset, name, self._hash(name, value), self._claimant(subject)),
        )
        return cursor.rowcount == 1

    async def release_all(self, subject: str) -> int:
        """Give up whatever the subject has, when it is deleted; returns how many. Idempotent."""
        cursor = await self._conn.execute(
            "delete from domicile_directory.unique_value where dataset = %s and claimant = %s",
            (self._dataset, self._claimant(subject)),
        )
        return cursor.rowcount

    async def reserve_all(self, name: str, held: AsyncIterator[tuple[str, str]]) -> int:
        """Reserve values that rows hold already: pairs of value and subject's key, of one site after the other.

        Returns how many of the pairs were refused, because somebody else has the value. One transaction; idempotent."""
        async with self._conn.transaction():
            await self._conn.execute(_CLAIM)
            async with self._conn.cursor().copy("copy pg_temp.value_claim (value, claimant) from stdin") as copy:
                async for value, subject in held:
                    await copy.write_row((self._hash(name, value), self._claimant(subject)))
            await self._conn.execute(_RESERVE_ALL, (self._dataset, name))
            row = await (await self._conn.execute(_REFUSED, (self._dataset, name))).fetchone()
            assert row is not None
            return int(row[0])

    def _hash(self, name: str, value: str) -> bytes:
        # No value of PostgreSQL holds a NUL: no subject's key and no other name lead to this hash.
        return self._keyed(self._dataset, f"{name}\0{value}")

    def _claimant(self, subject: str) -> bytes:
        return self._keyed(self._dataset, subject)
