"""Where the application believes that everybody lives: at first where it found them, then as the databases say."""

from __future__ import annotations

from collections.abc import Mapping
import random

from domicile.world.kinds import Transaction
from domicile.world.ledger import Ledger, Person


class Router:
    """One cache for all writers of a process. With each answer goes the epoch of the word it rests on."""

    def __init__(self, ledger: Ledger, sites: tuple[str, ...], dice: random.Random) -> None:
        self._ledger = ledger
        self._sites = sites
        self._dice = dice
        self._believed: dict[int, tuple[str, float]] = {}
        self._sign_up_at: dict[Person, str] = {}

    def knows(self, user: int) -> bool:
        """Somebody said where this user lives."""
        return user in self._believed

    def where(self, made: Transaction, *, straying: bool) -> tuple[str, float]:
        """The site to go to, and the epoch. ``straying``: any site that was ever the user's home, with epoch -1."""
        if made.like is not None:
            return self._sign_up_at.get(made.like, made.like.origin), 0.0
        if straying and (home := self._ledger.homes.get(made.user)) is not None:
            return self._dice.choice(sorted(home.ever)), -1.0
        return self._believed.get(made.user) or (self._ledger.people[made.user].origin, 0.0)

    def told(self, made: Transaction, facts: Mapping[str, object]) -> None:
        """A site refused it with DM001 and these facts."""
        home, epoch = str(facts["home"]), float(str(facts["epoch"]))
        if made.like is not None:
            self._sign_up_at[made.like] = home
        elif epoch >= self._believed.get(made.user, ("", 0.0))[1]:
            self._believed[made.user] = home, epoch

    def not_at(self, user: int, site: str) -> None:
        """Nobody of that id is at that site: look at the next one, if that was where we believed it to be."""
        believed, epoch = self._believed.get(user, (self._ledger.people[user].origin, 0.0))
        if believed == site:
            # Newer than what sent us here, older than any word that is still to come.
            following = self._sites[(self._sites.index(site) + 1) % len(self._sites)]
            self._believed[user] = following, epoch + 0.5 / len(self._sites)
