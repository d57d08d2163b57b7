-- Reference rows, the same at every site. Idempotent: rows that are there stay as they are.

insert into store.currency (code, name, minor_units, per_usd) values
    ('CNY', '人民币', 2, 7.1), ('HKD', '港幣', 2, 7.8), ('IDR', 'Rupiah', 0, 16300), ('INR', 'भारतीय रुपया', 2, 84),
    ('MYR', 'Ringgit', 2, 4.4), ('PHP', 'Piso', 2, 57), ('SGD', '新元', 2, 1.34), ('TWD', '新臺幣', 0, 32),
    ('USD', 'US dollar', 2, 1)
on conflict do nothing;

insert into store.market (code, name, currency, calling_code) values
    ('CN', '中国大陆', 'CNY', '+86'), ('HK', '香港', 'HKD', '+852'), ('IN', 'भारत', 'INR', '+91'),
    ('ID', 'Indonesia', 'IDR', '+62'), ('MY', 'Malaysia', 'MYR', '+60'), ('PH', 'Pilipinas', 'PHP', '+63'),
    ('SG', 'Singapore', 'SGD', '+65'), ('TW', '臺灣', 'TWD', '+886'), ('US', 'United States', 'USD', '+1')
on conflict do nothing;

insert into store.category (id, parent_id, name) values
    (1, null, 'Phones'), (2, null, 'Accessories'), (3, null, 'Home'), (4, 1, 'Flagship phones'), (5, 1, 'Budget phones'),
    (6, 2, 'Cases'), (7, 2, 'Headphones'), (8, 2, 'Power banks'), (9, 2, 'Wearables'), (10, 3, 'Routers'),
    (11, 3, 'Televisions'), (12, 3, 'Air purifiers')
on conflict do nothing;

-- 9 leaf categories x 14 editions = 126 products
insert into store.product (id, category_id, name, price, stock, tags)
select (c.n - 1) * 14 + e, c.category_id, c.stem || ' ' || e, c.price * (0.60 + 0.10 * e), 500 + 37 * e,
       array[lower(split_part(c.stem, ' ', 1)), case when e > 10 then 'new' else 'classic' end]
from (values (1, 4, 'Phone', 289.00), (2, 5, 'Phone Lite', 99.00), (3, 6, 'Case', 4.90), (4, 7, 'Earphones', 12.90),
             (5, 8, 'Power Bank', 10.90), (6, 9, 'Band', 15.90), (7, 10, 'Router', 19.90), (8, 11, 'Television', 329.00),
             (9, 12, 'Air Purifier', 119.00)) as c (n, category_id, stem, price)
cross join generate_series(1, 14) as e
order by 1
on conflict do nothing;
