-- migrate:up
set local lock_timeout = '2s';        -- while this transaction waits for its lock, later statements on the table wait too
set local statement_timeout = '10s';

alter table public.orders add column if not exists total_cents bigint;

-- Fills new rows. The backfill does not write column total, so it does not fire the trigger.
create or replace function public.orders_total_cents() returns trigger language plpgsql as $$
begin
  new.total_cents := round(new.total * 100)::bigint;
  return new;
end $$;
create or replace trigger orders_total_cents before insert or update of total on public.orders
  for each row execute function public.orders_total_cents();

do $$ begin
  if to_regnamespace('backfill') is null then -- on a test database; elsewhere the timeout above cancels an update that takes too long
    update public.orders set total_cents = round(total * 100)::bigint where total_cents is null;
  else
    perform backfill.enqueue(
      name   => 'orders_total_cents',
      target => 'public.orders',
      set    => 'total_cents = round(total * 100)::bigint',
      filter => 'total_cents is null');
  end if;
end $$;

-- migrate:down Fails while the job is active: first run `backfilld cancel orders_total_cents`.
-- Without backfill.forget, the job would stay "cancelled", and "up" would fill nothing.
do $$ begin
  if to_regnamespace('backfill') is not null then
    perform backfill.forget(name) from backfill.jobs where name = 'orders_total_cents';
  end if;
end $$;
set local lock_timeout = '2s';
drop trigger if exists orders_total_cents on public.orders;
drop function if exists public.orders_total_cents();
alter table public.orders drop column if exists total_cents;
