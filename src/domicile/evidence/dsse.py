"""DSSE envelopes (secure-systems-lab/dsse), in one spelling: one signature, keys in order, standard base64."""

from __future__ import annotations

from dataclasses import dataclass
import re

from domicile.evidence import strict
from domicile.evidence.note import Key, Signer
from domicile.evidence.strict import Malformed, decode64, encode64

PAYLOAD_TYPE = "application/vnd.in-toto+json"
ENVELOPE_BYTES_MAX = 64 * 1024
_FORM = re.compile(
    rb'\{"payload":"([A-Za-z0-9+/]+={0,2})","payloadType":"application/vnd\.in-toto\+json",'
    rb'"signatures":\[\{"keyid":"([A-Za-z0-9._/+-]{1,120})","sig":"([A-Za-z0-9+/]{86}==)"\}\]\}'
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload and who says to have signed it."""

    payload: bytes
    key_id: str
    signature: bytes

    def is_signed(self, key: Key) -> bool:
        """Whether the key has signed the payload. ``key_id`` is a hint that nobody has signed; it must agree."""
        return self.key_id == key.label and key.verifies(self.signature, pae(PAYLOAD_TYPE, self.payload))


def pae(kind: str, body: bytes) -> bytes:
    """What is signed (pre-authentication encoding)."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(body), body)


def seal(payload: bytes, signer: Signer) -> bytes:
    """The payload in its envelope."""
    signature = signer.sign(pae(PAYLOAD_TYPE, payload))
    line = {"keyid": signer.key.label, "sig": encode64(signature)}
    return strict.canonical({"payload": encode64(payload), "payloadType": PAYLOAD_TYPE, "signatures": [line]})


def parse(raw: bytes) -> Envelope:
    """The envelope, not yet verified. Raises Malformed for every spelling but one."""
    if len(raw) > ENVELOPE_BYTES_MAX:
        raise Malformed("an envelope that is too long")
    found = _FORM.fullmatch(raw)
    if not found:
        strict.parse(raw)  # to say what is wrong with it, if it is the JSON
        raise Malformed("an envelope of another form")
    payload, key_id, signature = (g.decode() for g in found.groups())
    return Envelope(decode64(payload), key_id, decode64(signature, 64))
