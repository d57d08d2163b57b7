"""Connections to a site: opened with libpq's own rules, failing with an error that says what to do and no
secret.

Everything libpq honours is honoured: conninfo or URL, ``service=``, ``passfile``, PG* variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import os
from types import MappingProxyType

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from domicile.model.errors import DomicileError, ErrorCode

CONNECT_TIMEOUT_S = 10
APPLICATION_NAME = "domicile"
HIDDEN = "***"
SECRET_PARAMETERS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
# A wide-area line that was cut tells nobody: the kernel has to ask. About a minute until the other side is given up.
_KEEPALIVES = {"keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 4, "tcp_user_timeout": 60_000}
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})

# What the engine relies on, whatever the role's, the database's or the server's defaults are. Texts of values
# must be equal at both sites to be compared; no limit may cut a long copy; a row hidden by row-level security
# must be an error and not a row less.
SESSION: Mapping[str, str] = MappingProxyType(
    {
        "client_encoding": "UTF8",
        "client_min_messages": "error",
        "datestyle": "ISO, MDY",
        "intervalstyle": "postgres",
        "timezone": "UTC",
        "extra_float_digits": "3",
        "bytea_output": "hex",
        "lc_monetary": "C",
        "xmloption": "content",
        "search_path": "",
        "statement_timeout": "0",
        "lock_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "idle_session_timeout": "0",
        "row_security": "off",
        "default_transaction_isolation": "read committed",
        "default_transaction_read_only": "off",
    }
)

# Without parameters, because a replication connection knows only the simple protocol.
_SET_ALL = """
select pg_catalog.set_config(name, value, false)
from rows from (pg_catalog.unnest({}::text[]), pg_catalog.unnest({}::text[])) as setting (name, value)
"""


@dataclass(frozen=True, slots=True)
class _Reason:
    """One way in which a connection fails, told by what libpq or the server says (English, as libpq is built
    here)."""

    name: str
    signs: tuple[str, ...]
    code: ErrorCode
    message: str
    hint: str


_REASONS = (
    _Reason(
        "wrong-password",
        ("password authentication failed", "no password supplied", "SCRAM", "empty password"),
        ErrorCode.ACCESS_DENIED,
        "the server refused the password",
        "Check the user and the password in the passfile, the service file or the connection string.",
    ),
    _Reason(
        "no-such-database",
        ("database", "does not exist"),
        ErrorCode.SITE_UNREACHABLE,
        "the server has no database of that name",
        "Create the database, or correct dbname in the connection string.",
    ),
    _Reason(
        "no-such-role",
        ("role", "does not exist"),
        ErrorCode.ACCESS_DENIED,
        "the server has no role of that name",
        "Create the role, or correct user in the connection string.",
    ),
    _Reason(
        "tls-unsupported",
        ("server does not support SSL",),
        ErrorCode.SITE_UNREACHABLE,
        "the server does not offer TLS, and the connection string demands it",
        "Switch TLS on at the server, or lower sslmode where the network is trusted.",
    ),
    _Reason(
        "tls-refused",
        ("SSL error", "certificate", "sslmode", "SSL connection", "sslrootcert"),
        ErrorCode.SITE_UNREACHABLE,
        "TLS was refused",
        "Check sslmode, sslrootcert and the name in the server's certificate.",
    ),
    _Reason(
        "not-admitted",
        ("pg_hba.conf",),
        ErrorCode.ACCESS_DENIED,
        "the server's pg_hba.conf admits no such connection",
        "Add a line for this user, database and address to pg_hba.conf, then reload.",
    ),
    _Reason(
        "no-login",
        ("is not permitted to log in",),
        ErrorCode.ACCESS_DENIED,
        "the role may not log in",
        "alter role ... login;",
    ),
    _Reason(
        "connect-right-missing",
        ("permission denied for database",),
        ErrorCode.ACCESS_DENIED,
        "the role may not connect to this database",
        "grant connect on database ... to ...;",
    ),
    _Reason(
        "full",
        ("too many clients", "remaining connection slots", "too many connections", "max_wal_senders"),
        ErrorCode.SITE_UNREACHABLE,
        "the server has no free connection",
        "Raise max_connections (for the change stream max_wal_senders) or the role's limit, or wait until others have"
        " left.",
    ),
    _Reason(
        "replication-right-missing",
        ("to start walsender", "to start WAL sender"),
        ErrorCode.RIGHT_MISSING,
        "the role may not read the change stream",
        "alter role ... replication;",
    ),
    _Reason(
        "not-ready",
        ("starting up", "shutting down", "not yet accepting", "recovery mode", "not accepting connections"),
        ErrorCode.SITE_UNREACHABLE,
        "the server is starting or stopping",
        "Try again when it is up.",
    ),
    _Reason(
        "unknown-host",
        (
            "could not translate host name",
            "Name or service not known",
            "failed to resolve host",
            "nodename nor",
        ),
        ErrorCode.SITE_UNREACHABLE,
        "the host name is not known",
        "Check the host in the connection string, and the name service.",
    ),
    _Reason(
        "timeout",
        ("timeout expired", "timed out"),
        ErrorCode.SITE_UNREACHABLE,
        "the server did not answer in time",
        "Check address, port and firewalls; connect_timeout in the connection string waits longer.",
    ),
    _Reason(
        "refused",
        ("Connection refused", "No such file or directory"),
        ErrorCode.SITE_UNREACHABLE,
        "nothing listens there",
        "Check host and port, and that the server runs and listens on that address.",
    ),
    _Reason(
        "no-service",
        ("definition of service",),
        ErrorCode.CONFIG_INVALID,
        "the service is not defined",
        "Add it to ~/.pg_service.conf or the file that PGSERVICEFILE names.",
    ),
)
_ALL_SIGNS = frozenset({"no-such-database", "no-such-role"})  # reasons that need all their signs; others need one
_OTHER = _Reason(
    "other",
    (),
    ErrorCode.SITE_UNREACHABLE,
    "the server could not be reached",
    "Try the same with psql, which says more.",
)


async def connect(
    conninfo: str,
    *,
    autocommit: bool = True,
    application_name: str = APPLICATION_NAME,
    settings: Mapping[str, str] = NO_SETTINGS,
    replication: bool = False,
) -> psycopg.AsyncConnection:
    """Open one connection and apply ``settings`` to its session (`SESSION` for the engine's own). ``replication``
    asks for a session that can read the database's change stream; pg_hba.conf knows it by the database's name.

    ``connect_timeout`` is 10 s unless the conninfo or PGCONNECT_TIMEOUT say otherwise. Raises
    ``DomicileError`` (site-unreachable, access-denied, config-invalid, setting-wrong), whose facts show where
    and why, never a secret.
    """
    parameters = _parse(conninfo)
    parameters["application_name"] = application_name
    if replication:
        parameters["replication"] = "database"
    if "PGCONNECT_TIMEOUT" not in os.environ:
        parameters.setdefault("connect_timeout", CONNECT_TIMEOUT_S)
    for name, value in _KEEPALIVES.items():
        parameters.setdefault(name, value)
    try:
        connection = await psycopg.AsyncConnection.connect(make_conninfo("", **parameters), autocommit=True)
    except psycopg.OperationalError as error:
        # "from None": the chained error's text is libpq's, and a log of the traceback would show it
        # unscrubbed.
        raise _refused(conninfo, str(error)) from None
    try:
        await _apply(connection, settings, conninfo)
        await connection.set_autocommit(autocommit)
    except BaseException:
        await connection.close()
        raise
    return connection


def safe_conninfo(conninfo: str) -> str:
    """The same connection string with its secrets hidden, for messages. One that cannot be parsed is hidden
    whole."""
    try:
        parameters = conninfo_to_dict(conninfo)
    except (psycopg.ProgrammingError, UnicodeError):  # the latter for %80 in a URL
        return HIDDEN
    for name in SECRET_PARAMETERS:
        if parameters.get(name):
            parameters[name] = HIDDEN
    return make_conninfo("", **parameters)


async def set_all(connection: psycopg.AsyncConnection, settings: Mapping[str, str], first: str = "") -> None:
    """Apply ``settings`` to the session, in one round trip with the statements that go ``first``."""
    wanted = sql.SQL(_SET_ALL).format(list(settings), list(settings.values()))
    await connection.execute(sql.SQL("; ").join([*([sql.SQL(first)] if first else []), wanted]))


async def _apply(connection: psycopg.AsyncConnection, settings: Mapping[str, str], conninfo: str) -> None:
    if not settings:
        return
    try:
        await set_all(connection, settings)
    except psycopg.Error as error:
        if connection.closed:  # it went away meanwhile, and has refused nothing
            raise _refused(conninfo, str(error)) from None
        raise DomicileError(
            ErrorCode.SETTING_WRONG,
            f"the server refused a setting of the session: {error.diag.message_primary or error.sqlstate}",
            facts={"settings": dict(settings), "sqlstate": error.sqlstate},
            hint="A connection pooler or a very old server can be the reason: connect to PostgreSQL itself.",
        ) from error


def _parse(conninfo: str) -> dict[str, str | int | None]:
    try:
        return dict(conninfo_to_dict(conninfo))
    except (psycopg.ProgrammingError, UnicodeError):  # the latter for %80 in a URL
        # libpq quotes the part it did not understand, which may be a password with a blank in it.
        raise DomicileError(
            ErrorCode.CONFIG_INVALID,
            "the connection string is not valid (its text is not shown, because it may hold a password)",
            hint="Write key=value pairs, with values that hold blanks in single quotes, or postgresql://user@host/db.",
        ) from None


def _refused(conninfo: str, said: str) -> DomicileError:
    for name in SECRET_PARAMETERS:
        if secret := _parse(conninfo).get(name):
            said = said.replace(str(secret), HIDDEN)
    reason = next((r for r in _REASONS if (all if r.name in _ALL_SIGNS else any)(s in said for s in r.signs)), _OTHER)
    where = safe_conninfo(conninfo)
    return DomicileError(
        reason.code,
        f"cannot connect to {where}: {reason.message}",
        facts={"where": where, "reason": reason.name, "said": said.strip()},
        hint=reason.hint,
    )
