"""Signed notes and the keys that sign them: c2sp.org/signed-note, with Ed25519.

A key is published as a *verifier key*, ``name+id+base64(type, public key)``. Type 1 signs checkpoints and envelopes of
a log, type 4 cosigns checkpoints (c2sp.org/tlog-cosignature)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from domicile.evidence.strict import Malformed, decode64, encode64

NOTE_BYTES_MAX = 64 * 1024
SIGNATURES_MAX = 32
KEYS_MAX = 64
SEED = 32  # bytes of a private key
# Narrower than the note format's own rule (no space, no plus): names are shown to people.
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,98}[A-Za-z0-9])?")


class KeyType(IntEnum):
    """The byte that says what a key signs."""

    LOG = 1
    WITNESS = 4


@dataclass(frozen=True, slots=True)
class Key:
    """A public key with its name."""

    name: str
    type: KeyType
    public: bytes

    @property
    def id(self) -> bytes:
        """Four bytes that tell keys of one name apart; no security rests on them."""
        return sha256(self.name.encode() + b"\n" + bytes([self.type]) + self.public).digest()[:4]

    @property
    def label(self) -> str:
        """Name and id, as people and DSSE's ``keyid`` name it."""
        return f"{self.name}+{self.id.hex()}"

    def text(self) -> str:
        """The verifier key."""
        return f"{self.label}+{encode64(bytes([self.type]) + self.public)}"

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether this key has signed the message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


class Signer:
    """A private key with its name. ``seed`` are the 32 bytes of RFC 8032."""

    def __init__(self, name: str, kind: KeyType, seed: bytes) -> None:
        if not NAME.fullmatch(name):
            raise Malformed("the name of a key: letters, digits, dots, dashes and slashes, at most 100")
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.key = Key(name, kind, self._private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._private.sign(message)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line of a note: who says to have signed, and what follows the key id."""

    name: str
    key_id: bytes
    raw: bytes

    def line(self) -> str:
        """As it stands in the note."""
        return f"— {self.name} {encode64(self.key_id + self.raw)}\n"

    def is_of(self, key: Key) -> bool:
        """Whether it claims to be that key's."""
        return (self.name, self.key_id) == (key.name, key.id)


@dataclass(frozen=True, slots=True)
class Note:
    """A text that ends in a newline, and its signatures, not yet verified."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> str:
        """The note as a file."""
        return self.text + "\n" + "".join(s.line() for s in self.signatures)


def signed(text: str, signer: Signer) -> Note:
    """A note with one signature."""
    return Note(text, (Signature(signer.key.name, signer.key.id, signer.sign(text.encode())),))


def parse_note(raw: bytes) -> Note:
    """The note in a file, in the one form that ``Note.encode`` writes. Raises Malformed."""
    if len(raw) > NOTE_BYTES_MAX:
        raise Malformed("a note that is too long")
    try:
        text, blank, lines = raw.decode().rpartition("\n\n")
    except UnicodeDecodeError:
        raise Malformed("a note that is not UTF-8") from None
    if not blank or any(c < " " and c != "\n" for c in text):
        raise Malformed("a note without signatures, or with control characters")
    parts = lines.split("\n")
    if parts.pop() or not 0 < len(parts) <= SIGNATURES_MAX:
        raise Malformed("a note with too few or too many signatures")
    return Note(text + "\n", tuple(_signature(p) for p in parts))


def parse_key(text: str) -> Key:
    """The key of a verifier key. Raises Malformed."""
    name, _, rest = text.partition("+")
    key_id, _, material = rest.partition("+")
    raw = decode64(material, 33)
    if not NAME.fullmatch(name) or raw[0] not in tuple(KeyType):
        raise Malformed("a verifier key with a name or of a type that is not ours")
    key = Key(name, KeyType(raw[0]), raw[1:])
    if key.id.hex() != key_id:
        raise Malformed("a verifier key whose id is not its own")
    return key


def parse_keys(raw: bytes) -> tuple[Key, ...]:
    """The keys of a file: a verifier key a line; lines that are empty or begin with # say nothing. Raises Malformed."""
    try:
        lines = raw.decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise Malformed("keys that are not ASCII") from None
    keys = tuple(parse_key(line) for line in lines if line and not line.startswith("#"))
    if not 0 < len(keys) <= KEYS_MAX or len({k.label for k in keys}) != len(keys):
        raise Malformed("no keys, too many, or one twice")
    return keys


def _signature(line: str) -> Signature:
    dash, name, material = (*line.split(" "), "", "")[:3]
    if line.count(" ") != 2 or dash != "—" or not NAME.fullmatch(name):
        raise Malformed("a signature line that is none")
    raw = decode64(material)
    if len(raw) < 5:
        raise Malformed("a signature that is too short")
    return Signature(name, raw[:4], raw[4:])
