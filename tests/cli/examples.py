"""Results as the commands return them, for tests of how they look."""

from __future__ import annotations

from dataclasses import replace

from domicile.model.phase import Phase, Status
from domicile.model.plan import Check, Cohort, Format, Limits, Mode, Plan, TablePlan, WavePlan
from domicile.model.report import (
    InTheWay,
    LiveFigures,
    MoveReport,
    MoveStatus,
    Presence,
    PurgedTable,
    PurgeReport,
    VerifyReport,
    WaveCheck,
    WaveStatus,
    Whereabouts,
)
from domicile.model.schema import TableName
from domicile.model.site import DatasetName, MoveId, SiteName
from domicile.model.verdict import TableDigest
from domicile.postgres.site_probe import Lack, Rights, Server, SiteReport, Weight

BEIJING, SINGAPORE, STORE = SiteName("beijing"), SiteName("singapore"), DatasetName("store")
MOVE = MoveId("store-beijing-singapore-a1b2c3")


def wave(no: int, phase: Phase, status: Status, **more: object) -> WaveStatus:
    return replace(WaveStatus(no, phase, status, 5_000, 123_456, 45_678_901), **more)  # type: ignore[arg-type]


WAVES = (
    wave(
        1, Phase.SOAK, Status.WAITING, rows_copied=123_456, bytes_copied=45_678_901, fence_seconds=3.2, verdict="clean"
    ),
    wave(2, Phase.COPY, Status.RUNNING, rows_copied=61_728, bytes_copied=22_000_000),
    *(wave(no, Phase.PLANNED, Status.PENDING) for no in range(3, 41)),
)
RUNNING = MoveStatus(
    move_id=MOVE,
    dataset=STORE,
    source=BEIJING,
    target=SINGAPORE,
    status=Status.RUNNING,
    pause_requested=True,
    abort_requested=False,
    runner="host:4711",
    subjects=200_000,
    rows_planned=40 * 123_456,
    bytes_planned=40 * 45_678_901,
    created_at="2026-01-02T03:04:05+00:00",
    waves=WAVES,
    plan_digest="ab" * 32,
    safe="Every wave is whole: at its source or at its target, and no subject has two homes anywhere.",
    next="Watch it with: domicile status store-beijing-singapore-a1b2c3 --watch",
)
HANDED_OVER = tuple(
    wave(
        no,
        Phase.SOAK,
        Status.WAITING,
        rows_copied=123_456,
        bytes_copied=45_678_901,
        copy_seconds=1.5,
        verdict="clean",
        live=LiveFigures(lag_bytes=0, pause_ms=3.0 + no * 0.1, round_trip_ms=0.35),
    )
    for no in range(1, 11)
)
CLOSING_IN = wave(
    11,
    Phase.HANDOVER,
    Status.RUNNING,
    rows_copied=123_456,
    bytes_copied=45_678_901,
    copy_seconds=1.5,
    verdict="clean",
    live=LiveFigures(
        lag_bytes=1_234_567,
        lag_seconds=0.84,
        changes=987_654,
        dirty_rows=312,
        dirty_subjects=40,
        blockers=(InTheWay(4711, "psql", 12.44), InTheWay(None, "", 3.0), InTheWay(4712, "billing worker", None)),
        wal_bytes=1_200_000_000,
        probe_p99_ms=31.4,
        probe_base_ms=8.24,
        slowed=0.4,
        tries=2,
        last_try="2 transactions still write for the wave after 10 s",
        seconds_left=12.0,
    ),
)
LIVE = replace(
    RUNNING,
    pause_requested=False,
    waves=(*HANDED_OVER, CLOSING_IN, *(wave(no, Phase.PLANNED, Status.PENDING) for no in range(12, 41))),
)
COLD = replace(RUNNING, mode=Mode.COLD)
FAILED = replace(
    RUNNING,
    status=Status.FAILED,
    runner="",
    waves=(
        replace(
            WAVES[1],
            phase=Phase.PLANNED,
            status=Status.FAILED,
            error_code="discrepancy",
            error_message="3 rows differ between beijing and singapore: store.orders (17), store.orders (18)",
        ),
    ),
)
TABLES = (TableName("store", "user_account"), TableName("store", "Quoted Name With Many Words In It"))
PLAN = Plan(
    version=1,
    dataset=STORE,
    source=BEIJING,
    target=SINGAPORE,
    cohort=Cohort("market in ('IN', 'SG') and created_at < '2026-01-01' and not is_employee", "", 200_000, "cd" * 32),
    tables=(
        TablePlan(TABLES[0], ("id", "email"), 200_000, 80_000_000, Format.BINARY),
        TablePlan(TABLES[1], ("id",), 4_738_240, 1_747_156_040, Format.TEXT, "an array of a user's own type"),
    ),
    waves=tuple(WavePlan(n, (n - 1) * 5_000, n * 5_000, 5_000, 123_456, 45_678_901, 1.5) for n in range(1, 41)),
    checks=(
        Check("map complete", True, "every table has a role"),
        Check("sequences", False, "store.orders_id_seq has CACHE 20", "Nothing; ids will have gaps.", blocking=False),
        Check("schemas equal", False, "store.orders.note is text at beijing, varchar(20) at singapore", "Alter it."),
    ),
    limits=Limits(),
    config_digest="00",
    map_digest="11",
    source_schema_digest="22",
    target_schema_digest="33",
    estimate_basis="rates measured on two cores: 140,000 rows/s",
    made_at="2026-01-02T03:04:05+00:00",
    digest="ef" * 32,
)
ONLY_COLD = replace(
    PLAN,
    checks=(
        PLAN.checks[0],
        Check("change stream at beijing", False, "wal_level is replica", "alter system set wal_level = 'logical';",
              mode=Mode.LIVE),
        Check("tables in the change stream", True, "the rows of 2 tables can be told apart", mode=Mode.LIVE),
    ),
)  # fmt: skip
VERIFY = VerifyReport(
    MOVE,
    False,
    (
        WaveCheck(1, Phase.SOAK, True, True, 123_456, 123_456, 0),
        WaveCheck(2, Phase.SOAK, False, False, 99, 98, 1, ("store.orders (17): missing at the target",), "look at it"),
    ),
)
PURGE = PurgeReport(
    MOVE,
    BEIJING,
    SINGAPORE,
    40,
    4_938_240,
    tuple(PurgedTable(str(t), 2_469_120) for t in TABLES),
    0,
    61.5,
    ("Backups and archived WAL at beijing hold the rows until they expire.",),
)
PURGED_BACK = replace(PURGE, site=SINGAPORE, home=BEIJING, waves=1, left_at_source=None)
REPORT = MoveReport(
    status=replace(RUNNING, status=Status.WAITING),
    rows=4_938_240,
    bytes=1_827_156_040,
    seconds=75.0,
    rows_per_second=65_843.2,
    verdict="clean: 40 of 40 moved waves have equal roots at both sites",
    discrepancies=(),
    tables=tuple(TableDigest(t, 2_469_120, 0) for t in TABLES),
    fence_seconds_median=1.9,
    fence_seconds_max=3.2,
    stayed=("Subjects outside the cohort: the plan's condition did not name them; no row of theirs left beijing.",),
    purged="Nothing was purged: the source copy is still at beijing.",
)
WHERE = Whereabouts(
    STORE,
    SINGAPORE,
    3,
    "directory",
    (Presence(BEIJING, True, "departed", 3), Presence(SINGAPORE, True, "resident", 3)),
)
SITES = (
    SiteReport(
        BEIJING,
        STORE,
        "host=a",
        True,
        server=Server("18.4 (Debian)", 180_004, "replica", "UTF8", False, False, 0, 10**9, 12_345_678_901, 0.21, -3.4),
        rights=Rights("mover", False, False, True, False, 12, 3, ("app",), 0),
        lacks=(
            Lack("the role may not create the schema domicile", Weight.BLOCKS, 'grant create on database "s" to "m";'),
            Lack("rows would cross the network unencrypted", Weight.WARNS, "-- add sslmode=verify-full", "you"),
        ),
    ),
    SiteReport(SINGAPORE, STORE, "host=b", False, "site-unreachable", "cannot connect: nothing listens there", "Look."),
)
