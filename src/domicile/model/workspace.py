"""What a face hands to every command: the configuration, already read and checked. Built on the top floor
only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.plan import Limits
from domicile.model.site import Dataset, DatasetName, Site, SiteName

CONTROL_EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True)
class Workspace:
    """``control`` is ``embedded`` or a libpq conninfo; ``state_dir`` holds the embedded control database and
    the key of the hashes."""

    sites: Mapping[SiteName, Site]
    datasets: Mapping[DatasetName, Dataset]
    state_dir: Path
    config_digest: str  # SHA-256 over the meaning of the configuration, secrets left out
    base_dir: Path  # relative paths in the configuration start here
    limits: Limits = field(default_factory=Limits)
    control: str = field(default=CONTROL_EMBEDDED, repr=False)
    postgres: Path | None = None  # programs of an installed PostgreSQL for the embedded control database
    failpoint: str = ""

    def dataset(self, name: str) -> Dataset:
        """The dataset of that name, or a config-invalid error that lists the names there are."""
        found = self.datasets.get(DatasetName(name))
        if found is None:
            raise DomicileError(
                ErrorCode.CONFIG_INVALID,
                f"there is no dataset {name!r} in the configuration",
                facts={"datasets": sorted(self.datasets)},
                hint="Name one of the datasets of domicile.yaml, or add this one.",
            )
        return found

    def conninfo(self, dataset: str, site: str) -> str:
        """Where that dataset's database is at that site, or a config-invalid error that lists the sites there
        are."""
        at = self.dataset(dataset).at
        found = at.get(SiteName(site))
        if found is None:
            raise DomicileError(
                ErrorCode.CONFIG_INVALID,
                f"dataset {dataset!r} is not configured at site {site!r}",
                facts={"sites": sorted(at)},
                hint="Name one of its sites, or add the site under datasets in domicile.yaml.",
            )
        return found
