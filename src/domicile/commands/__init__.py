"""One function per thing an operator can do. CLI, web and tests call these; faces only parse and print."""

from domicile.commands.afterwards import purge, rollback, soak
from domicile.commands.detached import apply_detached, purge_detached, resume_detached
from domicile.commands.inspect import map_check, plan, sites, survey
from domicile.commands.moves import abort, apply, pause, resume
from domicile.commands.reading import report, status, verify, where

__all__ = [
    "abort",
    "apply",
    "apply_detached",
    "map_check",
    "pause",
    "plan",
    "purge",
    "purge_detached",
    "report",
    "resume",
    "resume_detached",
    "rollback",
    "sites",
    "soak",
    "status",
    "survey",
    "verify",
    "where",
]
