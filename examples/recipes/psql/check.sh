tried_with "$(psql --version)"
backfilld migrate
make_orders
file() { psql -X -v ON_ERROR_STOP=1 "${@:2}" -f "$1"; }

step "run expand.sql twice"
exits 0 file expand.sql
exits 0 file expand.sql
is "jobs" 1 "$(sql -c 'select count(*) from backfill.jobs')"

step "before the backfill: the assertion fails with the reason"
exits 3 file constrain.sql
says 'job "orders_total_cents" is not complete: queued'
says 'HINT:'

step "rollback while the job is active: refused until the job is cancelled"
exits 3 file undo.sql
says "run select backfill.cancel('orders_total_cents') first"
exits 0 backfilld cancel orders_total_cents
exits 0 file undo.sql
exits 0 file undo.sql
exits 0 file expand.sql

step "a long transaction locks the table: an alter table fails after lock_timeout"
sql -c 'alter table orders add column other int'
(echo 'begin; lock table orders in access share mode; select 1;'; sleep 4) | sql >/dev/null &
holder=$!
for _ in $(seq 50); do
    [ "$(sql -c "select count(*) from pg_locks where relation = 'orders'::regclass")" = 0 ] || break
    sleep 0.05
done
exits 1 psql -X -v ON_ERROR_STOP=1 -c "set lock_timeout = '200ms'" -c 'alter table orders drop column other'
says 'lock timeout'
wait $holder

step "the daemon fills the column; the trigger fills rows written before and after it runs"
sql -c 'insert into orders (total) values (7.25)'
run_daemon
exits 0 backfilld wait orders_total_cents --timeout 1m
exits 0 psql -X -c "call backfill.wait('orders_total_cents', '1 minute')"
sql -c 'insert into orders (total) values (7.50)' -c 'update orders set total = 1.01 where id = 5'

step "run constrain.sql twice"
exits 0 file constrain.sql
exits 0 file constrain.sql
assert_done

step "replay of a finished migration: the same job, which does not run again"
exits 0 file expand.sql
says 'already exists and has succeeded'

step "the login of the migrations is not the owner, but a member of the owner and of backfill_submitter"
exits 0 psql -X -v ON_ERROR_STOP=1 -U deploy -c "select backfill.enqueue(name => 'by_deploy', target => 'public.orders', set => 'other = 1', filter => 'other is null')"
is "the job runs as" owner "$(sql -c "select run_as from backfill.jobs where name = 'by_deploy'")"

step "a table that the login of the migrations owns: refused, because the job runs as the daemon's login"
psql -qX -U postgres -c 'grant create on schema public to deploy'
exits 1 psql -X -v ON_ERROR_STOP=1 -U deploy -c 'create table theirs (id bigint primary key, n int)' \
    -c "select backfill.enqueue(name => 'theirs', target => 'theirs', set => 'n = 1')"
says 'permission denied for table theirs'
sql -U deploy -c 'drop table theirs'

step "a reformatted expression is the same definition; another value is another definition"
sql -U deploy -c "select backfill.enqueue(name => 'by_deploy', target => 'public.orders', set => 'other  = 1', filter => 'other is null')"
exits 1 psql -X -v ON_ERROR_STOP=1 -U deploy -c "select backfill.enqueue(name => 'by_deploy', target => 'public.orders', set => 'other = 2', filter => 'other is null')"
says 'already exists with a different definition'

step "a row inserted after planning, in a column without a trigger, is not part of the job; a new constraint finds it"
sql -c 'alter table orders add column late int'
sql -c "select backfill.enqueue(name => 'late', target => 'public.orders', set => 'late = 1', filter => 'late is null')"
run_daemon
sql -c 'insert into orders (total) values (1)'
sql -c "select backfill.assert_complete('late')"
exits 1 psql -X -v ON_ERROR_STOP=1 -c "alter table orders add constraint late_present check (late is not null)"
says 'is violated by some row'
sql -c "select backfill.rerun('late')"
run_daemon
exits 0 psql -X -v ON_ERROR_STOP=1 -c "alter table orders add constraint late_present check (late is not null)"

step "a dump with --exclude-schema does not contain schema backfill"
dumps=$(pg_dump --version | sed -E 's/^[^0-9]*([0-9]+).*$/\1/')
if [ "$dumps" -lt "$(psql -XAtc "select current_setting('server_version_num')::int / 10000")" ]; then
    echo "skipped: pg_dump $dumps refuses a newer server"
else
    pg_dump --schema-only --exclude-schema=backfill >"$RECIPE_WORK/dump.sql"
    is "lines of the dump that name schema backfill" 0 "$(grep -c 'backfill\.' "$RECIPE_WORK/dump.sql" || true)"
fi
