class RequireOrdersTotalCents < ActiveRecord::Migration[6.1]
  # Each statement commits separately, so that the first lock is released before the table is read. The migration can run again.
  disable_ddl_transaction!

  def up
    execute <<~SQL
      do $$ begin
        if to_regnamespace('backfill') is not null then
          perform backfill.assert_complete('orders_total_cents');
        end if;
      end $$
    SQL

    execute "set lock_timeout = '2s'"
    execute "alter table orders drop constraint if exists orders_total_cents_present"
    add_check_constraint :orders, "total_cents is not null", name: "orders_total_cents_present", validate: false

    # Reads the whole table. Other sessions can read and write meanwhile.
    execute "set statement_timeout = 0"
    validate_check_constraint :orders, name: "orders_total_cents_present"

    # Because the constraint is valid, PostgreSQL does not read the table again.
    change_column_null :orders, :total_cents, false
    remove_check_constraint :orders, name: "orders_total_cents_present"
  ensure
    execute "reset lock_timeout"
    execute "reset statement_timeout"
  end

  def down
    change_column_null :orders, :total_cents, true
  end
end
