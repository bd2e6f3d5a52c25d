class RequireOrdersTotalCents < ActiveRecord::Migration[6.1]
  # Each statement by itself: the lock of the first must be gone before the table is read. Safe to run again.
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

    # Reads the whole table, and lets everybody read and write meanwhile.
    execute "set statement_timeout = 0"
    validate_check_constraint :orders, name: "orders_total_cents_present"

    # The valid constraint spares this the reading.
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
