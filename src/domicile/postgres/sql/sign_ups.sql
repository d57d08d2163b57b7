-- The trigger that refuses sign-ups. Each block is used by postgres/sign_ups.py.

-- name: refusing
-- The moves away from here whose sign-ups are refused now.
select v.peer, v.dataset, v.condition from domicile.move as v
where v.role = 'source' and v.sign_ups = 'refuse' and v.condition <> '' order by v.created_at, v.move_id;

-- name: accept
update domicile.move set sign_ups = 'accept', condition = '' where move_id = %s;

-- name: present
select exists (select from pg_catalog.pg_trigger as t where t.tgrelid = %s and t.tgname = 'zy_domicile_sign_up');

-- name: function
-- It finds what the plan's condition found: hence the path. SET costs a little for every new subject, and nobody else. It has the rights of
-- whoever signs up: the application's owners may create functions on that path, also such that match better than PostgreSQL's own, and must
-- not come to the mover's rights by them.
create or replace function domicile.refuse_sign_up() returns trigger language plpgsql security invoker
    set search_path = {path} as {body};
revoke all on function domicile.refuse_sign_up() from public;

-- name: body
-- A name that is a column's is the column: the condition knows of no variable.
#variable_conflict use_column
declare
    domicile_fits pg_catalog.bool;
begin
{moves}
    return null;
end

-- name: move
-- As in the plan, the condition may write nothing; the end of the block ends that too. One that fails on a row must not fail the
-- application: this subject begins here, and is swept. The answer is that of domicile.guard_answer, which the application may not call.
    begin
        perform pg_catalog.set_config('transaction_read_only', 'on', true);
        domicile_fits := {fits};
    exception when others then
        domicile_fits := false;
    end;
    if domicile_fits then
        raise exception using errcode = 'DM001', schema = tg_table_schema, table = tg_table_name,
            detail = pg_catalog.json_build_object('home', {home}, 'epoch', 0, 'dataset', {dataset})::pg_catalog.text,
            message = 'moved: the subject of this row lives at another site',
            hint = 'Repeat the transaction at the home that the detail names.';
    end if;

-- name: trigger
create trigger zy_domicile_sign_up after insert on {table} for each row execute function domicile.refuse_sign_up();

-- name: needed
-- Asked under the lock, in the transaction that takes the trigger away: another move may have begun to need it.
do $body$
begin
    perform pg_catalog.pg_advisory_xact_lock(7237123425614523493);
    if exists (select from domicile.move where role = 'source' and sign_ups = 'refuse') then
        raise exception 'sign-ups are refused by another move' using errcode = 'DM003';
    end if;
end
$body$;

-- name: drop_trigger
drop trigger if exists zy_domicile_sign_up on {table};
