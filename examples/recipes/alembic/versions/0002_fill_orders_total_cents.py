from alembic import op
import sqlalchemy as sa

revision = "0002"
down_revision = "0001"


def upgrade():
    # While the migration waits for its lock, later statements on the table wait too.
    op.execute("set local lock_timeout = '2s'")
    op.execute("set local statement_timeout = '10s'")
    op.add_column("orders", sa.Column("total_cents", sa.BigInteger, nullable=True))

    # Fills new rows. The backfill does not write column `total`, so it does not fire the trigger.
    op.execute("""
        create or replace function public.orders_total_cents() returns trigger language plpgsql as $$
        begin
          new.total_cents := round(new.total * 100)::bigint;
          return new;
        end $$;
        create or replace trigger orders_total_cents before insert or update of total on public.orders
          for each row execute function public.orders_total_cents()
    """)

    op.execute("""
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
    """)


def downgrade():
    # Fails while the job is active: first run `backfilld cancel orders_total_cents`. Without
    # backfill.forget, the job would stay "cancelled", and upgrading again would fill nothing.
    op.execute("""
        do $$ begin
          if to_regnamespace('backfill') is not null then
            perform backfill.forget(name) from backfill.jobs where name = 'orders_total_cents';
          end if;
        end $$
    """)
    op.execute("set local lock_timeout = '2s'")
    op.execute("drop trigger if exists orders_total_cents on public.orders")
    op.execute("drop function if exists public.orders_total_cents()")
    op.drop_column("orders", "total_cents")
