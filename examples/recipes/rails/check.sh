ruby -e 'require "rails"; require "active_record"; require "pg"' 2>/dev/null ||
    skip "ruby cannot load rails, active_record and pg (apt-get install ruby-railties ruby-activerecord ruby-pg, or gem install rails pg)"
command -v rake >/dev/null || skip "there is no rake"
tried_with "Rails $(ruby -rrails -e 'puts Rails.version'), pg $(ruby -rpg -e 'puts PG::VERSION'), $(ruby -e 'puts "Ruby #{RUBY_VERSION}"')"

# The test uses a copy, because Rails writes files into the tree of the application.
cp -r . "$RECIPE_WORK/app"
cd "$RECIPE_WORK/app"
export RAILS_ENV=production DISABLE_DATABASE_ENVIRONMENT_CHECK=1
export DATABASE_URL="postgresql://owner@127.0.0.1:$PGPORT/$PGDATABASE"
expand=20261122000001 constrain=20261122000002
fill_table() { sql -c 'insert into orders (total) select i / 100.0 from generate_series(1, 20000) i'; }

step "a developer's machine without the schema: the migrations fill the column"
exits 0 rake db:migrate VERSION=20261101000001
fill_table
exits 0 rake db:migrate
assert_done
exits 0 rake db:migrate VERSION=20261101000001

step "production: the migration enqueues"
backfilld migrate
exits 0 rake db:migrate:up VERSION=$expand
is "jobs" queued "$(sql -c 'select state from backfill.jobs')"

step "before the backfill: the assertion fails with the reason"
exits 1 rake db:migrate
says 'job "orders_total_cents" is not complete: queued'
says 'HINT:'

step "rollback while the job is active: refused until the job is cancelled"
exits 1 rake db:migrate:down VERSION=$expand
says "run select backfill.cancel('orders_total_cents') first"
exits 0 backfilld cancel orders_total_cents
exits 0 rake db:migrate:down VERSION=$expand
exits 0 rake db:migrate:up VERSION=$expand

step "the application writes rows, also without callbacks; then the daemon fills the column"
exits 0 ruby -e 'require "./config/environment"; class Order < ActiveRecord::Base; end
  Order.create!(total: 7.25); Order.insert_all([{total: 7.5}]); Order.where(id: 5).update_all(total: 1.01)'
run_daemon
exits 0 backfilld wait orders_total_cents --timeout 1m

step "constrain"
exits 0 rake db:migrate
assert_done

step "db/schema.rb has no trigger, db/structure.sql has it, and neither has schema backfill"
exits 0 rake db:schema:dump
is "lines of schema.rb on triggers or schema backfill" 0 "$(grep -c -i -E 'trigger|backfill' db/schema.rb || true)"
SCHEMA_FORMAT=sql exits 0 rake db:structure:dump
is "triggers in structure.sql" 1 "$(grep -c '^CREATE TRIGGER' db/structure.sql)"
is "lines of structure.sql that name schema backfill" 0 "$(grep -c -i 'backfill\.' db/structure.sql || true)"
rm config/initializers/backfill.rb
SCHEMA_FORMAT=sql exits 0 rake db:structure:dump
[ "$(grep -c -i 'backfill\.' db/structure.sql)" -gt 100 ] || { echo "not as expected: Rails excludes schema backfill without the option"; exit 1; }

step "a replay of all migrations stops at the assertion without a daemon, and succeeds with a daemon"
psql -qX -U postgres -c "create database again owner owner" postgres
export PGDATABASE=again DATABASE_URL="postgresql://owner@127.0.0.1:$PGPORT/again" BACKFILLD_DATABASE_URL="postgres://owner@127.0.0.1:$PGPORT/again"
backfilld migrate
exits 1 rake db:migrate
says 'is not complete: queued'
run_daemon
exits 0 rake db:migrate
assert_done
