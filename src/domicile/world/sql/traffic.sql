-- What the store's application writes. Each block is one prepared statement of a transaction (world/kinds.py puts them together); $1 is the
-- user, $2 the mark, where there are such. The first statement of a transaction touches no row when the user is not at this site.
-- currval stands in a subquery, because the planner uses no index for a volatile function.

-- name: begin_rc
begin isolation level read committed;

-- name: begin_rr
begin isolation level repeatable read;

-- name: begin_s
begin isolation level serializable;

-- name: commit
commit;

-- name: rollback
rollback;

-- name: savepoint
savepoint thought;

-- name: rollback_to
rollback to savepoint thought;

-- name: profile
update store.user_account
set profile = jsonb_set(profile, '{marks}', coalesce(profile -> 'marks', '[]') || to_jsonb($2::text)) where id = $1::bigint;

-- name: address
update store.address set lines = lines || $2::text where id = (select min(a.id) from store.address as a where a.user_id = $1::bigint);

-- name: order
insert into store.orders (user_id, address_id, currency, total, note)
select u.id, a.id, m.currency, $3::numeric, $2::text
from store.user_account as u
join store.market as m on m.code = u.market
cross join lateral (select min(a.id) as id from store.address as a where a.user_id = u.id) as a
where u.id = $1::bigint and a.id is not null
returning id;

-- name: items
insert into store.order_item (order_id, line_no, product_id, quantity, unit_price)
select currval('store.orders_id_seq'), n, 1 + ($2::integer + n) % 126, n, 12.50 from generate_series(1, $1::integer) as n;

-- name: payment
insert into store.payment (order_id, method, amount, currency)
select o.id, 'wallet', o.total, o.currency from store.orders as o where o.id = (select currval('store.orders_id_seq'));

-- name: paid
update store.orders set status = 'paid' where id = (select currval('store.orders_id_seq'));

-- name: cart
insert into store.cart (user_id) select id from store.user_account where id = $1::bigint
on conflict (user_id) do update set updated_at = now();

-- name: cart_put
insert into store.cart_item (cart_id, product_id, quantity)
select c.id, $2::bigint, $3::smallint from store.cart as c where c.user_id = $1::bigint
on conflict (cart_id, product_id) do update set quantity = excluded.quantity;

-- name: cart_take
delete from store.cart_item as i using store.cart as c
where c.id = i.cart_id and c.user_id = $1::bigint and i.product_id = $2::bigint;

-- name: review
insert into store.review (user_id, product_id, stars, body)
select id, $3::bigint, 4, $2::text from store.user_account where id = $1::bigint;

-- name: photo
insert into store.photo (user_id, object_key, bytes, sha256, taken_at)
select id, 'photos/' || $2::text, 300000, sha256(convert_to($2::text, 'UTF8')), now() from store.user_account where id = $1::bigint;

-- name: wish
insert into store."Wishlist" (user_id, "order", product_id, note)
select id, $3::integer, 1 + $3::integer % 126, $2::text from store.user_account where id = $1::bigint;

-- name: give_order
-- Touches no row when one of the two is not here.
update store.orders as o set user_id = $3::bigint, address_id = a.id
from (select min(a.id) as id from store.address as a where a.user_id = $3::bigint) as a
where o.id = $2::bigint and o.user_id = $1::bigint and a.id is not null;

-- name: sign_up
insert into store.user_account (email, phone, full_name, market, locale)
select $2::text || '@sign-up.example', m.calling_code || '000000', 'New ' || $2::text, m.code, 'en_' || m.code
from store.market as m where m.code = $1::text
returning id;

-- name: sign_up_address
insert into store.address (user_id, recipient, lines, city, country)
select currval('store.user_account_id_seq'), 'New', array['1 New Road'], 'Newtown', $1::text;

-- name: sign_up_cart
insert into store.cart (user_id) select currval('store.user_account_id_seq');

-- name: leave
select id from store.user_account where id = $1::bigint for update;

-- name: leave_orders_lock
select id from store.orders where user_id = $1::bigint order by id for update;

-- name: leave_payment
delete from store.payment where order_id in (select id from store.orders where user_id = $1::bigint);

-- name: leave_order_item
delete from store.order_item where order_id in (select id from store.orders where user_id = $1::bigint);

-- name: leave_orders
delete from store.orders where user_id = $1::bigint;

-- name: leave_cart_item
delete from store.cart_item where cart_id in (select id from store.cart where user_id = $1::bigint);

-- name: leave_cart
delete from store.cart where user_id = $1::bigint;

-- name: leave_review
delete from store.review where user_id = $1::bigint;

-- name: leave_wish
delete from store."Wishlist" where user_id = $1::bigint;

-- name: leave_photo
delete from store.photo where user_id = $1::bigint;

-- name: leave_referral
delete from store.referral where inviter_id = $1::bigint;

-- name: leave_device
delete from store.device where user_id = $1::bigint;

-- name: leave_address
delete from store.address where user_id = $1::bigint;

-- name: leave_account
delete from store.user_account where id = $1::bigint;
