-- What the oracle reads at a site when the traffic has stopped. "like" is the pattern of the marks of one run. Nothing here knows of domicile.

-- name: people
select id, market from store.user_account order by id;

-- name: profile
select u.id, m.mark
from store.user_account as u
cross join lateral jsonb_array_elements_text(u.profile -> 'marks') with ordinality as m (mark, n)
where u.profile ? 'marks' and m.mark like %(like)s
order by u.id, m.n;

-- name: address
select a.user_id, l.mark
from store.address as a cross join lateral unnest(a.lines) with ordinality as l (mark, n)
where l.mark like %(like)s
order by a.user_id, a.id, l.n;

-- name: order
select o.user_id, o.note,
       (select count(*) from store.order_item as i where i.order_id = o.id),
       (select coalesce(sum(i.amount) * 100, 0)::integer from store.order_item as i where i.order_id = o.id),
       (select coalesce(sum(p.amount) * 100, 0)::integer from store.payment as p where p.order_id = o.id)
from store.orders as o where o.note like %(like)s;

-- name: review
select user_id, body from store.review where body like %(like)s;

-- name: photo
select user_id, substr(object_key, 8) from store.photo where object_key like 'photos/' || %(like)s;

-- name: wish
select user_id, note from store."Wishlist" where note like %(like)s;

-- name: person
select id, split_part(email, '@', 1) from store.user_account where email like %(like)s;

-- name: cell
select c.user_id, i.product_id, i.quantity from store.cart_item as i join store.cart as c on c.id = i.cart_id
where c.user_id = any(%(users)s);

-- name: rows
-- All rows of each user.
select owner, sum(n)::bigint from (
    select id as owner, count(*) as n from store.user_account group by 1
    union all select user_id, count(*) from store.address group by 1
    union all select user_id, count(*) from store.device group by 1
    union all select user_id, count(*) from store.orders group by 1
    union all select o.user_id, count(*) from store.order_item as i join store.orders as o on o.id = i.order_id group by 1
    union all select o.user_id, count(*) from store.payment as p join store.orders as o on o.id = p.order_id group by 1
    union all select user_id, count(*) from store.review group by 1
    union all select user_id, count(*) from store.cart group by 1
    union all select c.user_id, count(*) from store.cart_item as i join store.cart as c on c.id = i.cart_id group by 1
    union all select user_id, count(*) from store."Wishlist" group by 1
    union all select user_id, count(*) from store.photo group by 1
    union all select inviter_id, count(*) from store.referral group by 1
) as owned group by owner;
