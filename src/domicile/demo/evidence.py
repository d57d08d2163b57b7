"""The end of the demo: the move's bundle, and what both verifiers say of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
import sys
import tempfile

from domicile import commands
from domicile.demo.account import CERTIFICATE, Evidence
from domicile.model.site import MoveId
from domicile.model.workspace import Workspace

# Beside the sources, for whoever has them: it shares no code with domicile, so it is no part of the package.
OTHER_VERIFIER = Path(__file__).resolve().parents[3] / "tools" / "verify_domicile_bundle.py"
BUNDLE, KEYS = "move.bundle", "keys"


async def prove(workspace: Workspace, move_id: MoveId, folder: Path | None) -> Evidence:
    """Export the bundle into ``folder``, or a new one for temporary files, and have it judged."""
    found = await commands.evidence_bundle(workspace, move_id)
    kept = folder or Path(tempfile.mkdtemp(prefix="domicile-evidence-"))
    kept.mkdir(parents=True, exist_ok=True)
    (kept / BUNDLE).write_bytes(found.raw)
    (kept / CERTIFICATE).write_text(found.certificate, encoding="utf-8")
    (kept / KEYS).write_text("".join(f"{key.text()}\n" for key in found.keys), encoding="ascii")
    other = await _other(kept) if OTHER_VERIFIER.is_file() else ""
    return Evidence(len(found.statements), str(found.report.outcome), other, str(kept))


async def _other(kept: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", str(OTHER_VERIFIER), str(kept / BUNDLE), "--key", str(kept / KEYS)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    said, _ = await process.communicate()
    return said.decode(errors="replace").partition(":")[0].strip() or "no word"
