-- The columns of the named tables at the site where a stream ends. The type is written without modifier: length and precision are the
-- column's own business on assignment. The number is the table's in the argument. Last: whether a cast from text may be something else
-- than the type's own input, as that of regclass is, and as anybody may make one.
select t.no::integer, a.attname::text, a.atttypid, pg_catalog.format_type(a.atttypid, -1), a.attidentity = 'a', y.typcategory <> 'S'
from rows from (unnest(%(schemas)s::text[]), unnest(%(names)s::text[])) with ordinality t (schema, name, no)
join pg_catalog.pg_namespace n on n.nspname = t.schema
join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = t.name
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_catalog.pg_type y on y.oid = a.atttypid
