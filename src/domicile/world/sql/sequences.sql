-- Every sequence continues in the site's own range: above its generated rows, and above the ids that reference rows use
-- at every site (all below 1000). Idempotent.
do $$
declare
    owner record;
begin
    for owner in
        select format('%I.%I', n.nspname, c.relname) as name, pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), 'id') as sequence
        from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
        join pg_attribute as a on a.attrelid = c.oid and a.attname = 'id' and not a.attisdropped
        where n.nspname = 'store' and c.relkind in ('r', 'p') and not c.relispartition
    loop
        if owner.sequence is not null then
            execute format(
                'select setval(%L, greatest(store_build.base() + 1000, '
                '(select max(id) from %s where id between store_build.base() and store_build.base() + 999999999999)))',
                owner.sequence, owner.name);
        end if;
    end loop;
end
$$;
