#!/usr/bin/env bash
# Runs the recipes of docs/recipes end to end on a temporary server, with a real daemon, and checks
# the outcome.
#
#   examples/recipes/check.sh            runs each recipe whose tool is installed, and prints why others are skipped
#   examples/recipes/check.sh psql ci    runs only these recipes; a recipe whose tool is missing fails
#
# The script needs psql. It removes its server and its files. It reads these variables:
#
# - PYTHON: the Python interpreter that has Django and Alembic (default: python3)
# - BACKFILLD: the daemon (default: target/debug/backfilld)
# - PG_BINDIR: the directory of the server's binaries
# - VERBOSE=1: print the output of the commands
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

"$here/blocks.sh"

backfilld=$(realpath -- "${BACKFILLD:-${CARGO_TARGET_DIR:-$root/target}/debug/backfilld}") || exit 1
[ -x "$backfilld" ] || { echo "$backfilld does not exist; to build it, run: cargo build --bin backfilld" >&2; exit 1; }
bin=$("$root/scripts/setup-postgres.sh" | sed -n '$s/.* in //p')
psql=$(PATH="$bin:$PATH" command -v psql) || {
    echo "skipped: all recipes, because psql is neither in $bin nor on the PATH"
    exit 0
}

# Without this, the caller's variables could connect the recipes to another server.
for name in $(compgen -e | grep -E '^(PG|BACKFILLD|DATABASE_URL)'); do unset "$name"; done
work=$(mktemp -d "${TMPDIR:-/tmp}/backfilld-recipes.XXXXXX")
chmod 755 "$work"
as_server() { "$@"; }
if [ "$(id -u)" = 0 ]; then # PostgreSQL refuses to run as root.
    as_server() { (cd "$work" && runuser -u postgres -- "$@"); }
    chown postgres "$work"
fi
clean_up() {
    [ -z "${daemon:-}" ] || kill -9 "$daemon" 2>/dev/null || true
    as_server "$bin/pg_ctl" -D "$work/data" -m immediate -w stop >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

as_server "$bin/initdb" -D "$work/data" -A trust -U postgres -E UTF8 --locale=C --no-sync >/dev/null
for try in 1 2 3 4 5 none; do
    [ $try != none ] || { echo "The server does not start:" >&2; cat "$work/server.log" >&2; exit 1; }
    PGPORT=$((20000 + RANDOM % 20000))
    as_server "$bin/pg_ctl" -D "$work/data" -l "$work/server.log" -w start >/dev/null 2>&1 \
        -o "-p $PGPORT -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off" && break
done
export PGHOST=127.0.0.1 PGPORT PGCONNECT_TIMEOUT=10 PGCLIENTENCODING=UTF8
export PATH="$(dirname "$backfilld"):$(dirname "$psql"):$bin:$PATH" PYTHON=${PYTHON:-python3}
psql -qX -v ON_ERROR_STOP=1 -U postgres postgres <<'SQL'
create role backfill_reader nologin;
create role backfill_submitter nologin;
create role backfill_operator nologin;
create role owner login in role pg_read_all_stats, backfill_operator;
create role deploy login in role owner, backfill_submitter; -- runs migrations, without being the owner
SQL

recipe() { # NAME: runs the recipe in a separate database, with a table to fill
    export PGUSER=owner PGDATABASE="app_$1"
    export BACKFILLD_DATABASE_URL="postgres://owner@127.0.0.1:$PGPORT/$PGDATABASE" RECIPE_DIR="$here/$1" RECIPE_WORK="$work/$1"
    mkdir -p "$RECIPE_WORK"
    psql -qX -U postgres postgres -c "create database $PGDATABASE owner owner" &&
        bash -euo pipefail -c '. "$0/support.sh"; . "$RECIPE_DIR/check.sh"' "$here"
}

asked=("$@")
passed=0 failed=0 skipped=0
for name in "${asked[@]:-psql ci flyway dbmate rails django alembic}"; do
    for one in $name; do
        log="$work/$one.log"
        code=0
        recipe "$one" >"$log" 2>&1 || code=$?
        why=$(sed -n '$s/^skipped: //p' "$log")
        [ -z "${VERBOSE:-}" ] || sed "s/^/    /" "$log"
        if [ $code = 0 ]; then
            passed=$((passed + 1))
            echo "passed   $one$(sed -n 's/^tried with: /, with /p' "$log")"
        elif [ $code = 77 ] && [ -n "$why" ] && [ ${#asked[@]} = 0 ]; then
            skipped=$((skipped + 1))
            echo "skipped  $one: $why"
        else
            failed=$((failed + 1))
            echo "FAILED   $one (exit code $code); its output:"
            sed 's/^/    /' "$log"
        fi
    done
done
echo "recipes: $passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
