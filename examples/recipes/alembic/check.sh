"$PYTHON" -c 'import alembic, sqlalchemy, psycopg' 2>/dev/null || skip "$PYTHON has no alembic, sqlalchemy and psycopg (pip install alembic sqlalchemy 'psycopg[binary]'; PYTHON=... names another)"
tried_with "$("$PYTHON" -c 'import alembic, sqlalchemy, psycopg, sys; print(f"Alembic {alembic.__version__}, SQLAlchemy {sqlalchemy.__version__}, psycopg {psycopg.__version__}")')"
export PYTHONDONTWRITEBYTECODE=1
drivers=psycopg
! "$PYTHON" -c 'import psycopg2' 2>/dev/null || drivers="psycopg psycopg2"
migrate() { "$PYTHON" -m alembic "$@"; }
database() { # NAME DRIVER
    [ "$1" = "$PGDATABASE" ] || psql -qX -U postgres -c "create database $1 owner owner" postgres
    export PGDATABASE=$1 SQLALCHEMY_URL="postgresql+$2://owner@127.0.0.1:$PGPORT/$1"
    export BACKFILLD_DATABASE_URL="postgres://owner@127.0.0.1:$PGPORT/$1"
}

step "a test database without schema backfill: the migrations fill the column"
database "$PGDATABASE" psycopg
exits 0 migrate upgrade head
assert_done

for driver in $drivers; do
    step "production, over $driver: the migration enqueues"
    database "prod_$driver" "$driver"
    backfilld migrate
    exits 0 migrate upgrade 0001
    sql -c 'insert into orders (total) select i / 100.0 from generate_series(1, 20000) i'
    exits 0 migrate upgrade 0002
    is "jobs" queued "$(sql -c 'select state from backfill.jobs')"

    step "before the backfill: the assertion fails with the reason"
    exits 1 migrate upgrade head
    says 'job "orders_total_cents" is not complete: queued'
    says 'HINT:'
    is "revision" 0002 "$(sql -c 'select version_num from alembic_version')"

    step "rollback while the job is active: refused until the job is cancelled"
    exits 1 migrate downgrade 0001
    says "run select backfill.cancel('orders_total_cents') first"
    exits 0 backfilld cancel orders_total_cents
    exits 0 migrate downgrade 0001
    exits 0 migrate upgrade 0002

    step "the daemon fills the column; the trigger fills rows written before and after it runs"
    sql -c 'insert into orders (total) values (7.25)'
    run_daemon
    sql -c 'insert into orders (total) values (7.50)' -c 'update orders set total = 1.01 where id = 5'
    exits 0 backfilld wait orders_total_cents --timeout 1m

    step "constrain, downgrade and upgrade"
    exits 0 migrate upgrade head
    assert_done
    exits 0 migrate downgrade 0002
    exits 0 migrate upgrade head
    assert_done

    step "a percent sign over $driver: op.execute does not change it"
    sql -c 'alter table orders add column digit int'
    exits 0 "$PYTHON" -c "import os, sqlalchemy as sa
with sa.create_engine(os.environ['SQLALCHEMY_URL']).begin() as c:
    c.execute(sa.text(\"select backfill.enqueue(name => 'digit', target => 'public.orders', set => 'digit = id % 10', filter => 'digit is null')\"))"
    is "set of the job" 'digit = id % 10' "$(sql -c "select set from backfill.jobs where name = 'digit'")"

    step "SQLSTATE and hint over $driver"
    exits 0 "$PYTHON" -c "import os, sqlalchemy as sa
try:
    sa.create_engine(os.environ['SQLALCHEMY_URL']).connect().execute(sa.text(\"select backfill.assert_complete('digit')\"))
except sa.exc.DBAPIError as error:
    print(error.orig.diag.sqlstate, error.orig.diag.message_hint)"
    says 'BF004 No daemon runs jobs as its role'
done

step "offline mode: the SQL for a DBA with psql"
database offline psycopg
backfilld migrate
migrate upgrade 0002 --sql >"$RECIPE_WORK/expand.sql" 2>/dev/null
exits 0 psql -X -v ON_ERROR_STOP=1 -f "$RECIPE_WORK/expand.sql"
run_daemon
migrate upgrade 0002:0003 --sql >"$RECIPE_WORK/constrain.sql" 2>/dev/null
exits 0 psql -X -v ON_ERROR_STOP=1 -f "$RECIPE_WORK/constrain.sql"
assert_done

step "without transaction_per_migration the autocommit block commits the common transaction of all migrations"
database single psycopg
backfilld migrate
mkdir "$RECIPE_WORK/single"
cp -r ./* "$RECIPE_WORK/single"
cd "$RECIPE_WORK/single"
sed -i 's/, transaction_per_migration=True//' env.py
exits 1 migrate upgrade head
says 'is not complete: queued'
is "revision" 0002 "$(sql -c 'select version_num from alembic_version')"
run_daemon
exits 0 migrate upgrade head
assert_done
