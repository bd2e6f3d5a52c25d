"$PYTHON" -c 'import django, psycopg' 2>/dev/null || skip "$PYTHON has no django and psycopg (pip install django 'psycopg[binary]'; PYTHON=... names another)"
tried_with "$("$PYTHON" -c 'import django, psycopg, sys; print(f"Django {django.__version__}, psycopg {psycopg.__version__}, Python {sys.version.split()[0]}")')"
export PYTHONDONTWRITEBYTECODE=1
manage() { "$PYTHON" manage.py "$@"; }
shell() { "$PYTHON" -c 'import os, sys, django
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
django.setup()
from django.db import connection, transaction, DatabaseError
from shop.models import Order
exec(sys.argv[1])' "$1"; }

psql -qX -U postgres -c 'alter role owner createdb' postgres

step "the test database has no schema backfill: the migrations fill the column"
exits 0 manage test --noinput
says 'OK'

step "production: the migration enqueues"
exits 0 manage migrate shop 0001
sql -c 'insert into orders (total) select i / 100.0 from generate_series(1, 20000) i'
backfilld migrate
exits 0 manage migrate shop 0002
is "jobs" queued "$(sql -c 'select state from backfill.jobs')"

step "before the backfill: the assertion fails with the reason"
exits 1 manage migrate
says 'job "orders_total_cents" is not complete: queued'
says 'HINT:'

step "rollback while the job is active: refused until the job is cancelled"
exits 1 manage migrate shop 0001
says "run select backfill.cancel('orders_total_cents') first"
exits 0 backfilld cancel orders_total_cents
exits 0 manage migrate shop 0001
exits 0 manage migrate shop 0002

step "the daemon fills the column between the read and the save of an object"
cat >"$RECIPE_WORK/save.py" <<'PY'
import subprocess
stale = Order.objects.get(id=5)
Order.objects.create(total="7.25")
Order.objects.bulk_create([Order(total="7.50")])
subprocess.run(["backfilld", "run", "--until-idle", "--listen", "127.0.0.1:0"], check=True)
stale.total = "1.01"
stale.save()
PY
exits 0 shell "$(cat "$RECIPE_WORK/save.py")"
exits 0 backfilld wait orders_total_cents --timeout 1m

step "constrain"
exits 0 manage migrate
assert_done
exits 0 manage makemigrations --check --dry-run
is "updates in migration 0003, because AlterField has no default" 0 "$(manage sqlmigrate shop 0003 | grep -c -i '^update' || true)"

step "migrate backward and forward"
exits 0 manage migrate shop 0002
exits 0 manage migrate
assert_done

step "a percent sign: RunSQL does not change it, a cursor with parameters needs it doubled"
sql -c 'alter table orders add column digit int'
exits 0 shell 'connection.cursor().execute("select backfill.enqueue(name => '"'digit', target => 'public.orders', set => 'digit = id % 10', filter => 'digit is null'"')")'
exits 0 shell 'connection.cursor().execute("select backfill.enqueue(name => %s, target => '"'public.orders', set => 'digit = id %% 10', filter => 'digit is null'"')", ["digit"])'
is "set of the one job" 'digit = id % 10' "$(sql -c "select set from backfill.jobs where name = 'digit'")"

step "the class of the error, its SQLSTATE, detail and hint"
cat >"$RECIPE_WORK/error.py" <<'PY'
try:
    connection.cursor().execute("select backfill.assert_complete('digit')")
except DatabaseError as error:
    diag = error.__cause__.diag
    print(type(error).__name__, diag.sqlstate, "|", diag.message_detail, "|", diag.message_hint)
PY
exits 0 shell "$(cat "$RECIPE_WORK/error.py")"
says 'BF004 | It has not finished. |'
