# Runs Flyway if it is installed. Otherwise psql runs each file in a separate transaction, as Flyway
# does by default.
if command -v flyway >/dev/null; then
    tried_with "$(flyway -v | grep -o -m 1 'Flyway .* [0-9.]*')"
    migrate() { flyway -url="jdbc:postgresql://127.0.0.1:$PGPORT/$PGDATABASE" -user=owner -password=none -locations="filesystem:sql" -target="$1" migrate; }
else
    tried_with "the files alone (there is no flyway on the PATH)"
    done=0
    migrate() { # VERSION
        local n
        for ((n = done + 1; n <= $1; n++)); do
            psql -X -v ON_ERROR_STOP=1 --single-transaction -f "$(echo sql/V"${n}"__*.sql)" || return 1
            done=$n
        done
    }
fi
# Runs `migrate` in this shell and not in a subshell, because `migrate` sets `done`.
code() { migrate "$1" >"$RECIPE_WORK/said" 2>&1 && code=0 || code=1; said=$(cat "$RECIPE_WORK/said"); sed 's/^/   | /' "$RECIPE_WORK/said"; }

step "a test database without schema backfill: the migrations fill the column"
code 5
is "exit code" 0 $code
assert_done

step "production: V2 enqueues"
psql -qX -U postgres -c 'create database prod_flyway owner owner' postgres
export PGDATABASE=prod_flyway BACKFILLD_DATABASE_URL="postgres://owner@127.0.0.1:$PGPORT/prod_flyway"
done=0
backfilld migrate
code 1
sql -c 'insert into orders (total) select i / 100.0 from generate_series(1, 20000) i'
code 2
is "exit code" 0 $code
is "jobs" queued "$(sql -c 'select state from backfill.jobs')"

step "before the backfill: V3 fails with the reason"
code 5
is "exit code" 1 $code
says 'job "orders_total_cents" is not complete: queued'

step "the daemon fills the column; the trigger fills rows written before and after it runs"
sql -c 'insert into orders (total) values (7.25)'
run_daemon
sql -c 'insert into orders (total) values (7.50)' -c 'update orders set total = 1.01 where id = 5'
exits 0 backfilld wait orders_total_cents --timeout 1m

step "V3 to V5"
code 5
is "exit code" 0 $code
assert_done

step "rollback with psql, because undo is a paid feature of Flyway"
exits 0 psql -X -v ON_ERROR_STOP=1 --single-transaction -f sql/U2__fill_orders_total_cents.sql
is "jobs" 0 "$(sql -c 'select count(*) from backfill.jobs')"
