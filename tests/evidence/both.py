"""Both verifiers on one bundle: they must agree, on the verdict and on the check that failed."""

from __future__ import annotations

from collections.abc import Sequence
import importlib.util
from pathlib import Path
from types import ModuleType

from domicile.evidence.note import Key, Note
from domicile.evidence.verify import verify

PATH = Path(__file__).resolve().parent.parent.parent / "tools" / "verify_domicile_bundle.py"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_domicile_bundle", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()


def key_file(keys: Sequence[Key]) -> bytes:
    return "".join(f"{k.text()}\n" for k in keys).encode()


def judged(raw: bytes, keys: Sequence[Key] = (), seen: Sequence[Note] = ()) -> tuple[str, str]:
    """Verdict and failed check, of both."""
    report = verify(raw, keys, seen)
    ours = (str(report.outcome), report.failed)
    notes = [tool.read_checkpoint(n.encode().encode()) for n in seen]
    verdict, check, _ = tool.verify(raw, tool.read_keys(key_file(keys)) if keys else {}, notes)
    assert (verdict, check) == ours
    return ours
