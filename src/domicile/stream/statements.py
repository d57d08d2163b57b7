"""The statements of each table with their parameters, as the pipeline sends them. Texts are built once (see dml.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from domicile.postgres.ownership import Fragment
from domicile.stream.change import NULL, Field, Key
from domicile.stream.dml import Dml
from domicile.stream.fold import Fields, Sent
from domicile.stream.layout import Identity
from domicile.stream.params import TEXT_OID, array, by_column, split, values
from domicile.stream.pipeline import Statement
from domicile.stream.work import unclear

ARRAY_BYTES_MAX = 64 * 1024 * 1024  # PostgreSQL takes up to 1 GB


class TableStatements:
    """One table's."""

    def __init__(self, dml: Dml) -> None:
        self._dml = dml
        self._binary = dml.binary
        self._key = dml.table.key_at
        self._texts: dict[tuple[str, object], bytes] = {}
        self._all = range(len(dml.columns))
        always = {at for at, c in enumerate(dml.columns) if c.always}
        self.keyless = dml.table.identity is Identity.FULL
        self._fixed = tuple(at in always for at in self._key)
        self.key_fixed = any(self._fixed)
        """PostgreSQL lets no UPDATE write the key, or a part of it."""
        self._guards = tuple(at for at in self._all if at in always and (self.keyless or at not in self._key))
        self._sets = tuple(at for at in self._all if at not in always and (self.keyless or at not in self._key))

    @property
    def has_guards(self) -> bool:
        """There are columns that no UPDATE can write: they are compared instead, and must be as they were."""
        return bool(self._guards)

    def delete_many(self, keys: Sequence[Key]) -> list[Statement]:
        """Delete rows by their keys."""
        return self._many(self._text("delete", None, self._dml.delete_many), self._key, self._columns(keys))

    def update_many(self, sent: Sent, rows: Sequence[tuple[Key, Fields]]) -> list[Statement]:
        """Write the columns that were sent, in rows found by their keys."""
        sets, guards = _sent(sent, self._sets), _sent(sent, self._guards)
        if not sets:
            return []  # nothing but the key, which is the same
        text = self._text("update", sent, lambda: self._dml.update_many(sets, guards))
        columns = list(zip(*(fields for _, fields in rows), strict=True))
        places = (*sets, *guards)
        if sent is None:  # the row has its key
            keys: list[Sequence[Any]] = [columns[at] for at in self._key]
        else:
            keys = [*self._columns([key for key, _ in rows])]
        arrays = [*keys, *(columns[at] for at in places)]
        return self._many(text, (*self._key, *places), arrays)

    def insert_many(self, rows: Sequence[Fields]) -> list[Statement]:
        """Insert whole rows."""
        text = self._text("insert", None, self._dml.insert_many)
        return self._many(text, self._all, list(zip(*rows, strict=True)))

    def claim(self, keys: Sequence[Key]) -> list[Statement]:
        """Lock rows, and refuse unless all are there and the wave's."""
        return self._many(self._text("claim", None, self._dml.claim), self._key, self._columns(keys))

    def delete(self, key: Key) -> Statement:
        """Delete one row."""
        return self._one(self._text("delete one", None, self._dml.delete_one), split(key, len(self._key)))

    def update(self, key: Key, fields: Fields, new_key: Key | None = None) -> list[Statement]:
        """Write the columns that were sent, and the key where it changes, in one row.

        Raises stream-unclear where what changes can be written by nobody, and not all of the row was sent.
        """
        sent = tuple(f is not None for f in fields)
        sets, guards = _sent(sent, self._sets), _sent(sent, self._guards)
        given = [f for at in (*sets, *guards) if (f := fields[at]) is not None]
        rekey = new_key is not None and not self.keyless
        if rekey and new_key is not None:
            parts = list(zip(self._key, self._fixed, split(new_key, len(self._key)), strict=True))
            if any(f and new != old for (_, f, new), old in zip(parts, split(key, len(self._key)), strict=True)):
                raise unclear(f"gave a row of {self._dml.table.name} another key that only the server may give")
            sets = (*(at for at, fixed, _ in parts if not fixed), *sets)
            given = [*(part for _, fixed, part in parts if not fixed), *given]
        if not sets:
            return []
        text = self._text("update one", (sent, rekey), lambda: self._dml.update_one(sets, guards))
        return [self._one(text, (*split(key, len(self._key)), *given))]

    def insert(self, fields: Fields) -> Statement:
        """Insert one whole row."""
        whole = [f for f in fields if f is not None]
        assert len(whole) == len(self._all), "a row that is new was sent in part"
        return self._one(self._text("insert one", None, self._dml.insert_one), whole)

    def rehearsal(self) -> list[Statement]:
        """What a change by itself needs, about a row that cannot be: refused, but planned for the session by then."""
        nothing, key = (NULL,) * len(self._all), NULL * len(self._key)
        claim = (
            []
            if self.keyless
            else [self._arrays(self._text("claim", None, self._dml.claim), self._key, self._columns([]))]
        )
        return [*claim, self.insert(nothing), *self.update(key, nothing), self.delete(key)]

    def _columns(self, keys: Sequence[Key]) -> list[Sequence[Field]]:
        return by_column(keys, len(self._key))

    def _text(self, verb: str, variant: object, build: Callable[[], Fragment]) -> bytes:
        text = self._texts.get((verb, variant))
        if text is None:
            text = self._texts[verb, variant] = build().as_bytes(None)
        return text

    def _one(self, text: bytes, given: Sequence[Field]) -> Statement:
        return Statement(text, values(given), self._binary, True)

    def _many(self, text: bytes, places: Sequence[int], fields: Sequence[Sequence[Any]]) -> list[Statement]:
        if not fields or not fields[0]:
            return []
        rows, statement = len(fields[0]), self._arrays(text, places, fields)
        if rows > 1 and max(len(value or b"") for value in statement.values) > ARRAY_BYTES_MAX:
            half = rows // 2
            first = self._many(text, places, [column[:half] for column in fields])
            return first + self._many(text, places, [column[half:] for column in fields])
        return [statement]

    def _arrays(self, text: bytes, places: Sequence[int], fields: Sequence[Sequence[Any]]) -> Statement:
        oids = [self._dml.columns[at].oid if self._binary else TEXT_OID for at in places]
        return Statement(text, [array(column, oid) for column, oid in zip(fields, oids, strict=True)], True, True)


def _sent(sent: Sent, places: tuple[int, ...]) -> tuple[int, ...]:
    return places if sent is None else tuple(at for at in places if sent[at])
