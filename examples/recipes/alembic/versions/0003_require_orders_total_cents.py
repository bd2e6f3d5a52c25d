from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade():
    # Each statement commits separately, so that the first lock is released before the table is read. The migration can run again.
    with op.get_context().autocommit_block():
        op.execute("""
            do $$ begin
              if to_regnamespace('backfill') is not null then
                perform backfill.assert_complete('orders_total_cents');
              end if;
            end $$
        """)
        op.execute("set lock_timeout = '2s'")
        op.execute("alter table orders drop constraint if exists orders_total_cents_present")
        op.create_check_constraint(
            "orders_total_cents_present", "orders", "total_cents is not null", postgresql_not_valid=True
        )

        # Reads the whole table. Other sessions can read and write meanwhile.
        op.execute("set statement_timeout = 0")
        op.execute("alter table orders validate constraint orders_total_cents_present")

        # Because the constraint is valid, PostgreSQL does not read the table again.
        op.alter_column("orders", "total_cents", nullable=False)
        op.drop_constraint("orders_total_cents_present", "orders")
        op.execute("reset statement_timeout")
        op.execute("reset lock_timeout")


def downgrade():
    op.alter_column("orders", "total_cents", nullable=True)
