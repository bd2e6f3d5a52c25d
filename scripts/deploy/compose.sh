#!/usr/bin/env bash
# Checks deploy/compose.yaml without a container engine. `docker-compose config` parses the file and
# refuses unknown keys and wrong types. The mounted files must exist. promtool checks the
# configuration of Prometheus. The scripts of the primary, of the standby and of the traffic run on
# real servers of this machine. A daemon that uses deploy/compose/backfilld.yaml runs a backfill on
# these servers. The containers themselves are not tested.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${CARGO_TARGET_DIR:-$PWD/target}
backfilld=$(realpath -- "${BACKFILLD:-$target/debug/backfilld}")
[ -x "$backfilld" ] || cargo build --locked --bin backfilld
scripts/need.sh docker-compose=docker-compose promtool=prometheus || exit
bin=$(scripts/setup-postgres.sh | sed -n '$s/.* in //p')
as_server() { if [ "$(id -u)" = 0 ]; then (cd / && runuser -u postgres -- env "PATH=$bin:$PATH" "$@"); else env "PATH=$bin:$PATH" "$@"; fi; }
work=$(as_server mktemp -d)
chmod 755 "$work"
clean_up() {
    [ -z "${daemon:-}" ] || kill "$daemon" 2>/dev/null || true
    for data in "$work/standby" "$work/primary"; do
        as_server pg_ctl -D "$data" -m immediate -w stop >/dev/null 2>&1 || true
    done
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
passed=0
pass() { passed=$((passed + 1)); echo "passed   $*"; }
fail() { echo "FAILED   $*" >&2; exit 1; }

# The last standalone version of docker-compose supports all keys of the file except `name`.
read_it() { # FILE
    sed '/^name:/d' "$1" > "$work/compose.yaml"
    docker-compose --project-directory deploy --file "$work/compose.yaml" config > "$work/read" 2> "$work/said" && [ ! -s "$work/said" ]
}
read_it deploy/compose.yaml || { cat "$work/said" >&2; fail "docker-compose config"; }
cp "$work/read" "$work/whole"
for slip in 's/read_only:/readonly:/' 's/stop_grace_period: 40s/stop_grace_period: [40]/' 's/condition: service_healthy/condition: healthy/' 's/^  primary:$/  first:/'; do
    sed "$slip" deploy/compose.yaml > "$work/slip.yaml"
    if cmp -s deploy/compose.yaml "$work/slip.yaml" || read_it "$work/slip.yaml"; then fail "an invalid file passes: $slip"; fi
done
pass "docker-compose config parses the file, and refuses four invalid files"
while read -r path; do
    [ -e "$path" ] || fail "the mounted file $path does not exist"
done < <(sed -nE 's|^ +- (/.*):/.*:ro$|\1|p' "$work/whole")
[ "$(grep -c ':ro$' "$work/whole")" -ge 10 ] || fail "no mounts were found"
for want in 'read_only: true' 'stop_grace_period: 40s' '  - ALL' 'no-new-privileges:true'; do
    grep -q -- "$want" "$work/whole" || fail "the file lacks $want"
done
! grep -E '^ +- .*:(3000|8432|9090)' deploy/compose.yaml | grep -v '127.0.0.1:' >&2 || fail "a port is published on another address than 127.0.0.1"
pass "the mounted files exist, the daemon is restricted, and the ports are published only on 127.0.0.1"

sed "s|/etc/prometheus/backfilld/|$PWD/deploy/prometheus/|" deploy/compose/prometheus.yml > "$work/prometheus.yml"
promtool check config "$work/prometheus.yml" > "$work/said" 2>&1 || { cat "$work/said" >&2; fail "promtool check config"; }
pass "promtool accepts the configuration of Prometheus and its rules"

# --- run the scripts against servers on this machine
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
first=$(free_port) second=$(free_port) http=$(free_port)
library=$(test -e "$("$bin/pg_config" --pkglibdir 2>/dev/null)/pg_stat_statements.so" && echo pg_stat_statements || true)
[ -n "$library" ] || fail "the installed server has no pg_stat_statements (package postgresql-contrib)"
own=(-c listen_addresses=127.0.0.1 -c "unix_socket_directories=" -c fsync=off)
echo demo > "$work/password"
as_server initdb -D "$work/primary" -A scram-sha-256 -U postgres --pwfile="$work/password" -E UTF8 --locale=C --no-sync >/dev/null
PGDATA=$work/primary bash deploy/compose/primary.sh
as_server pg_ctl -D "$work/primary" -l "$work/log" -w start \
    -o "-p $first -c shared_preload_libraries=pg_stat_statements -c wal_level=replica -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off" >/dev/null
export PGHOST=127.0.0.1 PGPORT=$first PGPASSWORD=demo
psql() { "$bin/psql" -qAtX -v ON_ERROR_STOP=1 "$@"; }
psql -U postgres -d postgres -c 'create database app'
psql -U postgres -d app -f deploy/compose/primary.sql
cp deploy/compose/standby.sh "$work/standby.sh"
chmod 644 "$work/standby.sh"
as_server env PGDATA="$work/standby" "PRIMARY=host=127.0.0.1 port=$first user=replicator password=demo application_name=standby" \
    "POSTGRES_OPTIONS=-p $second ${own[*]}" bash "$work/standby.sh" > "$work/standby.log" 2>&1 &
until_true() { # SECONDS WHAT SQL
    for _ in $(seq $(($1 * 10))); do
        if [ "$(psql -U postgres -d app -c "$3" 2>/dev/null)" = t ]; then return 0; fi
        sleep 0.1
    done
    cat "$work"/*.log >&2 || true
    fail "$2: not within $1 s"
}
until_true 60 "the standby streams" "select count(*) = 1 from pg_stat_replication where application_name = 'standby' and state = 'streaming'"
pass "primary.sql, primary.sh and standby.sh: a million orders, and a standby that streams"

(cd "$work" && "$bin/pgbench" --no-vacuum --client=4 --rate=200 --time=3 --file="$OLDPWD/deploy/compose/traffic.sql" -U owner app) > "$work/said" 2>&1 || { cat "$work/said" >&2; fail "pgbench with traffic.sql"; }
pass "traffic.sql: $(sed -n 's/^number of transactions actually processed: //p' "$work/said") transactions in 3 s"

sed "s|/run/secrets/|$PWD/deploy/compose/|" deploy/compose/backfilld.yaml > "$work/backfilld.yaml"
export BACKFILLD_DATABASE_URL="postgres://owner:demo@127.0.0.1:$first/app" BACKFILLD_CONFIG="$work/backfilld.yaml"
"$backfilld" run --listen "127.0.0.1:$http" > "$work/daemon.log" 2>&1 &
daemon=$!
for _ in $(seq 100); do
    if "$backfilld" probe readyz --listen "127.0.0.1:$http" >/dev/null 2>&1; then break; fi
    sleep 0.1
done
"$backfilld" enqueue orders_total_cents --target public.orders --set 'total_cents = round(total * 100)::bigint' --filter 'total_cents is null' >/dev/null
"$backfilld" wait orders_total_cents --timeout 5m > "$work/said" || { cat "$work/daemon.log" >&2; fail "the job did not succeed"; }
psql -U owner -d app -c "select backfill.assert_complete('orders_total_cents')" >/dev/null
until_true 30 "the standby has replayed all WAL" "select bool_and(replay_lsn = pg_current_wal_lsn()) from pg_stat_replication"
unfilled=$(psql -p "$second" -U owner -d app -c "select count(*) from public.orders where total_cents is distinct from round(total * 100)")
[ "$unfilled" = 0 ] || fail "$unfilled orders are not filled on the standby"
[ "$(psql -U owner -d app -c "select count(*) > 0 from backfill.signals where source = 'standby'")" = t ] || fail "the daemon did not read the lag of the standby"
pass "backfilld.yaml: $(tail -1 "$work/said")"
kill -TERM "$daemon"
wait "$daemon" || fail "the daemon exited with code $?"
daemon=
pass "the daemon drains on SIGTERM"
echo "$passed passed, 0 failed"
