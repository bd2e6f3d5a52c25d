-- Fails while the job is active: first run `backfilld cancel orders_total_cents`. Without
-- backfill.forget, the job would stay "cancelled", and V2 would fill nothing.
do $$ begin
  if to_regnamespace('backfill') is not null then
    perform backfill.forget(name) from backfill.jobs where name = 'orders_total_cents';
  end if;
end $$;
set local lock_timeout = '2s';
drop trigger if exists orders_total_cents on public.orders;
drop function if exists public.orders_total_cents();
alter table public.orders drop column if exists total_cents;
