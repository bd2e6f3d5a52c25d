-- After the backfill: not null, without a long lock. Not in one transaction. Safe to run again.
select backfill.assert_complete('orders_total_cents');

set lock_timeout = '2s';
alter table public.orders drop constraint if exists orders_total_cents_present;
alter table public.orders add constraint orders_total_cents_present check (total_cents is not null) not valid;

-- Reads the whole table, and lets everybody read and write meanwhile.
set statement_timeout = 0;
alter table public.orders validate constraint orders_total_cents_present;

-- The valid constraint spares this the reading.
begin;
alter table public.orders alter column total_cents set not null;
alter table public.orders drop constraint orders_total_cents_present;
commit;
