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
-- It runs in sessions of the application with the rights of the mover, and finds what the plan's condition found: hence the path. SET costs
-- a little for every new subject, and nobody else.
create or replace function domicile.refuse_sign_up() returns trigger language plpgsql security definer
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
-- application: this subject begins here, and is swept.
    begin
        perform pg_catalog.set_config('transaction_read_only', 'on', true);
        domicile_fits := {fits};
    exception when others then
        domicile_fits := false;
    end;
    if domicile_fits then
        perform domicile.guard_answer('departed', {home}, 0, {dataset}, tg_relid);
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
