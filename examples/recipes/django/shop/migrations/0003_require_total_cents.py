from django.db import migrations, models

ASSERT = """
    do $$ begin
      if to_regnamespace('backfill') is not null then
        perform backfill.assert_complete('orders_total_cents');
      end if;
    end $$
"""

ADD = """
    set lock_timeout = '2s';
    alter table public.orders drop constraint if exists orders_total_cents_present;
    alter table public.orders add constraint orders_total_cents_present check (total_cents is not null) not valid
"""

# Reads the whole table. Other sessions can read and write meanwhile.
VALIDATE = "alter table public.orders validate constraint orders_total_cents_present"

DROP = "alter table public.orders drop constraint orders_total_cents_present; reset statement_timeout; reset lock_timeout"


class Migration(migrations.Migration):
    # Each operation commits separately, so that the lock that ADD takes is released before the
    # table is read. The migration can run again.
    atomic = False

    dependencies = [("shop", "0002_fill_total_cents")]

    operations = [
        migrations.RunSQL(ASSERT, reverse_sql=migrations.RunSQL.noop),
        migrations.RunSQL(ADD, reverse_sql=migrations.RunSQL.noop),
        migrations.RunSQL("set statement_timeout = 0", reverse_sql=migrations.RunSQL.noop),
        migrations.RunSQL(VALIDATE, reverse_sql=migrations.RunSQL.noop),
        # Because the constraint is valid, PostgreSQL does not read the table again. Do not add a default: with a default, Django first updates all rows in which the column is null.
        migrations.AlterField("order", "total_cents", models.BigIntegerField(editable=False)),
        migrations.RunSQL(DROP, reverse_sql=migrations.RunSQL.noop),
    ]
