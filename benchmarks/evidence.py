"""How fast does a log of evidence grow, prove and verify? One log of ``leaves`` leaves, most of them of other moves; in
it one move of ``statements`` statements, evenly spread, whose bundle is verified whole.

``append_per_s`` is the tree alone (leaf bytes to hashes), ``record_per_s`` the statement, its signature and the tree;
``proof_per_s`` inclusion proofs of leaves drawn at random. ``verify_seconds`` is the command's own work on the bundle,
``single_file_ms`` what the single-file verifier takes for one statement of a smaller bundle of the same log."""

from __future__ import annotations

from hashlib import sha256
import importlib.util
from pathlib import Path
import random
import time
from typing import Any

from benchmarks import _bench
from domicile.evidence import bundle
from domicile.evidence.ledger import Ledger, Witness
from domicile.evidence.merkle import leaf_hash
from domicile.evidence.note import Key, KeyType, Note, Signer
from domicile.evidence.statement import Copy, Hex, Subject
from domicile.evidence.verify import verify

QUESTION = "how fast does a log of evidence grow, prove and verify?"
LEAVES, STATEMENTS, PROOFS, SINGLE = 1_000_000, 10_000, 20_000, 200
QUICK = 50_000, 1_000, 2_000, 40
TOOL = Path(__file__).resolve().parent.parent / "tools" / "verify_domicile_bundle.py"
FILLER = b"x" * 890  # as long as a statement in its envelope
LONG, SHORT = "measured", "short"  # two moves: for the command, and for the single file


def subject(move: str) -> Subject:
    """A move of that name."""
    return Subject(move, Hex(sha256(move.encode()).hexdigest()))


def signer(name: str, kind: KeyType) -> Signer:
    """A key that is the same in every run."""
    return Signer(name, kind, sha256(f"{name} {kind}".encode()).digest())


def fill(ledger: Ledger, leaves: int, statements: int, single: int) -> tuple[float, float]:
    """Fill the log; appends a second, and records a second."""
    step, turn = leaves // (statements + single), (statements + single) // single
    append_seconds = record_seconds = 0.0
    made = 0
    tree = ledger.tree
    for number in range(statements + single):
        began = time.perf_counter()
        for _ in range(step - 1):
            tree.append(leaf_hash(b"%d" % made + FILLER))
            made += 1
        append_seconds += time.perf_counter() - began
        ledger.leaves += [b""] * (step - 1)  # of other moves: only their hashes matter here
        began = time.perf_counter()
        move = SHORT if number % turn == 0 else LONG
        ledger.record(subject(move), Copy("site", number, number, 1_000, 100_000))
        record_seconds += time.perf_counter() - began
    for _ in range(leaves - len(tree)):  # what the division left over
        tree.append(leaf_hash(FILLER))
    return made / append_seconds, (statements + single) / record_seconds


def prove(ledger: Ledger, note: Note, count: int) -> float:
    """Proofs a second, each for a leaf drawn at random."""
    draw = random.Random(6)
    indexes = [draw.randrange(len(ledger.tree)) for _ in range(count)]
    began = time.perf_counter()
    for index in indexes:
        ledger.tree.inclusion(index)
    seconds = time.perf_counter() - began
    ledger.proof(indexes[0], note)
    return count / seconds


def single_file(raw: bytes, keys: tuple[Key, ...]) -> float:
    """Seconds of the single-file verifier."""
    spec = importlib.util.spec_from_file_location("verify_domicile_bundle", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    trusted = tool.read_keys("".join(f"{k.text()}\n" for k in keys).encode())
    began = time.perf_counter()
    verdict, *_ = tool.verify(raw, trusted)
    assert verdict == "proven"
    return time.perf_counter() - began


def run(leaves: int, statements: int, proofs: int, single: int) -> dict[str, Any]:
    """The benchmark's figures."""
    log = signer("a.example/evidence", KeyType.LOG)
    ledger, witness = Ledger(log), Witness(signer("b.example/evidence", KeyType.WITNESS))
    _bench.say(f"{leaves} leaves, {statements} of one move")
    append_per_s, record_per_s = fill(ledger, leaves, statements, single)
    note = witness.cosign(ledger.checkpoint(), ledger.key, [], 0)
    proof_per_s = prove(ledger, note, proofs)
    keys = (ledger.key, witness.key)
    began = time.perf_counter()
    raw = bundle.build(subject(LONG), [bundle.part_of(ledger, LONG, [note])], keys, log)
    build_seconds = time.perf_counter() - began
    began = time.perf_counter()
    report = verify(raw, keys)
    verify_seconds = time.perf_counter() - began
    assert report.outcome == "proven", report.failed
    short = bundle.build(subject(SHORT), [bundle.part_of(ledger, SHORT, [note])], keys, log)
    count = len(ledger.indexes(SHORT))
    return {
        "leaves": len(ledger.tree),
        "statements": len(ledger.indexes(LONG)),
        "append_per_s": round(append_per_s),
        "record_per_s": round(record_per_s),
        "proof_per_s": round(proof_per_s),
        "bundle_bytes": len(raw),
        "build_seconds": round(build_seconds, 2),
        "verify_seconds": round(verify_seconds, 2),
        "single_file_ms": round(single_file(short, keys) / count * 1_000, 2),
    }


def main() -> None:
    """The command."""
    options = _bench.parser("evidence", QUESTION, LEAVES)
    options.add_argument("--statements", type=int, default=STATEMENTS, help=f"of one move (default {STATEMENTS})")
    options.add_argument("--quick", action="store_true", help="a small log")
    given = options.parse_args()
    sizes = QUICK if given.quick else (given.rows, given.statements, PROOFS, SINGLE)
    _bench.show(run(*sizes), as_json=given.json)


if __name__ == "__main__":
    main()
