"""Sites and datasets: where data can live, and which service's data is meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

SiteName = NewType("SiteName", str)
DatasetName = NewType("DatasetName", str)
MoveId = NewType("MoveId", str)


@dataclass(frozen=True, slots=True)
class Site:
    """One PostgreSQL cluster (later with an object store) under one jurisdiction."""

    name: SiteName
    jurisdiction: str
    provider: str = ""
    description: str = ""
    scan_agent: tuple[str, ...] = ()  # a program and its arguments: domicile scan beside the server


@dataclass(frozen=True, slots=True)
class Dataset:
    """One service's database, present at one or more sites.

    ``at`` maps a site to a libpq conninfo, which may hold a secret and is never shown: hence ``repr=False``.
    """

    name: DatasetName
    map_path: str
    at: Mapping[SiteName, str] = field(repr=False)
