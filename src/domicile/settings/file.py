"""The form of ``domicile.yaml``: checked by pydantic, and the source of the JSON Schema that editors use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from domicile.model.plan import Limits

_DEFAULTS = Limits()

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1_000)]


class Entry(BaseModel):
    """No unknown keys, no silent conversion of types; a rejected value is never repeated in an error."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )


class SiteEntry(Entry):
    """One PostgreSQL cluster under one jurisdiction."""

    jurisdiction: Text
    """Whose law applies: a country code (CN, IN, SG), or a state or union with a law of its own (US-CA, EU)."""
    provider: str = ""
    """Who runs the machines."""
    description: str = ""
    """For people."""
    conninfo: SecretStr
    """libpq connection string: key=value pairs or a URL. service=, passfile= and PG* variables are
    honoured; ${NAME} is
    taken from the environment."""
    scan_agent: Annotated[list[Text], Field(max_length=64)] = []
    """The program, and its arguments, that runs domicile scan DATA_DIRECTORY --json beside this site's server, for a
    purge that is carried elsewhere: for example [ssh, db1, sudo, -n, domicile, scan, /srv/pg, --json]."""


class DatasetEntry(Entry):
    """One service's database, present at one or more sites."""

    map: Text
    """Path of the data map, relative to this file."""
    dbname: str = ""
    """The database's name at every site; a dbname in the conninfo of a site is replaced."""
    at: Annotated[list[Name], Field(min_length=1)] | Annotated[dict[Name, SecretStr | None], Field(min_length=1)]
    """The sites that hold the dataset: a list of names, or name: conninfo, whose parts replace those of the
    site's own.
    """


class LimitsEntry(Entry):
    """Bounds of a wave and of its waits."""

    wave_subjects_max: int = Field(default=_DEFAULTS.wave_subjects_max, ge=1, le=1_000_000)
    """Most subjects in a wave."""
    wave_rows_max: int = Field(default=_DEFAULTS.wave_rows_max, ge=1)
    """Most rows in a wave; one subject alone may exceed it."""
    wave_bytes_max: int = Field(default=_DEFAULTS.wave_bytes_max, ge=1)
    """Most bytes in a wave; one subject alone may exceed it."""
    wave_seconds_max: float = Field(default=_DEFAULTS.wave_seconds_max, gt=0)
    """Longest estimated copy of a wave, in seconds: in a cold move its subjects cannot write meanwhile."""
    canary_subjects_max: int = Field(default=_DEFAULTS.canary_subjects_max, ge=0)
    """Most subjects in the first wave."""
    chunk_rows: int = Field(default=_DEFAULTS.chunk_rows, ge=1)
    """Rows copied in one transaction, about."""
    streams: int = Field(default=_DEFAULTS.streams, ge=1, le=64)
    """Copies side by side."""
    fence_seconds_max: float = Field(default=_DEFAULTS.fence_seconds_max, gt=0)
    """How long a fence waits for the transactions of writers, in seconds, before it steps back."""
    lock_timeout_ms: int = Field(default=_DEFAULTS.lock_timeout_ms, ge=1, le=60_000)
    """How long arming the guard may make other writers queue, in milliseconds."""
    purge_chunk_rows: int = Field(default=_DEFAULTS.purge_chunk_rows, ge=1)
    """Rows deleted in one transaction, about."""
    pause_ms_max: int = Field(default=_DEFAULTS.pause_ms_max, ge=10, le=60_000)
    """How long a live handover may make the writers of its wave wait, in milliseconds, before it steps back."""
    handover_tries: int = Field(default=_DEFAULTS.handover_tries, ge=1)
    """How often a live handover is tried before its wave fails."""
    wave_tries: int = Field(default=_DEFAULTS.wave_tries, ge=1)
    """How often a live wave is tried that uses a budget up, before the move stops."""
    wave_retry_seconds: float = Field(default=_DEFAULTS.wave_retry_seconds, ge=0)
    """How long it waits until it is tried again, in seconds; twice as long each time."""
    settle_seconds: float = Field(default=_DEFAULTS.settle_seconds, ge=0)
    """How long the application is left alone when the guard has changed before a live handover, in seconds, because its
    sessions plan their writes anew then; and a quarter of it after a handover."""
    catch_up_seconds_max: float = Field(default=_DEFAULTS.catch_up_seconds_max, gt=0)
    """How long a live wave may take to catch up, and again until a try of its handover may begin, in seconds."""
    lag_bytes_max: int = Field(default=_DEFAULTS.lag_bytes_max, ge=1)
    """How far behind the source, in bytes of its log, a wave may be when its handover begins."""
    wal_bytes_max: int = Field(default=_DEFAULTS.wal_bytes_max, ge=1)
    """How much log a site may keep for the stream, in bytes, before the wave is given up."""
    probe_p99_ratio_max: float = Field(default=_DEFAULTS.probe_p99_ratio_max, ge=1)
    """How much slower a probe write at a site may become (99th percentile against before) until the move slows down."""
    probe_p99_ms_min: float = Field(default=_DEFAULTS.probe_p99_ms_min, ge=0)
    """A probe write faster than this, in milliseconds, never slows the move down."""
    undo_hours: float = Field(default=_DEFAULTS.undo_hours, ge=0, le=87_600)
    """How long after the last wave's arrival nothing can be purged, in hours."""
    purge_approvals: int = Field(default=_DEFAULTS.purge_approvals, ge=0, le=9)
    """How many different people must approve a purge, with domicile approve."""
    approval_hours_max: float = Field(default=_DEFAULTS.approval_hours_max, gt=0, le=87_600)
    """How long an approval counts, in hours."""


class ConfigFile(Entry):
    """The whole file."""

    version: Literal[1]
    """The version of this format."""
    control: SecretStr = SecretStr("embedded")
    """Where moves are recorded: embedded (a PostgreSQL that domicile runs in the state directory) or a
    libpq connection string.
    """
    state: Text = ".domicile"
    """The directory for the embedded control database and keys, relative to this file."""
    postgres: Text | None = None
    """The directory with the programs of an installed PostgreSQL (initdb, postgres) to run the embedded control
    database with, instead of the bundled one. A database that exists stays with the version that made it.
    """
    sites: dict[Name, SiteEntry] = Field(min_length=1)
    """Where data can live."""
    datasets: dict[Name, DatasetEntry] = Field(default_factory=dict)
    """Which databases domicile looks after."""
    limits: LimitsEntry = Field(default_factory=LimitsEntry)
    """Bounds of a wave and of its waits."""
