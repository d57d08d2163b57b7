"""What a search for erasure knows: fingerprints of values and of canaries, sealed with a key of this installation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domicile.erasure.agent import Result
from domicile.erasure.prints import Gatherer, Prints
from domicile.model.erasure import Place
from domicile.model.errors import DomicileError, ErrorCode
from domicile.move.carrier import Carrier
from domicile.postgres.erasure_record import ErasureRecord

NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class Known:
    """What is searched for: the values' fingerprints, then the canaries'. ``values``: how many of the former."""

    prints: Prints
    values: int

    def canaries_among(self, found: Iterable[int]) -> int:
        """How many of these numbers of fingerprints are canaries'."""
        return sum(number >= self.values for number in found)

    def canaries_left(self, last: Result) -> int:
        """Of canaries that were deleted. The one in the server's log was not."""
        tallies = (tally for place, tally in last.tallies.items() if place is not Place.LOGS)
        return self.canaries_among({number for tally in tallies for number in tally.found})


def of_record(carrier: Carrier, record: ErasureRecord) -> Known:
    """All that the record keeps. Raises config-invalid when it was sealed with another key."""
    empty = Gatherer(key_of(carrier)).prints()
    return joined(carrier, record, unseal(carrier, record.canaries) if record.canaries else empty)


def joined(carrier: Carrier, record: ErasureRecord, canaries: Prints) -> Known:
    """The record's values, then these canaries. Raises config-invalid when they were sealed with another key."""
    values = unseal(carrier, record.prints) if record.prints is not None else Gatherer(key_of(carrier)).prints()
    return Known(values.joined([canaries]), len(values))


def key_of(carrier: Carrier) -> bytes:
    """The move's key: it makes canaries and fingerprints, and seals them."""
    return carrier.directory.secret(f"erasure {carrier.move.move_id}")


def seal(carrier: Carrier, prints: Prints) -> bytes:
    """For the site's record."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key_of(carrier)).encrypt(nonce, prints.pack(), b"prints")


def unseal(carrier: Carrier, sealed: bytes) -> Prints:
    """What `seal` wrote. Raises config-invalid when it was sealed with another key."""
    try:
        raw = AESGCM(key_of(carrier)).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], b"prints")
    except InvalidTag:
        raise DomicileError(
            ErrorCode.CONFIG_INVALID,
            "the fingerprints of the purge were sealed with another key than this machine's directory.key",
            hint="Copy directory.key from the machine that began the purge.",
        ) from None
    return Prints.unpack(key_of(carrier), raw)
