"""Sample databases for tests: pagila and chinook, loaded unchanged by psql once per server, then cloned."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
import shutil
import subprocess

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
import pytest

from domicile.model.datamap import DataMap
from domicile.sites import binaries
from domicile.survey import datamap_file

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT.parent / "shared" / "samples"
EXAMPLES = ROOT / "examples"
LOAD_LIMIT_S = 120

_numbers = itertools.count(1)
_loaded: set[tuple[object, object, str]] = set()

# The same shop elsewhere: what every site has stays, the customers go, and others with ids far away come.
_PAGILA_ELSEWHERE = """
    -- Without indexes under the foreign keys, checking them takes 10 s.
    set local session_replication_role = replica;
    delete from public.payment;
    delete from public.rental;
    delete from public.customer;
    delete from public.address a
     where not exists (select from public.staff s where s.address_id = a.address_id)
       and not exists (select from public.store s where s.address_id = a.address_id);
    set local session_replication_role = origin;
    insert into public.address (address_id, address, district, city_id, postal_code, phone)
    select 900000 + n, n || ' Orchard Road', 'Central', 1 + n % 600, '2388' || n, '6560000' || n
      from generate_series(1, 25) n;
    insert into public.customer (customer_id, store_id, first_name, last_name, email, address_id)
    select 900000 + n, 1 + n % 2, 'First' || n, 'Last' || n, 'c' || n || '@example.com', 900000 + n
      from generate_series(1, 25) n;
    insert into public.rental (rental_id, rental_date, inventory_id, customer_id, staff_id)
    select 900000 + n, timestamptz '2022-06-01 00:00+00' + n * interval '1 hour', n, 900001 + n % 25, 1 + n % 2
      from generate_series(1, 200) n;
    insert into public.payment (payment_id, customer_id, staff_id, rental_id, amount, payment_date)
    select rental_id + 10000, customer_id, staff_id, rental_id, 2.99, rental_date + interval '1 minute'
      from public.rental;
"""
_CHINOOK_ELSEWHERE = """
    delete from public.invoice_line;
    delete from public.invoice;
    delete from public.customer;
    insert into public.customer (customer_id, first_name, last_name, country, email, support_rep_id)
    select 900000 + n, 'First' || n, 'Last' || n, 'Singapore', 'c' || n || '@example.com', 3
      from generate_series(1, 25) n;
    insert into public.invoice (invoice_id, customer_id, invoice_date, total)
    select 900000 + n, 900001 + n % 25, timestamp '2025-01-01' + n * interval '1 day', 0.99
      from generate_series(1, 100) n;
    insert into public.invoice_line (invoice_line_id, invoice_id, track_id, unit_price, quantity)
    select invoice_id, invoice_id, 1 + invoice_id % 3000, 0.99, 1 from public.invoice;
"""


def load_pagila(server: str) -> str:
    """A fresh database with pagila, as published. ``server``: a superuser's conninfo; returns the new."""
    return _clone(server, "pagila", ("pagila/pagila-schema.sql", "pagila/pagila-data.sql"))


def load_chinook(server: str) -> str:
    """A fresh database with chinook, as published. The server's own database ``chinook`` is replaced."""
    return _clone(server, "chinook", ("chinook/Chinook_PostgreSql.sql",))


def load_pagila_elsewhere(server: str) -> str:
    """Pagila at another site: films, stores and staff are the same, 25 other customers live there."""
    return _changed(load_pagila(server), _PAGILA_ELSEWHERE)


def load_chinook_elsewhere(server: str) -> str:
    """Chinook at another site: tracks and employees are the same, 25 other customers live there."""
    return _changed(load_chinook(server), _CHINOOK_ELSEWHERE)


def pagila_map() -> DataMap:
    """What a person settles on for pagila."""
    return datamap_file.load(EXAMPLES / "pagila.map.yaml")


def chinook_map() -> DataMap:
    """What a person settles on for chinook."""
    return datamap_file.load(EXAMPLES / "chinook.map.yaml")


def _changed(conninfo: str, statements: str) -> str:
    with psycopg.connect(conninfo) as connection:
        connection.execute(statements)
    return conninfo


def _clone(server: str, name: str, files: tuple[str, ...]) -> str:
    if not SAMPLES.is_dir():
        pytest.skip(f"no sample databases in {SAMPLES}")
    where = conninfo_to_dict(server)
    key = (where.get("host"), where.get("port"), name)
    copy = f"{name}_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        if key not in _loaded:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
            for file in files:
                _psql(make_conninfo(server, dbname=name), SAMPLES / file)
            _loaded.add(key)
        connection.execute(sql.SQL("create database {} template {}").format(sql.Identifier(copy), sql.Identifier(name)))
    return make_conninfo(server, dbname=copy)


def _psql(conninfo: str, file: Path) -> None:
    psql = shutil.which("psql") or str(binaries.bundled().bindir / "psql")
    # Chinook's script drops and creates its own database and connects to it: it must start elsewhere.
    start = make_conninfo(conninfo, dbname="postgres") if file.parent.name == "chinook" else conninfo
    command = [
        psql,
        "--no-psqlrc",
        "--quiet",
        "--set",
        "ON_ERROR_STOP=1",
        "--dbname",
        start,
        "--file",
        str(file),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
