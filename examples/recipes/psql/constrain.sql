-- Makes the column not null after the backfill, without a long lock. Do not run this file in
-- one transaction. You can run it again.
select backfill.assert_complete('orders_total_cents');

set lock_timeout = '2s';
alter table public.orders drop constraint if exists orders_total_cents_present;
alter table public.orders add constraint orders_total_cents_present check (total_cents is not null) not valid;

-- Reads the whole table. Other sessions can read and write meanwhile.
set statement_timeout = 0;
alter table public.orders validate constraint orders_total_cents_present;

-- Because the constraint is valid, PostgreSQL does not read the table again.
begin;
alter table public.orders alter column total_cents set not null;
alter table public.orders drop constraint orders_total_cents_present;
commit;
