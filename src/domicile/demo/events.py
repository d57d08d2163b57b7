"""What the demo tells while it works; a face shows it in its own way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from domicile.model.report import MoveStatus


class Stage(StrEnum):
    """The stages in their order; the value is what a person reads."""

    BUILD = "build the sites and the store"
    SURVEY = "survey the store"
    PLAN = "plan the move"
    OPEN = "open the shop: customers begin to write"
    APPLY = "move the users, wave by wave"
    VERIFY = "verify"
    PURGE = "remove the source copy"
    CLOSE = "close the shop: each customer writes once more"
    CHECK = "check it all without the engine"
    PROVE = "export the evidence, and verify it twice"


@dataclass(frozen=True, slots=True)
class StageStarted:
    stage: Stage


@dataclass(frozen=True, slots=True)
class StageDone:
    """``said``: one short line each on what came out."""

    stage: Stage
    seconds: float
    said: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Built:
    """A step of the store's generation ended: ``number`` of ``of``; ``rows`` are those of this step."""

    table: str
    number: int
    of: int
    rows: int


@dataclass(frozen=True, slots=True)
class Moving:
    """The move or its purge went on."""

    stage: Stage
    status: MoveStatus


Event = StageStarted | StageDone | Built | Moving
Tell = Callable[[Event], None]
