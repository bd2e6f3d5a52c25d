-- Reverts expand.sql. If the job is still active, first run: backfilld cancel orders_total_cents
begin;
set local lock_timeout = '2s';
-- Fails while the job is active. Without backfill.forget, the job would stay "cancelled", and
-- expand.sql would fill nothing.
select backfill.forget(name) from backfill.jobs where name = 'orders_total_cents';
drop trigger if exists orders_total_cents on public.orders;
drop function if exists public.orders_total_cents();
alter table public.orders drop column if exists total_cents;
commit;
