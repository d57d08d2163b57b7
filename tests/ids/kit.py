"""Two sites of one dataset, and what tests ask of their ids."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from domicile import commands
from domicile.model.errors import DomicileError
from domicile.model.ids import Change, IdPlan, Ids, IdsChanged, Style, Wish
from domicile.model.site import Dataset, DatasetName, Site, SiteName
from domicile.model.workspace import Workspace

HERE, THERE = SiteName("here"), SiteName("there")
TABLE = "create table public.users (id {type} primary key, name text)"
MAP = """\
version: 1
dataset: shop
subject: {table: public.users, key: id}
tables:
  public.users: {role: subject}
"""


@dataclass
class Shop:
    """A workspace of two sites. ``done`` collects what apply says."""

    folder: Path
    at: dict[SiteName, str]
    done: list[Change] = field(default_factory=list)
    stop_after: int = 0  # changes; 0: do not stop

    @property
    def workspace(self) -> Workspace:
        name = DatasetName("shop")
        sites = {s: Site(s, "XX") for s in self.at}
        return Workspace(sites, {name: Dataset(name, "map.yaml", self.at)}, self.folder, "", self.folder)

    def mapped(self, more: str = "") -> None:
        (self.folder / "map.yaml").write_text(MAP + more)

    async def ids(self) -> Ids:
        return await commands.ids(self.workspace, "shop")

    async def plan(self, style: Style = Style.RANGES, **wish: Any) -> IdPlan:
        return await commands.plan_ids(self.workspace, "shop", self.wish(style, **wish))

    async def apply(self, style: Style = Style.RANGES, **wish: Any) -> IdsChanged:
        self.done.clear()
        stop = asyncio.Event()

        def note(change: Change) -> None:
            self.done.append(change)
            if len(self.done) == self.stop_after:
                stop.set()

        return await commands.apply_ids(self.workspace, "shop", self.wish(style, **wish), stop=stop, done=note)

    async def refusal(self, work: Any) -> DomicileError:
        with pytest.raises(DomicileError) as caught:
            await work
        assert caught.value.hint, caught.value
        return caught.value

    def wish(self, style: Style, sites: Sequence[SiteName] = (), **wish: Any) -> Wish:
        return Wish(style, tuple(sites) or tuple(self.at), **wish)

    def run(self, site: SiteName, statements: str) -> None:
        with psycopg.connect(self.at[site], autocommit=True) as conn:
            conn.execute(statements)

    def both(self, statements: str) -> None:
        for site in self.at:
            self.run(site, statements)

    def ask(self, site: SiteName, query: str) -> Any:
        with psycopg.connect(self.at[site], autocommit=True) as conn:
            return [row[0] for row in conn.execute(query).fetchall()]

    def draw(self, sequence: str, values: int = 3) -> dict[SiteName, list[int]]:
        query = f"select nextval('{sequence}') from generate_series(1, {values})"
        return {site: self.ask(site, query) for site in self.at}
