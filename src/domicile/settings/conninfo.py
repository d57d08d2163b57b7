"""Connection strings of the configuration: ``${VARIABLE}`` filled in, parsed by libpq, merged, and never
shown.

Variables are put in *after* parsing, so a password with blanks, quotes or ``@`` in its variable needs no
escaping. A conninfo that is nothing but one variable is that variable's text.
"""

from __future__ import annotations

from collections.abc import Mapping
import difflib
import re

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from domicile.postgres.connect import SECRET_PARAMETERS

Parameters = dict[str, str]

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[^}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_URI = re.compile(r"postgres(?:ql)?://(?P<rest>[^?]*)")
_UNKNOWN_OPTION = re.compile(r'invalid (?:connection option|URI query parameter:?) "(?P<name>[^"]*)"')


class ConninfoProblem(ValueError):
    """A connection string that cannot be used; the message never quotes it."""


def parse(text: str, environ: Mapping[str, str]) -> Parameters:
    """The parameters of a connection string with its variables filled in. Raises ConninfoProblem."""
    whole = _REFERENCE.fullmatch(text.strip())
    if whole and whole["name"] is not None:
        return _checked(_variable(whole, environ))
    stand_ins: dict[str, str] = {}

    def stand_in(match: re.Match[str]) -> str:
        token = f"xDomicile{len(stand_ins)}Variable{len(text)}x"
        stand_ins[token] = "${" if match["name"] is None else _variable(match, environ)
        return token

    parameters = _checked(_REFERENCE.sub(stand_in, text), stand_ins)
    return {name: _filled(value, stand_ins) for name, value in parameters.items()}


def merge(*parts: Mapping[str, str]) -> str:
    """One conninfo of all the parts, later ones winning."""
    merged: dict[str, str] = {}
    for part in parts:
        merged.update(part)
    return make_conninfo("", **merged)


def without_secrets(parameters: Mapping[str, str]) -> Parameters:
    """What identifies the database: everything but the secrets."""
    return {name: value for name, value in parameters.items() if name not in SECRET_PARAMETERS}


def parameters_of(conninfo: str) -> Parameters:
    """The parts of a conninfo that ``merge`` has made; nothing in it is a variable any more."""
    return {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value is not None}


def secrets(conninfo: str) -> frozenset[str]:
    """The secret values in a conninfo that ``merge`` has made."""
    return frozenset(v for name, v in parameters_of(conninfo).items() if name in SECRET_PARAMETERS and v)


def _variable(match: re.Match[str], environ: Mapping[str, str]) -> str:
    name = match["name"]
    if not match[0].endswith("}") or not _NAME.match(name):
        raise ConninfoProblem("a variable is written ${NAME}; a literal ${ is written $${")
    if name not in environ:
        raise ConninfoProblem(f"the environment variable {name} is not set")
    return environ[name]


def _checked(text: str, stand_ins: Mapping[str, str] | None = None) -> Parameters:
    if "\0" in text:
        raise ConninfoProblem("a connection string cannot hold a NUL character")
    uri = _URI.match(text)
    if uri and (uri["rest"].count("@") > 1 or "@" in uri["rest"].partition("/")[2]):
        # libpq would take a part of the password for the host and print it.
        raise ConninfoProblem("in a URL, write @ in a password as %40 and / as %2F, or take it from ${A_VARIABLE}")
    try:
        parsed = conninfo_to_dict(text)
    except (psycopg.ProgrammingError, UnicodeError) as error:
        raise ConninfoProblem(f"not a libpq connection string{_nearest_option(str(error))}") from None
    parameters = {name: str(value) for name, value in parsed.items() if value is not None}
    ports = parameters.get("port", "")
    if not all(p.isdigit() or p in (stand_ins or {}) for p in ports.split(",") if p):
        raise ConninfoProblem("the port is not a number")
    return parameters


def _nearest_option(said: str) -> str:
    """A suggestion for a mistyped option. What was written is not repeated: it may be the tail of a
    password.
    """
    match = _UNKNOWN_OPTION.search(said)
    known = [option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()]
    near = difflib.get_close_matches(match["name"], known, n=1) if match else []
    if near:
        return f": it has an unknown option; did you mean {near[0]}?"
    if match:
        return ": it has an unknown option (quote a value that holds blanks: password='...')"
    return " (write key=value pairs, values with blanks in single quotes, or postgresql://user@host/database)"


def _filled(value: str, stand_ins: Mapping[str, str]) -> str:
    for token, text in stand_ins.items():
        value = value.replace(token, text)
    return value
