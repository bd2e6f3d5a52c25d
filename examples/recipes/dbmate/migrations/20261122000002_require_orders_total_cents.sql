-- migrate:up
do $$ begin
  if to_regnamespace('backfill') is not null then
    perform backfill.assert_complete('orders_total_cents');
  end if;
end $$;

set local lock_timeout = '2s';
alter table public.orders drop constraint if exists orders_total_cents_present;
alter table public.orders add constraint orders_total_cents_present check (total_cents is not null) not valid;

-- migrate:down
alter table public.orders drop constraint if exists orders_total_cents_present;
