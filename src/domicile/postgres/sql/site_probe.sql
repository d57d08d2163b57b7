-- What one database offers to a move: read by postgres/site_probe.py, from catalogues only, under an empty search_path.
-- Works on PostgreSQL 14 to 18 (14 to say that it is too old).
with own as (
    select c.oid, c.relowner, c.relkind
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p')
      and c.relpersistence <> 't'
      and n.nspname !~ '^pg_'
      and n.nspname not in ('information_schema', 'domicile', 'dbos')
),
foreign_owned as (
    select o.relowner, count(*) as tables
    from own o
    where not pg_catalog.pg_has_role(o.relowner, 'USAGE')
    group by o.relowner
)
select current_setting('server_version') as version,
       current_setting('server_version_num')::int as version_num,
       current_setting('wal_level') as wal_level,
       pg_catalog.pg_encoding_to_char(d.encoding)::text as encoding,
       pg_catalog.pg_is_in_recovery() as standby,
       current_setting('max_prepared_transactions')::int as max_prepared_transactions,
       pg_catalog.pg_database_size(d.oid) as database_bytes,
       current_database()::text as dbname,
       current_user::text as role,
       r.rolsuper as superuser,
       r.rolsuper or r.rolreplication as replication,
       -- Where the schema stands already, what counts is the right to work in it.
       coalesce(pg_catalog.has_schema_privilege(s.oid, 'CREATE, USAGE'),
                pg_catalog.has_database_privilege(d.oid, 'CREATE')) as create_schema,
       (select count(*) from own) as tables,
       coalesce((select sum(tables) from foreign_owned), 0)::int as tables_not_owned,
       array(select pg_catalog.pg_get_userbyid(f.relowner)::text
             from foreign_owned f order by f.tables desc, 1 limit %(owners_max)s) as owners,
       (select count(*) from own o where o.relkind = 'r' and pg_catalog.row_security_active(o.oid)) as tables_row_secured,
       -- Only pg_read_all_settings may see the directory; asking without the right is an error.
       case when pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE')
            then coalesce(nullif(pg_catalog.pg_tablespace_location(d.dattablespace), ''), current_setting('data_directory'))
       end as storage,
       case when pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE') then current_setting('data_directory') end as data_directory
from pg_catalog.pg_database d
join pg_catalog.pg_roles r on r.rolname = current_user
left join pg_catalog.pg_namespace s on s.nspname = 'domicile'
where d.datname = current_database()
