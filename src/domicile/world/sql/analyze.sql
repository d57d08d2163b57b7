analyze store.currency, store.market, store.category, store.product, store.warehouse, store.staff, store.audit_log,
    store.user_account, store.address, store.device, store.orders, store.order_item, store.payment, store.review, store.cart,
    store.cart_item, store."Wishlist", store.photo, store.referral;
