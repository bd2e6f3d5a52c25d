-- A separate file, so that the lock of V3 is released before this statement reads the whole table.
-- Other sessions can read and write meanwhile.
set local statement_timeout = 0;
alter table public.orders validate constraint orders_total_cents_present;
