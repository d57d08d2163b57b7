-- The demo's own account of who has which rows at a site: it shares no code with the engine, which it checks.
-- One block per table, each row of the answer: site number in which the owner's id was born (null: no owner found), whether the owner
-- is of mainland China, number of rows; then, of those rows whose owner the demo's writers leave alone (census.QUIET), their number and
-- the sum of a hash of each whole row as text, which does not depend on their order. For tables that belong to nobody, the first two
-- are left out, and all rows count as left alone.

-- name: store.user_account
select (t.id - 1) / 1000000000000, t.market = 'CN', count(*),
       count(*) filter (where t.id % 4 = 0 and t.email not like '%@sign-up.example'),
       sum(hashtextextended(t::text, 0)) filter (where t.id % 4 = 0 and t.email not like '%@sign-up.example')
from store.user_account as t
group by 1, 2

-- name: store.address
select (u.id - 1) / 1000000000000, u.market = 'CN', count(*),
       count(*) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example'),
       sum(hashtextextended(t::text, 0)) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example')
from store.address as t
left join store.user_account as u on u.id = t.user_id
group by 1, 2

-- name: store.device
select (u.id - 1) / 1000000000000, u.market = 'CN', count(*),
       count(*) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example'),
       sum(hashtextextended(t::text, 0)) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example')
from store.device as t
left join store.user_account as u on u.id = t.user_id
group by 1, 2

-- name: store.orders
select (u.id - 1) / 1000000000000, u.market = 'CN', count(*),
       count(*) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example'),
       sum(hashtextextended(t::text, 0)) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example')
from store.orders as t
left join store.user_account as u on u.id = t.user_id
group by 1, 2

-- name: store.order_item
select (u.id - 1) / 1000000000000, u.market = 'CN', count(*),
       count(*) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example'),
       sum(hashtextextended(t::text, 0)) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example')
from store.order_item as t
left join store.orders as o on o.id = t.order_id
left join store.user_account as u on u.id = o.user_id
group by 1, 2

-- name: store.payment
select (u.id - 1) / 1000000000000, u.market = 'CN', count(*),
       count(*) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example'),
       sum(hashtextextended(t::text, 0)) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example')
from store.payment as t
left join store.orders as o on o.id = t.order_id
left join store.user_account as u on u.id = o.user_id
group by 1, 2

-- name: store.review
select (u.id - 1) / 1000000000000, u.market = 'CN', count(*),
       count(*) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example'),
       sum(hashtextextended(t::text, 0)) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example')
from store.review as t
left join store.user_account as u on u.id = t.user_id
group by 1, 2

-- name: store.cart
select (u.id - 1) / 1000000000000, u.market = 'CN', count(*),
       count(*) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example'),
       sum(hashtextextended(t::text, 0)) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example')
from store.cart as t
left join store.user_account as u on u.id = t.user_id
group by 1, 2

-- name: store.cart_item
select (u.id - 1) / 1000000000000, u.market = 'CN', count(*),
       count(*) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example'),
       sum(hashtextextended(t::text, 0)) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example')
from store.cart_item as t
left join store.cart as c on c.id = t.cart_id
left join store.user_account as u on u.id = c.user_id
group by 1, 2

-- name: store."Wishlist"
select (u.id - 1) / 1000000000000, u.market = 'CN', count(*),
       count(*) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example'),
       sum(hashtextextended(t::text, 0)) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example')
from store."Wishlist" as t
left join store.user_account as u on u.id = t.user_id
group by 1, 2

-- name: store.photo
select (u.id - 1) / 1000000000000, u.market = 'CN', count(*),
       count(*) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example'),
       sum(hashtextextended(t::text, 0)) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example')
from store.photo as t
left join store.user_account as u on u.id = t.user_id
group by 1, 2

-- name: store.referral
select (u.id - 1) / 1000000000000, u.market = 'CN', count(*),
       count(*) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example'),
       sum(hashtextextended(t::text, 0)) filter (where u.id % 4 = 0 and u.email not like '%@sign-up.example')
from store.referral as t
left join store.user_account as u on u.id = t.inviter_id
group by 1, 2

-- name: store.currency
select count(*), count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)
from store.currency as t

-- name: store.market
select count(*), count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)
from store.market as t

-- name: store.category
select count(*), count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)
from store.category as t

-- name: store.product
select count(*), count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)
from store.product as t

-- name: store.warehouse
select count(*), count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)
from store.warehouse as t

-- name: store.staff
select count(*), count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)
from store.staff as t

-- name: store.audit_log
select count(*), count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)
from store.audit_log as t
