"""Sites, survey and plan: they look, and change nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from domicile.commands.desk import load_map, read_subjects
from domicile.model.plan import Limits, Plan, Question
from domicile.model.site import DatasetName, SiteName
from domicile.model.workspace import Workspace
from domicile.planner import condition
from domicile.planner.build import build
from domicile.planner.request import PlanRequest
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.site_probe import SiteReport, probe
from domicile.survey.discover import Draft, draft
from domicile.survey.explain import Explanation, explain


async def sites(workspace: Workspace) -> tuple[SiteReport, ...]:
    """What every dataset's database at every site is and lacks; an unreachable one is reported, not
    raised."""
    places = [
        (site, dataset.name, conninfo)
        for dataset in workspace.datasets.values()
        for site, conninfo in dataset.at.items()
    ]
    return tuple(await asyncio.gather(*(probe(*place) for place in places)))


async def survey(workspace: Workspace, dataset: str, site: str, *, subject: str | None = None) -> Draft:
    """Draft the data map of a live database. ``subject`` names the subject table when the survey should not
    choose it."""
    async with await connect(workspace.conninfo(dataset, site), settings=SESSION) as conn:
        return await draft(conn, DatasetName(dataset), subject=subject)


async def survey_explain(
    workspace: Workspace, dataset: str, site: str, table: str, *, subject: str | None = None
) -> Explanation:
    """Why the survey gives one table its role, with the other paths it could have. Raises map-incomplete."""
    async with await connect(workspace.conninfo(dataset, site), settings=SESSION) as conn:
        return await explain(conn, table, subject=subject)


async def plan(workspace: Workspace, question: Question, *, limits: Limits | None = None) -> Plan:
    """Plan what the question asks; failed checks stand in the plan, they are not raised. Changes nothing at
    either site."""
    if bool(question.where.strip()) == bool(question.subjects_file):
        raise condition.invalid("say who moves by a condition or by a file of subjects: one of them")
    subjects = read_subjects(question.subjects_file) if question.subjects_file else None
    request = PlanRequest(
        dataset=DatasetName(question.dataset),
        source=SiteName(question.source),
        target=SiteName(question.target),
        source_conninfo=workspace.conninfo(question.dataset, question.source),
        target_conninfo=workspace.conninfo(question.dataset, question.target),
        data_map=load_map(workspace, question.dataset),
        config_digest=workspace.config_digest,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        where=question.where,
        subjects=subjects,
        subjects_file=question.subjects_file,
        limits=limits or workspace.limits,
        way_back=question.way_back,
        sign_ups=question.sign_ups,
    )
    return await build(request)
