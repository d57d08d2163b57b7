-- The generator: every value is a hash of an id, so the same seed gives the same world on any server.
-- Helpers from store_build: base() first id of the site, people() and sales() sizes, products(), pick(id, salt, n) in [0, n).
-- Each block is one statement; its name is the step shown as progress. Rows go in by id, so that heaps lie the same way.

-- name: person
create unlogged table store_build.person as
select i, p.market, l.code as language, w.s as surname, w.g as given, c.code as currency, c.per_usd, c.minor_units,
       case when l.surname_first then l.surnames[w.s] || l.joiner || l.given[w.g]
            else l.given[w.g] || l.joiner || l.surnames[w.s] end as full_name,
       l.given_latin[w.g] || '.' || l.surnames_latin[w.s] || i || '.s' || store_build.site() as mailbox,
       -- 60 % of the people are older than the first order, the others join while the orders are placed
       case when i * 10 <= store_build.people() * 6
            then timestamptz '2023-01-02 00:00+00' + interval '728 days' * (i * 10 / (store_build.people() * 6.0)::float8)
            else timestamptz '2025-01-01 00:00+00'
                 + interval '364 days' * ((i * 10 - store_build.people() * 6) / (store_build.people() * 4.0)::float8)
       end - make_interval(secs => store_build.pick(i, 1, 86400000) / 1000.0) as created_at
from generate_series(1, store_build.people()) as i
join store_build.slot on slot.n = store_build.pick(i, 2, 100)
join store_build.place as p on p.market = slot.market
join store_build.language as l on l.code = p.languages[1 + store_build.pick(i, 3, cardinality(p.languages))]
join store.market as m on m.code = p.market
join store.currency as c on c.code = m.currency
cross join lateral (select 1 + store_build.pick(i, 4, cardinality(l.surnames)) as s,
                           1 + store_build.pick(i, 5, cardinality(l.given)) as g) as w
order by i;

-- name: user_account
insert into store.user_account (id, email, phone, full_name, market, locale, created_at, marketing_consent, interests, profile)
select store_build.base() + i,
       mailbox || (array['@mail.example', '@post.example', '@qq.example', '@inbox.example'])[1 + store_build.pick(i, 10, 4)],
       p.phone_prefixes[1 + store_build.pick(i, 11, cardinality(p.phone_prefixes))]
           || lpad(store_build.pick(i, 12, 100000000)::text, p.phone_digits, '0'),
       full_name, market, split_part(language, '-', 1) || '_' || market, created_at, store_build.pick(i, 13, 10) < 3,
       (array['phones', 'audio', 'smart-home', 'photography', 'gaming', 'fitness'])[1 + store_build.pick(i, 14, 3) :
           2 + store_build.pick(i, 14, 3) + store_build.pick(i, 15, 3)],
       jsonb_build_object('theme', (array['light', 'dark', 'auto'])[1 + store_build.pick(i, 16, 3)],
           'nickname', full_name, 'points', store_build.pick(i, 17, 20000),
           'push', jsonb_build_object('offers', store_build.pick(i, 18, 2) = 0, 'orders', true, 'quiet', jsonb_build_array(22, 7)),
           'born', (date '1960-01-01' + store_build.pick(i, 19, 16000))::text)
from store_build.person join store_build.place as p using (market)
order by i;

-- name: address
insert into store.address (id, user_id, recipient, lines, city, postal_code, country)
select store_build.base() + x.a, store_build.base() + i, full_name,
       array[format(p.street_format, p.streets[1 + store_build.pick(x.a, 20, cardinality(p.streets))],
                    1 + store_build.pick(x.a, 21, 320)),
             format('%s-%s', 1 + store_build.pick(x.a, 22, 30), 101 + store_build.pick(x.a, 23, 1800))],
       p.cities[1 + store_build.pick(x.a, 24, cardinality(p.cities))],
       case when p.postal_digits > 0 then lpad((store_build.pick(x.a, 25, 900000) + 1000)::text, p.postal_digits, '1') end, market
from (select i, i as a, market, full_name from store_build.person
      union all  -- every third person has a second address, with ids above all first ones
      select i, i + store_build.people(), market, full_name from store_build.person where store_build.pick(i, 26, 3) = 0) as x
join store_build.place as p using (market)
order by x.a;

-- name: device
insert into store.device (imei, user_id, model, last_ip, registered_on)
select body || ((10 - luhn % 10) % 10)::text, store_build.base() + i,
       'Phone ' || 1 + store_build.pick(d, 30, 14),
       inet '10.0.0.0' + store_build.pick(d, 31, 16000000), created_at::date + store_build.pick(d, 32, 30)
from (select i, i as d, created_at from store_build.person
      union all
      select i, i + store_build.people(), created_at from store_build.person where store_build.pick(i, 33, 4) = 0) as x
cross join lateral (
    -- 7919 and 1000000 have no common factor: the serial numbers are a permutation, so no IMEI is given twice
    select '86' || lpad((store_build.site() * 1000 + d / 1000000)::text, 6, '0') || lpad((d * 7919 % 1000000)::text, 6, '0') as body
) as b
cross join lateral (
    select sum(case when n % 2 = 1 then v when v > 4 then v * 2 - 9 else v * 2 end) as luhn
    from (select n, substr(body, n, 1)::integer as v from generate_series(1, 14) as n) as digits
) as c
order by d;

-- name: draft
-- k-th order of the site: later months are busier, and one person in twenty places a third of all orders
create unlogged table store_build.draft as
select k, i, p.language, p.currency, p.per_usd, p.minor_units, x.placed_at,
       case when store_build.pick(i, 26, 3) = 0 and store_build.pick(k, 40, 3) = 0 then i + store_build.people() else i end as a,
       case when x.placed_at < timestamptz '2025-12-18 00:00+00'
            then (array['delivered', 'delivered', 'delivered', 'delivered', 'delivered', 'delivered', 'delivered', 'delivered',
                        'returned', 'cancelled'])[1 + store_build.pick(k, 41, 10)]
            else (array['placed', 'paid', 'paid', 'shipped', 'cancelled'])[1 + store_build.pick(k, 41, 5)] end
           ::store.order_status as status
from (select k, timestamptz '2025-01-01 00:00+00' + interval '364 days' * f
                    + make_interval(secs => store_build.pick(k, 42, 60000000) / 1000000.0) as placed_at,
             1 + store_build.pick(k, 43, case when store_build.pick(k, 44, 10) < 3 then 1 + known / 20 else known end) as i
      from (select k, f, floor(store_build.people() * (0.6 + 0.4 * f) * 0.999)::integer as known
            from (select k, sqrt(k::float8 / store_build.sales()) as f from generate_series(1, store_build.sales()) as k) as t
           ) as u) as x
join store_build.person as p using (i)
order by k;

-- name: order_item
insert into store.order_item (order_id, line_no, product_id, quantity, unit_price)
select store_build.base() + k, n, p.id, 1 + store_build.pick(k * 4 + n, 50, 10) / 8, round(p.price * d.per_usd, d.minor_units)
from store_build.draft as d
cross join lateral generate_series(1, 1 + store_build.pick(k, 51, 3)) as n
join store.product as p on p.id = 1 + least(store_build.pick(k * 4 + n, 52, store_build.products()),
                                            store_build.pick(k * 4 + n, 53, store_build.products()))
order by k, n;

-- name: orders
insert into store.orders (id, user_id, address_id, placed_at, status, currency, total, note)
select store_build.base() + d.k, store_build.base() + d.i, store_build.base() + d.a, d.placed_at, d.status, d.currency, t.total,
       case when store_build.pick(d.k, 60, 8) = 0 then l.notes[1 + store_build.pick(d.k, 61, cardinality(l.notes))] end
from store_build.draft as d
join (select order_id, sum(amount) as total
      from store.order_item where order_id between store_build.base() + 1 and store_build.base() + store_build.sales()
      group by order_id) as t on t.order_id = store_build.base() + d.k
join store_build.language as l on l.code = d.language
order by d.k;

-- name: payment
insert into store.payment (id, order_id, paid_at, method, amount, currency, card_last4)
select o.id, o.id, o.placed_at + make_interval(secs => store_build.pick(o.id, 70, 1800)), m.method, o.total, o.currency,
       case when m.method = 'card' then lpad(store_build.pick(o.id, 71, 10000)::text, 4, '0') end
from store.orders as o
cross join lateral (select (array['card', 'card', 'wallet', 'wallet', 'bank', 'cash'])[1 + store_build.pick(o.id, 72, 6)]) as m (method)
where o.id between store_build.base() + 1 and store_build.base() + store_build.sales()
  and o.status <> 'placed' and store_build.pick(o.id, 73, 100) > 0
order by o.id;

-- name: review
insert into store.review (id, user_id, product_id, stars, body, created_at)
select store_build.base() + k, store_build.base() + i, t.product_id,
       (array[5, 5, 5, 5, 4, 4, 4, 3, 2, 1])[1 + store_build.pick(k, 80, 10)],
       l.openings[1 + store_build.pick(k, 81, cardinality(l.openings))] || l.joiner
           || l.remarks[1 + store_build.pick(k, 82, cardinality(l.remarks))] || l.joiner
           || l.remarks[1 + store_build.pick(k, 83, cardinality(l.remarks))],
       placed_at + make_interval(days => 3 + store_build.pick(k, 84, 20), secs => store_build.pick(k, 85, 86400))
from store_build.draft
join store_build.language as l on l.code = language
join store.order_item as t on t.order_id = store_build.base() + k and t.line_no = 1
where store_build.pick(k, 86, 5) = 0 and status in ('delivered', 'returned')
order by k;

-- name: cart
insert into store.cart (id, user_id, updated_at)
select store_build.base() + i, store_build.base() + i, created_at + make_interval(hours => store_build.pick(i, 90, 4000))
from store_build.person where store_build.pick(i, 91, 2) = 0
order by i;

-- name: cart_item
insert into store.cart_item (cart_id, product_id, quantity)
select store_build.base() + i, 1 + (store_build.pick(i, 92, store_build.products()) + 5 * n) % store_build.products(),
       1 + store_build.pick(i + n, 93, 3)
from store_build.person cross join lateral generate_series(1, 1 + store_build.pick(i, 94, 4)) as n
where store_build.pick(i, 91, 2) = 0
order by i, n;

-- name: Wishlist
insert into store."Wishlist" (user_id, "order", product_id, note)
select store_build.base() + i, n, 1 + store_build.pick(i * 8 + n, 100, store_build.products()),
       case when store_build.pick(i + n, 101, 4) = 0 then l.notes[1 + store_build.pick(i, 102, cardinality(l.notes))] end
from store_build.person join store_build.language as l on l.code = language
cross join lateral generate_series(1, 1 + store_build.pick(i, 103, 5)) as n
where store_build.pick(i, 104, 3) = 0
order by i, n;

-- name: photo
insert into store.photo (id, user_id, object_key, bytes, sha256, taken_at)
select store_build.base() + i * 4 + n, store_build.base() + i, key.v, 200000 + store_build.pick(i * 4 + n, 110, 5000000),
       sha256(convert_to(key.v, 'UTF8')), created_at + make_interval(mins => store_build.pick(i * 4 + n, 111, 500000))
from store_build.person cross join lateral generate_series(0, store_build.pick(i, 112, 5) - 1) as n
cross join lateral (select format('photos/%s/%s.jpg', store_build.base() + i,
                                  md5(format('%s %s', store_build.base() + i, n))::uuid)) as key (v)
order by i, n;

-- name: referral
insert into store.referral (id, inviter_id, code, channel, invited_at, accepted)
select store_build.base() + i, store_build.base() + i,
       upper(to_hex(store_build.base() + i) || substr(md5(i::text), 1, 4)),
       (array['sms', 'wechat', 'whatsapp', 'line', 'email'])[1 + store_build.pick(i, 120, 5)],
       created_at + make_interval(days => 1 + store_build.pick(i, 121, 60)), store_build.pick(i, 122, 3) = 0
from store_build.person where store_build.pick(i, 123, 5) = 0
order by i;

-- name: warehouse
insert into store.warehouse (id, code, city, capacity)
select store_build.base() + n, format('W%s-%s', store_build.site(), n), p.cities[1 + n % cardinality(p.cities)], 20000 * n
from (select market from store_build.slot order by n limit 1) as home join store_build.place as p using (market)
cross join generate_series(1, 3) as n
order by n;

-- name: staff
insert into store.staff (id, warehouse_id, full_name, work_email, duty, hired_on)
select store_build.base() + n, store_build.base() + 1 + n % 3,
       case when l.surname_first then w.surname || l.joiner || w.given else w.given || l.joiner || w.surname end,
       format('staff%s.s%s@shop.example', n, store_build.site()), (array['picker', 'driver', 'support', 'lead'])[1 + n % 4],
       date '2020-01-01' + store_build.pick(n, 130, 1500)
from (select market from store_build.slot order by n limit 1) as home
join store_build.place as p using (market)
join store_build.language as l on l.code = p.languages[1]
cross join generate_series(1, 40) as n
cross join lateral (select l.surnames[1 + store_build.pick(n, 131, cardinality(l.surnames))],
                           l.given[1 + store_build.pick(n, 132, cardinality(l.given))]) as w (surname, given)
order by n;

-- name: audit_log
-- the site keeps the audit of the last weeks only
insert into store.audit_log (id, order_id, action, old_status, new_status, actor, at)
select store_build.base() + k, store_build.base() + k, 'INSERT', null, 'placed', 'shop', placed_at
from store_build.draft where placed_at >= timestamptz '2025-12-11 00:00+00'
order by k;
