-- migrate:up This is a separate file, so that the lock of the previous file is released before this
-- statement reads the whole table. Other sessions can read and write meanwhile.
set local statement_timeout = 0;
alter table public.orders validate constraint orders_total_cents_present;

-- migrate:down
