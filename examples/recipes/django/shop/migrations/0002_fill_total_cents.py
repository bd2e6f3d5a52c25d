from django.db import migrations, models

TIMEOUTS = """
    set local lock_timeout = '2s';  -- while this transaction waits for its lock, later statements on the table wait too
    set local statement_timeout = '10s'
"""

# Fills new rows. The backfill does not write column total, so it does not fire the trigger.
TRIGGER = """
    create or replace function public.orders_total_cents() returns trigger language plpgsql as $$
    begin
      new.total_cents := round(new.total * 100)::bigint;
      return new;
    end $$;
    create or replace trigger orders_total_cents before insert or update of total on public.orders
      for each row execute function public.orders_total_cents()
"""

ENQUEUE = """
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
    end $$
"""

# Fails while the job is active: first run `backfilld cancel orders_total_cents`. Without
# backfill.forget, the job would stay "cancelled", and migrating forward again would fill nothing.
FORGET = """
    do $$ begin
      if to_regnamespace('backfill') is not null then
        perform backfill.forget(name) from backfill.jobs where name = 'orders_total_cents';
      end if;
    end $$
"""


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]

    operations = [
        migrations.RunSQL(TIMEOUTS, reverse_sql=migrations.RunSQL.noop),
        migrations.AddField("order", "total_cents", models.BigIntegerField(editable=False, null=True)),
        migrations.RunSQL(TRIGGER, reverse_sql="drop function if exists public.orders_total_cents() cascade"),
        migrations.RunSQL(ENQUEUE, reverse_sql=FORGET),
        migrations.RunSQL(migrations.RunSQL.noop, reverse_sql="set local lock_timeout = '2s'"),
    ]
