"""One function per thing an operator can do. CLI, web and tests call these; faces only parse and print."""

from domicile.commands.afterwards import purge, recheck, rollback, soak
from domicile.commands.approvals import approve
from domicile.commands.detached import apply_detached, purge_detached, resume_detached
from domicile.commands.evidence import evidence_bundle, evidence_keys
from domicile.commands.ids import apply_ids, ids, plan_ids
from domicile.commands.inspect import plan, sites, survey, survey_explain
from domicile.commands.maps import map_check, map_export, map_update
from domicile.commands.moves import abort, apply, pause, resume
from domicile.commands.reading import report, status, verify, where

__all__ = [
    "abort",
    "apply",
    "apply_detached",
    "apply_ids",
    "approve",
    "evidence_bundle",
    "evidence_keys",
    "ids",
    "map_check",
    "map_export",
    "map_update",
    "pause",
    "plan",
    "plan_ids",
    "purge",
    "purge_detached",
    "recheck",
    "report",
    "resume",
    "resume_detached",
    "rollback",
    "sites",
    "soak",
    "status",
    "survey",
    "survey_explain",
    "verify",
    "where",
]
