class FillOrdersTotalCents < ActiveRecord::Migration[6.1]
  def up
    # While the migration waits for its lock, later statements on the table wait too.
    execute "set local lock_timeout = '2s'"
    execute "set local statement_timeout = '10s'"
    add_column :orders, :total_cents, :bigint, if_not_exists: true

    # Fills new rows. The backfill does not write column total, so it does not fire the trigger.
    execute <<~SQL
      create or replace function public.orders_total_cents() returns trigger language plpgsql as $$
      begin
        new.total_cents := round(new.total * 100)::bigint;
        return new;
      end $$;
      create or replace trigger orders_total_cents before insert or update of total on public.orders
        for each row execute function public.orders_total_cents();
    SQL

    execute <<~SQL
      do $$ begin
        if to_regnamespace('backfill') is null then -- on a developer's machine; elsewhere the timeout above cancels an update that takes too long
          update public.orders set total_cents = round(total * 100)::bigint where total_cents is null;
        else
          perform backfill.enqueue(
            name   => 'orders_total_cents',
            target => 'public.orders',
            set    => 'total_cents = round(total * 100)::bigint',
            filter => 'total_cents is null');
        end if;
      end $$
    SQL
  end

  # If the job is still active, first run: backfilld cancel orders_total_cents
  def down
    execute "set local lock_timeout = '2s'"
    # Fails while the job is active. Without this statement the job stays "cancelled", and `up` fills nothing.
    if select_value("select to_regnamespace('backfill') is not null")
      execute "select backfill.forget(name) from backfill.jobs where name = 'orders_total_cents'"
    end
    execute "drop trigger if exists orders_total_cents on public.orders"
    execute "drop function if exists public.orders_total_cents()"
    remove_column :orders, :total_cents
  end
end
