-- Because the constraint is valid, PostgreSQL does not read the table again.
set local lock_timeout = '2s';
alter table public.orders alter column total_cents set not null;
alter table public.orders drop constraint orders_total_cents_present;
