tried_with "bash $BASH_VERSION"
make_orders

step "a test database with all migrations"
exits 0 ./test-database.sh
assert_done

step "a deploy after a verified job"
exits 0 ./deploy.sh orders_total_cents 10s
says 'verified'

step "a job that does not exist"
exits 1 ./deploy.sh orders_totl_cents 10s
says 'there is no job "orders_totl_cents"'

step "no daemon: the timeout passes"
sql -c 'alter table orders add column a int, add column b int, add column c int'
sql -c "select backfill.enqueue(name => 'a', target => 'orders', set => 'a = 1', filter => 'a is null')"
exits 75 ./deploy.sh a 1s
says 'Run this deploy again'

step "a daemon starts while the deploy waits"
(sleep 1; run_daemon) >"$RECIPE_WORK/daemon.log" 2>&1 &
exits 0 ./deploy.sh a 1m
wait $!

step "the job fails: exit code 1 immediately, with the reason"
sql -c "select backfill.enqueue(name => 'b', target => 'orders', set => 'b = 1 / (id - 77)', filter => 'b is null')"
exits 1 backfilld run --until-idle --listen 127.0.0.1:0
exits 1 ./deploy.sh b 1m
says 'division by zero'

step "the job is cancelled"
sql -c "select backfill.enqueue(name => 'c', target => 'orders', set => 'c = 1', filter => 'c is null', needs_approval => true)"
exits 3 backfilld run --until-idle --listen 127.0.0.1:0
sql -c "select backfill.cancel('c', 'not this week')"
exits 1 ./deploy.sh c 1m
says 'not this week'

step "a job without verification: wait exits with 0, the assertion fails"
sql -c 'alter table orders add column d int'
sql -c "select backfill.enqueue(name => 'd', target => 'orders', set => 'd = 1', options => '{\"verify\": \"none\"}')"
run_daemon
exits 0 backfilld wait d --timeout 10s
exits 1 ./deploy.sh d 10s
says 'without verification'

step "a database that is not reachable; an invalid URL"
exits 69 env BACKFILLD_DATABASE_URL=postgres://owner@127.0.0.1:1/app ./deploy.sh a 1s
exits 78 env -u BACKFILLD_DATABASE_URL ./deploy.sh a 1s
exits 2 ./deploy.sh a soon

step "a login that may not view jobs"
psql -qX -U postgres -c 'create role nobody login'
exits 77 env BACKFILLD_DATABASE_URL="${BACKFILLD_DATABASE_URL/owner@/nobody@}" ./deploy.sh a 1s

step "a login that may view jobs"
psql -qX -U postgres -c 'create role ci login in role backfill_reader'
exits 0 env PGUSER=ci BACKFILLD_DATABASE_URL="${BACKFILLD_DATABASE_URL/owner@/ci@}" ./deploy.sh a 10s
