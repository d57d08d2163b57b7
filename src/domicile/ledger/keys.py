"""The private keys of the sites' logs: files in the state directory, for their owner alone; never in a database.

A log has two: one that signs its leaves and checkpoints, and the witness's, which cosigns the checkpoints of others.
Each stands on a line as ``PRIVATE+KEY+name+id+base64(type, seed)``, the form that tools for signed notes know."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
import os
from pathlib import Path
import secrets
import tempfile

from domicile.evidence.note import NAME, SEED, Key, KeyType, Signer
from domicile.evidence.strict import Malformed, decode64, encode64
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.site import DatasetName, SiteName

FOLDER = "evidence"
NAME_MAX = 100
_PREFIX = "PRIVATE+KEY+"


@dataclass(frozen=True, slots=True)
class LogKeys:
    """What signs for one log: ``log`` its own leaves and checkpoints, ``witness`` the checkpoints of others."""

    log: Signer
    witness: Signer

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.log.key.name

    @property
    def public(self) -> tuple[Key, Key]:
        """What an examiner needs."""
        return self.log.key, self.witness.key


def short(name: str) -> str:
    """A name that fits into a key or a statement: one that is too long keeps its beginning, and a hash of it all."""
    if len(name) <= NAME_MAX:
        return name
    digest = sha256(name.encode()).hexdigest()[:16]
    return f"{name[: NAME_MAX - 1 - len(digest)]}-{digest}"


def origin_of(dataset: DatasetName, site: SiteName) -> str:
    """The name of the log of a dataset at a site."""
    return short(f"{dataset}/{site}/log")


def log_keys(state_dir: Path, dataset: DatasetName, site: SiteName) -> LogKeys:
    """The keys of a log, made at first use (mode 0600). Idempotent, and safe beside another process.

    Who loses the file can add nothing to the log any more; what is in it stays as proven as it was. Raises
    config-invalid when the file is none of ours, or cannot be read or written.
    """
    path = state_dir / FOLDER / dataset / f"{site}.keys"
    origin = origin_of(dataset, site)
    try:
        if not path.exists():
            _make(path, origin)
        log, witness = (_signer(line) for line in path.read_text(encoding="ascii").splitlines())
        if (log.key.type, witness.key.type, log.key.name) != (KeyType.LOG, KeyType.WITNESS, origin):
            raise Malformed("the keys of another log")
        return LogKeys(log, witness)
    except (OSError, ValueError) as why:
        raise DomicileError(
            ErrorCode.CONFIG_INVALID,
            f"the evidence keys of {origin} cannot be used: {getattr(why, 'strerror', '') or type(why).__name__}",
            facts={"file": str(path)},
            hint="Restore the file from the first machine or a backup; it holds two lines that begin with PRIVATE+KEY.",
        ) from None


def _make(path: Path, origin: str) -> None:
    """Whole or not at all: another process may look for it at any time."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lines = [_line(origin, kind, secrets.token_bytes(SEED)) for kind in KeyType]
    handle, temporary = tempfile.mkstemp(dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return  # the other process was first
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        Path(temporary).unlink()


def _line(origin: str, kind: KeyType, seed: bytes) -> str:
    key_id = Signer(origin, kind, seed).key.id.hex()
    return f"{_PREFIX}{origin}+{key_id}+{encode64(bytes([kind]) + seed)}\n"


def _signer(line: str) -> Signer:
    """Raises Malformed."""
    name, _, rest = line.removeprefix(_PREFIX).partition("+")
    key_id, _, material = rest.partition("+")
    raw = decode64(material, 1 + SEED)
    if not line.startswith(_PREFIX) or not NAME.fullmatch(name) or raw[0] not in tuple(KeyType):
        raise Malformed("no private key of ours")
    signer = Signer(name, KeyType(raw[0]), raw[1:])
    if signer.key.id.hex() != key_id:
        raise Malformed("a private key whose id is not its own")
    return signer
