"""The demo's sites: four embedded PostgreSQL servers and the control database, which leave nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
import hashlib
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from psycopg.conninfo import conninfo_to_dict, make_conninfo
import yaml

from domicile.demo.whole import whole
from domicile.model.plan import Limits
from domicile.model.site import Dataset, DatasetName, Site, SiteName
from domicile.model.workspace import Workspace
from domicile.postgres.connect import connect
from domicile.sites.embedded import EmbeddedCluster, scratch_directory
from domicile.sites.shared import control_cluster

DATASET = DatasetName("store")
SOURCE, TARGET = SiteName("beijing"), SiteName("singapore")
OTHERS = (SiteName("california"), SiteName("oregon"))
SITES: Mapping[SiteName, Site] = MappingProxyType(
    {
        SOURCE: Site(SOURCE, "CN", "own data centre", "where the company began"),
        OTHERS[0]: Site(OTHERS[0], "US", "cloud"),
        OTHERS[1]: Site(OTHERS[1], "US", "cloud"),
        TARGET: Site(TARGET, "SG", "cloud", "the new home of users outside mainland China"),
    }
)
MAP_NAME, CONFIG_NAME, PASSFILE_NAME, STATE_NAME = "store.map.yaml", "domicile.yaml", "passfile", "state"
MADE_AT_A_TIME = 2  # servers; each costs a second of one core
# Four servers share one small machine; each holds at most a few hundred megabytes here.
_SETTINGS = {"max_connections": "60"}


@dataclass(slots=True)
class Sites:
    """The running servers by site. ``directory`` holds everything they have on disk."""

    directory: Path
    postgres: Path | None = None  # programs of an installed PostgreSQL, instead of the bundled one
    clusters: dict[SiteName, EmbeddedCluster] = field(default_factory=dict)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    # The first in the queue, whose store takes longest to fill, must not wait for the initdb of all others.
    _making: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MADE_AT_A_TIME))

    async def start(self, name: SiteName) -> str:
        """Start a site with an empty database for the store; returns its conninfo, which holds a secret."""
        async with self._making:
            cluster = await whole(
                EmbeddedCluster.create(self.directory, name, bindir=self.postgres, settings=_SETTINGS)
            )
            self.clusters[name] = cluster
            await whole(cluster.start())
        async with await connect(cluster.conninfo()) as conn:
            await conn.execute("create database store")
        return cluster.conninfo(DATASET)

    async def start_control(self) -> None:
        """Hold the control database for the whole demo: else each command would start and stop it."""
        async with self._making:
            control = control_cluster(self.directory / STATE_NAME, bindir=self.postgres)
            await whole(self._stack.enter_async_context(control))

    def conninfo(self, name: SiteName) -> str:
        """Where the store is at that site."""
        return self.clusters[name].conninfo(DATASET)

    def workspace(self, limits: Limits) -> Workspace:
        """The configuration a person would have written for these sites."""
        text = (resources.files("domicile.world") / MAP_NAME).read_text(encoding="utf-8")
        (self.directory / MAP_NAME).write_text(text, encoding="utf-8")
        at = MappingProxyType({name: self.conninfo(name) for name in SITES})
        return Workspace(
            sites=SITES,
            datasets=MappingProxyType({DATASET: Dataset(DATASET, MAP_NAME, at)}),
            state_dir=self.directory / STATE_NAME,
            config_digest=hashlib.sha256(" ".join(SITES).encode()).hexdigest(),
            base_dir=self.directory,
            limits=limits,
            postgres=self.postgres,
        )

    def write_config(self) -> Path:
        """A ``domicile.yaml`` (and a passfile) for whoever looks around in a demo that is kept."""
        passfile = self.directory / PASSFILE_NAME
        known = {name: conninfo_to_dict(self.conninfo(name)) for name in SITES}
        passfile.touch(mode=0o600)
        passfile.write_text("".join(f"{c['host']}:{c['port']}:*:{c['user']}:{c['password']}\n" for c in known.values()))
        places = {
            name: make_conninfo("", **{**{k: v for k, v in c.items() if k != "password"}, "passfile": str(passfile)})
            for name, c in known.items()
        }
        config = {
            "version": 1,
            "state": STATE_NAME,
            **({"postgres": str(self.postgres)} if self.postgres else {}),
            "sites": {
                str(s.name): {"jurisdiction": s.jurisdiction, "provider": s.provider, "conninfo": places[s.name]}
                for s in SITES.values()
            },
            "datasets": {str(DATASET): {"map": MAP_NAME, "at": [str(name) for name in SITES]}},
        }
        path = self.directory / CONFIG_NAME
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path

    async def stop(self) -> None:
        """Stop every server, the control database too. Idempotent."""
        closing = [self._stack.aclose(), *(cluster.stop() for cluster in self.clusters.values())]
        await asyncio.gather(*closing, return_exceptions=True)


@asynccontextmanager
async def demo_sites(postgres: Path | None = None) -> AsyncIterator[Sites]:
    """An empty scratch directory to start sites in; at the end, however it comes, no server and no file is left."""
    with scratch_directory("domicile-demo-") as directory:
        sites = Sites(directory, postgres)
        try:
            yield sites
        finally:
            await whole(sites.stop())
