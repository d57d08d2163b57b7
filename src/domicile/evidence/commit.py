"""Salted commitments: a subject named in evidence so that only who has the salt can tell whom.

The commitment stands in the log for good; the salt stands apart. Destroying the salt is the erasure: the commitment is
then as good as random, and nothing in the log needs to change."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
import hmac

SALT = 32  # bytes, of a cryptographic source, one for each subject


def commitment(salt: bytes, subject_key: bytes) -> str:
    """HMAC-SHA-256 of a subject's key under its salt, in hex."""
    assert len(salt) == SALT, "32 random bytes"
    return hmac.new(salt, subject_key, sha256).hexdigest()


def opens(claimed: str, salt: bytes, subject_key: bytes) -> bool:
    """Whether a commitment is this subject's. Takes the same time either way."""
    return hmac.compare_digest(claimed, commitment(salt, subject_key))


def cohort_commitment(commitments: Iterable[str]) -> str:
    """One hash over the commitments of many, whatever their order, in hex."""
    return sha256("\n".join(sorted(commitments)).encode()).hexdigest()
