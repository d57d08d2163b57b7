"""Does a test notice when the protocol is broken? Bugs are planted one at a time, and the tests are run on each.

    python -m reliability.mutants [--only 1 30 ...] [--workers 1] [--narrow] [--seed N] [--json] [--record]

A mutant is one patch in tests/mutants/: a few lines of src/ or tools/ that break a promise of the protocol, and in its
header which promise, and the tests that are most likely to notice. Each is put into a copy of the sources, in which
these tests are run first; one that survives them meets a wider list, unless ``--narrow``. A test that takes too long
counts as one that failed. In the end every test that caught a mutant is run on a copy without any: one that fails there
has caught nothing. A patch that does not apply is an error, and so is one that the tests cannot even import.

A mutant that no test can catch, because it does no harm, says why in its header (``# harmless:``).

``--record`` writes what came out to reliability/results/mutants.json, beside what is there of other mutants; of those
whose patch has changed since, or is gone, nothing is kept. Exits 1 when a mutant survived, or could not be tried.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
import hashlib
import json
import os
from pathlib import Path
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from reliability import record
from reliability.record import ROOT

PATCHES = ROOT / "tests" / "mutants"

COPIED = ("src", "tests", "tools", "pyproject.toml")
LINKED = (
    *("docs", "schemas", "examples", "benchmarks", "reliability"),
    *("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "Makefile"),
)
# What a survivor meets: everything about carrying rows, the quick parts first.
_PARTS = ("model", "control", "guard", "stream", "verify", "copy", "planner", "move")
WIDE = tuple(f"tests/{part}" for part in _PARTS)
TEST_SECONDS = 150  # of one test, unless it asks for more itself
NAMED_SECONDS = 900  # of the tests that a mutant names
WIDE_SECONDS = 3_600
STOP_SECONDS = 30  # for servers and files of a run that is ended

HEADER = re.compile(r"^# (what|breaks|tests|harmless): (.+)$")
HUNK = re.compile(r"^@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - (.*))?$", re.MULTILINE)
# Said by a server that cannot read a statement: then the patch has made nonsense, not a mistake.
_NONSENSE = re.compile(r"SyntaxError|UndefinedFunction|UndefinedColumn|IndeterminateDatatype|DatatypeMismatch")
_TESTS_FAILED = 1
_running: set[subprocess.Popen[str]] = set()


class Stale(ValueError):
    """A patch is not what it should be, or does not apply any more."""


class Outcome(StrEnum):
    """What became of a mutant."""

    CAUGHT = "caught"
    SURVIVED = "survived"
    HARMLESS = "harmless"  # it survived, and its header says why nothing can come of it
    BROKEN = "broken"  # it could not be tried, or what caught it fails without it, too


@dataclass(frozen=True, slots=True)
class Hunk:
    """Lines of ``path`` that are replaced; both with the lines around them."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """One planted bug. ``tests`` are files or node ids, cheap and likely ones first; ``digest`` that of its lines.

    ``harmless``: why it breaks nothing after all; empty of nearly all.
    """

    no: int
    name: str
    what: str
    breaks: str
    tests: tuple[str, ...]
    hunks: tuple[Hunk, ...]
    digest: str
    harmless: str


@dataclass(frozen=True, slots=True)
class Result:
    """``by``: the test that caught it; ``why``: what that test said."""

    no: int
    name: str
    outcome: Outcome
    by: str
    why: str
    seconds: float
    digest: str


@dataclass(frozen=True, slots=True)
class Run:
    """One run of pytest: the first test that failed, if one did. ``code`` is pytest's own; None: it was ended."""

    code: int | None
    by: str = ""
    why: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    options = _options().parse_args(argv)
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    chosen = [m for m in read_all() if not options.only or m.no in options.only]
    if unknown := set(options.only) - {m.no for m in chosen}:
        raise SystemExit(f"there is no mutant {', '.join(map(str, sorted(unknown)))}")
    say(f"{len(chosen)} mutants, seed {seed}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    pool = ThreadPoolExecutor(options.workers)
    try:
        results = list(pool.map(lambda mutant: _try(mutant, seed, wide=not options.narrow), chosen))
        results = _believed(results, seed)
    finally:
        for child in tuple(_running):  # none, but after an interruption
            _end(child)
        pool.shutdown(cancel_futures=True)
    figures = summary(results, seed)
    if options.record:
        keep(results, seed)
    show(results, figures, as_json=options.json)
    return 0 if all(r.outcome in (Outcome.CAUGHT, Outcome.HARMLESS) for r in results) else 1


def read_all(folder: Path = PATCHES) -> tuple[Mutant, ...]:
    """Every patch there is, by number."""
    return tuple(sorted((read(path) for path in folder.glob("*.patch")), key=lambda m: m.no))


def read(path: Path) -> Mutant:
    """One patch: its header, then a unified diff. Raises `Stale` for a file that is none."""
    number, _, name = path.stem.partition("-")
    text = path.read_text(encoding="utf-8")
    header: dict[str, str] = {}
    for line in text.splitlines():
        if found := HEADER.match(line):
            header[found[1]] = found[2]
    if missing := {"what", "breaks", "tests"} - header.keys():
        raise Stale(f"{path.name} has no line for: {', '.join(sorted(missing))}")
    hunks = tuple(_hunks(text))
    if not number.isdigit() or not name or not hunks:
        raise Stale(f"{path.name} is not NNN-name.patch with a unified diff in it")
    digest = hashlib.sha256(repr(hunks).encode()).hexdigest()[:16]
    tests, harmless = tuple(header["tests"].split()), header.get("harmless", "")
    return Mutant(int(number), name, header["what"], header["breaks"], tests, hunks, digest, harmless)


def _hunks(text: str) -> Iterator[Hunk]:
    path, old, new = "", "", ""
    for line in [*text.splitlines(keepends=True), "@@ -0 +0 @@"]:
        starts = HUNK.match(line) is not None or line.startswith(("--- a/", "+++ b/"))
        if starts and old:
            yield Hunk(path, old, new)
            old = new = ""
        if line.startswith("+++ b/"):
            path = line.removeprefix("+++ b/").strip()
        elif path and not starts:
            old += line[1:] if line[0] in " -" else ""
            new += line[1:] if line[0] in " +" else ""


def changed(mutant: Mutant, root: Path) -> dict[str, str]:
    """The texts of the files that it changes, by path, as they are with the bug.

    Stricter than ``patch``: the lines of a hunk must be there exactly once, wherever that is. Raises `Stale`.
    """
    texts: dict[str, str] = {}
    for hunk in mutant.hunks:
        if hunk.path not in texts:
            file = root / hunk.path
            if not file.is_file():
                raise Stale(f"{mutant.name}: there is no {hunk.path}")
            texts[hunk.path] = file.read_text(encoding="utf-8")
        text = texts[hunk.path]
        found = [match.start() for match in re.finditer("^" + re.escape(hunk.old), text, re.MULTILINE)]
        if len(found) != 1:
            raise Stale(f"{mutant.name}: its lines are in {hunk.path} {len(found)} times")
        texts[hunk.path] = text[: found[0]] + hunk.new + text[found[0] + len(hunk.old) :]
    return texts


def _try(mutant: Mutant, seed: int, *, wide: bool) -> Result:
    begun = time.monotonic()

    def result(outcome: Outcome, by: str = "", why: str = "") -> Result:
        taken = round(time.monotonic() - begun, 1)
        say(f"{mutant.no:03d} {mutant.name}: {outcome} in {taken} s{' by ' + by if by else ''} {why}".rstrip())
        return Result(mutant.no, mutant.name, outcome, by, why, taken, mutant.digest)

    try:
        texts = changed(mutant, ROOT)
        with _copy(texts) as tree:
            # One by one: pytest would run them in its own order, and not the likeliest first.
            rounds = [((test,), NAMED_SECONDS) for test in mutant.tests]
            for tests, seconds in [*rounds, (WIDE, WIDE_SECONDS)] if wide else rounds:
                run = _pytest(tree, tests, seed, seconds)
                if run.code is None:
                    return result(Outcome.CAUGHT, "(time)", f"the tests did not end within {seconds} s")
                if run.code == _TESTS_FAILED and run.by and not _NONSENSE.search(run.why):
                    return result(Outcome.CAUGHT, run.by, run.why)
                if run.code:
                    return result(Outcome.BROKEN, run.by, run.why or f"pytest ended with {run.code}")
    except Stale as why:
        return result(Outcome.BROKEN, why=str(why))
    return result(Outcome.HARMLESS, why=mutant.harmless) if mutant.harmless else result(Outcome.SURVIVED)


def _believed(results: Sequence[Result], seed: int) -> list[Result]:
    """Run what has caught a mutant on the sources as they are: who fails there, too, has caught nothing."""
    guards = sorted({r.by for r in results if r.outcome is Outcome.CAUGHT and "::" in r.by})
    failing: dict[str, str] = {}
    if guards:
        say(f"{len(guards)} tests that caught a mutant are run without one")
        with _copy({}) as tree:
            left = guards
            while left:
                run = _pytest(tree, left, seed, WIDE_SECONDS)
                if run.code == 0:
                    break
                if run.by not in left:
                    failing |= dict.fromkeys(left, run.why or f"pytest ended with {run.code}")
                    break
                failing[run.by] = run.why
                left = left[left.index(run.by) + 1 :]
    return [
        Result(r.no, r.name, Outcome.BROKEN, r.by, f"it fails without the mutant: {failing[r.by]}", r.seconds, r.digest)
        if r.by in failing
        else r
        for r in results
    ]


@contextmanager
def _copy(texts: Mapping[str, str]) -> Iterator[Path]:
    """A copy of what the tests need, with some files replaced; what the tests put beside it goes with it."""
    with tempfile.TemporaryDirectory(prefix="domicile-mutant-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # a server's account goes through it
        tree = Path(folder) / "tree"
        tree.mkdir()
        (Path(folder) / "tmp").mkdir(mode=0o777)
        (Path(folder) / "tmp").chmod(0o1777)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            elif (ROOT / name).exists():
                shutil.copy2(ROOT / name, tree / name)
        for name in LINKED:
            if (ROOT / name).exists():
                (tree / name).symlink_to(ROOT / name)
        for path, text in texts.items():
            (tree / path).write_text(text, encoding="utf-8")
        _require_import(tree)
        yield tree


def _require_import(tree: Path) -> None:
    """What is imported in the copy is the copy: an installed package must not come before it."""
    ask = [sys.executable, "-c", "import domicile; print(domicile.__file__)"]
    said = subprocess.run(ask, cwd=tree, env=_environment(tree, 0), capture_output=True, text=True, check=False)
    if said.returncode or not Path(said.stdout.strip()).is_relative_to(tree / "src"):
        raise Stale("the copy of the sources is not what is imported: " + (said.stderr or said.stdout).strip())


def _environment(tree: Path, seed: int) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(tree / "src"),
        "TMPDIR": str(tree.parent / "tmp"),
        "DOMICILE_TEST_SEED": str(seed),
    }


def _pytest(tree: Path, tests: Iterable[str], seed: int, seconds: float) -> Run:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-rfE", "--tb=line", "-p", "no:cacheprovider"]
    command += [f"--timeout={TEST_SECONDS}", f"--hypothesis-seed={seed}", *tests]
    child = subprocess.Popen(
        command,
        cwd=tree,
        env={**_environment(tree, seed), "COLUMNS": "400"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    _running.add(child)
    try:
        said, _ = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return Run(None)
    finally:
        _end(child)
        _running.discard(child)
    if child.returncode == 0:
        return Run(0)
    found = _FAILED.search(said)
    lines = [line for line in said.splitlines() if line.strip()]
    by, why = (found[1], found[2] or "") if found else ("", lines[-1] if lines else "")
    return Run(child.returncode, by, _plain(why, tree))


def _end(child: subprocess.Popen[str]) -> None:
    """End a run that goes on, with what it has started: first so that it can stop its servers, then at all events."""
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=STOP_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _plain(why: str, tree: Path) -> str:
    """What a test said, without where that was."""
    return re.sub(r"\s+", " ", why.replace(str(tree.parent), "").replace(str(ROOT), ""))[:200]


def summary(results: Sequence[Result], seed: int) -> dict[str, object]:
    """The figures of a run."""
    count = {outcome: sum(r.outcome is outcome for r in results) for outcome in Outcome}
    return {
        "seed": seed,
        "planted": len(results),
        **{str(outcome): number for outcome, number in count.items()},
        "caught_share": round(count[Outcome.CAUGHT] / len(results), 3) if results else None,
        "survivors": [f"{r.no:03d}-{r.name}" for r in results if r.outcome is Outcome.SURVIVED],
        "seconds": round(sum(r.seconds for r in results), 1),
    }


def keep(results: Sequence[Result], seed: int, kept_in: Path = record.RESULTS, folder: Path = PATCHES) -> None:
    """Keep the results, beside those of mutants that were not tried now and are what they were."""
    now = {m.no: m.digest for m in read_all(folder)}
    kept = {entry["no"]: entry for entry in record.read("mutants", kept_in).get("mutants", [])}
    kept |= {r.no: {**asdict(r), "date": record.today(), "seed": seed} for r in results}
    entries = [kept[no] for no in sorted(kept) if now.get(no) == kept[no]["digest"]]
    count = {str(outcome): sum(e["outcome"] == outcome for e in entries) for outcome in Outcome}
    bounds = {"test_seconds": TEST_SECONDS, "named_seconds": NAMED_SECONDS, "wide_seconds": WIDE_SECONDS}
    figures = {"planted": len(now), "tried": len(entries), **count, "bounds": bounds, "mutants": entries}
    record.write("mutants", figures, kept_in)


def show(results: Sequence[Result], figures: Mapping[str, object], *, as_json: bool) -> None:
    """One JSON object, or a line for each mutant and each figure."""
    if as_json:
        print(json.dumps({**figures, "mutants": [asdict(r) for r in results]}))
        return
    for r in results:
        print(f"{r.no:03d} {r.name:44} {r.outcome:9} {r.seconds:7.1f} s  {r.by or r.why}")
    for key, value in figures.items():
        print(f"{key:13} {value}")


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.ArgumentParser:
    doc = __doc__ or ""
    options = argparse.ArgumentParser(
        prog="python -m reliability.mutants", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--only", type=int, nargs="+", default=[], metavar="N", help="these mutants, by number")
    options.add_argument("--workers", type=int, default=1, help="how many at once (default 1)")
    options.add_argument("--narrow", action="store_true", help="a survivor of the tests it names meets no others")
    options.add_argument("--seed", type=int, help="of everything the tests draw (default: another one each time)")
    options.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options.add_argument("--record", action="store_true", help="write reliability/results/mutants.json")
    return options


if __name__ == "__main__":
    sys.exit(main())
