"""The directory of homes: reserve, publish, release, look up.

A wave reserves its subjects before anything of it is touched: the primary key of the reservations is the
compare-and-set that keeps two moves from taking one subject. At its handover the reservations become the
homes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
import hashlib
import hmac
import os
from pathlib import Path

from psycopg import AsyncConnection

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.site import DatasetName, MoveId, SiteName

KEY_BYTES = 32
_KEY_MARK = DatasetName("")  # no dataset has an empty name
HASH_BYTES = 16  # 2^64 subjects before a collision is to be expected


@dataclass(frozen=True, slots=True)
class Home:
    """Where a subject's data lives by the directory."""

    site: SiteName
    epoch: int


@dataclass(frozen=True, slots=True)
class SubjectHash:
    """Keyed hash of a subject's key: without the key file, the directory names nobody."""

    key: bytes

    @classmethod
    def of_state(cls, state_dir: Path) -> SubjectHash:
        """The key of this installation, made at first use (mode 0600). Losing it makes the directory
        unreadable, not the data."""
        path = state_dir / "directory.key"
        state_dir.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return cls(path.read_bytes())
        with os.fdopen(handle, "wb") as file:
            key = os.urandom(KEY_BYTES)
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        return cls(key)

    def __call__(self, dataset: DatasetName, subject: str) -> bytes:
        """16 bytes; ``subject`` is the key as PostgreSQL writes it as text."""
        return hmac.new(self.key, f"{dataset}\0{subject}".encode(), hashlib.sha256).digest()[:HASH_BYTES]


class Directory:
    """The directory over one control connection (autocommit)."""

    def __init__(self, conn: AsyncConnection, subject_hash: SubjectHash) -> None:
        self._conn = conn
        self._hash = subject_hash

    def secret(self, purpose: str) -> bytes:
        """32 bytes that only machines with this key have, others for each purpose."""
        return hmac.new(self._hash.key, f"\0{purpose}".encode(), hashlib.sha256).digest()

    async def require_key(self) -> None:
        """Refuse a machine that hashes with another key than the first one did: it would find nobody. Idempotent."""
        mark = self._hash(_KEY_MARK, "")
        await self._conn.execute(
            "insert into domicile_directory.key_mark (mark) values (%s) on conflict do nothing", (mark,)
        )
        row = await (await self._conn.execute("select mark from domicile_directory.key_mark")).fetchone()
        if row is None or row[0] != mark:
            raise DomicileError(
                ErrorCode.CONFIG_INVALID,
                "this machine's directory.key is not the one that the control database was begun with",
                hint="Copy directory.key from the state directory of the first machine into this machine's.",
            )

    async def reserve(
        self, dataset: DatasetName, move_id: MoveId, no: int, subjects: AsyncIterator[tuple[int, str]]
    ) -> None:
        """Claim the next epoch of a wave's subjects, all or none. Idempotent for the same wave.

        Raises cohort-reserved when another move has claimed one of them.
        """
        async with self._conn.transaction():
            await self._conn.execute("create temporary table claim (subject bytea primary key) on commit drop")
            async with self._conn.cursor() as cursor:
                async with cursor.copy("copy pg_temp.claim (subject) from stdin") as copy:
                    async for _, subject in subjects:
                        await copy.write_row((self._hash(dataset, subject),))
            await self._conn.execute(
                """insert into domicile_directory.reservation (dataset, subject, move_id, wave_no)
                   select %s, subject, %s, %s from pg_temp.claim on conflict do nothing""",
                (dataset, move_id, no),
            )
            row = await (
                await self._conn.execute(
                    """select count(*), min(r.move_id) from domicile_directory.reservation as r
                       join pg_temp.claim as c using (subject)
                       where r.dataset = %s and (r.move_id, r.wave_no) <> (%s, %s)""",
                    (dataset, move_id, no),
                )
            ).fetchone()
            assert row is not None
            if row[0]:
                raise DomicileError(
                    ErrorCode.COHORT_RESERVED,
                    f"{row[0]} subjects of wave {no} are in another unfinished move ({row[1]})",
                    facts={"subjects": row[0], "move": row[1]},
                    hint=f"Finish or abort it first: domicile status {row[1]}",
                )

    async def publish(self, dataset: DatasetName, move_id: MoveId, no: int, home: Home) -> int:
        """The wave's reservations become homes. Idempotent; returns how many changed. An older epoch never
        replaces a newer."""
        async with self._conn.transaction():
            cursor = await self._conn.execute(
                """insert into domicile_directory.home as h (dataset, subject, home, epoch)
                   select dataset, subject, %(home)s, %(epoch)s from domicile_directory.reservation
                   where dataset = %(dataset)s and move_id = %(move)s and wave_no = %(no)s
                   on conflict (dataset, subject) do update set home = excluded.home, epoch = excluded.epoch
                   where h.epoch < excluded.epoch""",
                {"home": home.site, "epoch": home.epoch, "dataset": dataset, "move": move_id, "no": no},
            )
            await self.release(move_id, no)
            return cursor.rowcount

    async def release(self, move_id: MoveId, no: int) -> None:
        """Give up a wave's reservations. Idempotent."""
        await self._conn.execute(
            "delete from domicile_directory.reservation where move_id = %s and wave_no = %s", (move_id, no)
        )

    async def release_subjects(self, dataset: DatasetName, move_id: MoveId, no: int, subjects: Iterable[str]) -> None:
        """Give up the reservations of some of a wave's subjects. Idempotent."""
        hashes = [self._hash(dataset, subject) for subject in subjects]
        await self._conn.execute(
            """delete from domicile_directory.reservation
               where dataset = %s and move_id = %s and wave_no = %s and subject = any(%s)""",
            (dataset, move_id, no, hashes),
        )

    async def reserved(self, move_id: MoveId, no: int) -> int:
        """How many subjects the wave holds in reservation: none once it is published."""
        row = await (
            await self._conn.execute(
                "select count(*) from domicile_directory.reservation where move_id = %s and wave_no = %s",
                (move_id, no),
            )
        ).fetchone()
        assert row is not None
        return int(row[0])

    async def look_up(self, dataset: DatasetName, subject: str) -> Home | None:
        """The subject's home by the directory; None for one who never moved."""
        row = await (
            await self._conn.execute(
                "select home, epoch from domicile_directory.home where dataset = %s and subject = %s",
                (dataset, self._hash(dataset, subject)),
            )
        ).fetchone()
        return None if row is None else Home(SiteName(row[0]), row[1])
