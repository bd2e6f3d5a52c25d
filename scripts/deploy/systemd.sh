#!/usr/bin/env bash
# Checks the systemd unit without a running systemd:
# - `systemd-analyze verify` prints nothing.
# - `systemd-analyze security` reports an exposure level of at most $most_exposed.
# - TimeoutStopSec is longer than the drain.
# - The configuration reads the credential of the unit.
# - The unit allows all system calls of a running daemon.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Maximum exposure level, on a scale from 0 (fully restricted) to 10 (no restriction). The remaining
# exposure is network access, because the unit cannot know the addresses of the databases.
most_exposed=1.5
unit=deploy/systemd/backfilld.service
target=${CARGO_TARGET_DIR:-$PWD/target}
backfilld=${BACKFILLD:-$target/debug/backfilld}
[ -x "$backfilld" ] || cargo build --locked --bin backfilld
scripts/need.sh systemd-analyze=systemd strace=strace || exit
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
pass() { passed=$((passed + 1)); echo "passed   $*"; }
fail() { echo "FAILED   $*" >&2; exit 1; }

# Creates a root directory that contains the files of an installed daemon, because `verify` requires
# the binary and the other units to which the tested unit refers.
mkdir -p "$work/root/usr/local/bin" "$work/root/bin" "$work/root/etc/systemd/system" "$work/root/usr/lib/systemd"
cp -r /lib/systemd/system "$work/root/usr/lib/systemd/"
ln -s usr/lib "$work/root/lib"
cp "$backfilld" "$work/root/usr/local/bin/backfilld"
cp /bin/kill "$work/root/bin/"
verify() { # FILE
    cp "$1" "$work/root/etc/systemd/system/backfilld.service"
    systemd-analyze verify --man=no --root="$work/root" backfilld.service > "$work/said" 2>&1 && [ ! -s "$work/said" ]
}
verify "$unit" || { cat "$work/said" >&2; fail "systemd-analyze verify"; }
pass "systemd-analyze verify"
for slip in 's/ProtectClock=/ProtectClok=/' 's/Type=exec/Type=exce/' 's|/usr/local/bin/|/usr/local/sbin/|' 's/TimeoutStopSec=40/TimeoutStopSec=forty/'; do
    sed "$slip" "$unit" > "$work/slip.service"
    if cmp -s "$unit" "$work/slip.service" || verify "$work/slip.service"; then fail "an invalid unit passes: $slip"; fi
done
pass "systemd-analyze verify refuses four invalid units"

exposure=$(LC_ALL=C systemd-analyze security --offline=true --no-pager "$unit" | sed -n 's/.*Overall exposure level for [^:]*: \([0-9.]*\).*/\1/p')
[ -n "$exposure" ] && awk "BEGIN { exit !($exposure <= $most_exposed) }" || fail "the exposure level is ${exposure:-unknown}, but the limit is $most_exposed"
pass "systemd-analyze security: exposure $exposure"

stop=$(sed -n 's/^TimeoutStopSec=//p' "$unit")
grace=$(sed -n 's/^  grace_seconds: //p' config/backfilld.yaml)
[ "$stop" -ge $((grace + 10)) ] || fail "systemd kills the daemon $stop s after SIGTERM, but the drain may take $grace s"
grep -q "/run/credentials/$(basename "$unit")/$(sed -n 's/^LoadCredential=\([^:]*\):.*/\1/p' "$unit")" deploy/systemd/backfilld.yaml || fail "the configuration reads another credential"
pass "TimeoutStopSec is longer than the drain, and the configuration reads the credential of the unit"

if strace -qq -o /dev/null true 2>/dev/null; then
    # Collects the system calls that the filter allows: the named sets minus the removed sets.
    expand() { # SET...: prints the system calls of sets. A set may contain other sets.
        local set name
        for set in "$@"; do
            while read -r name; do
                case $name in @*) expand "$name" ;; [a-z]*) echo "$name" ;; esac
            done < <(systemd-analyze syscall-filter --no-pager "$set" | sed -n 's/^    \([@a-z].*\)/\1/p')
        done
    }
    read -r -a allow < <(sed -n 's/^SystemCallFilter=\([^~].*\)/\1/p' "$unit")
    read -r -a deny < <(sed -n 's/^SystemCallFilter=~//p' "$unit")
    comm -23 <(expand "${allow[@]}" @default | sort -u) <(expand "${deny[@]}" | sort -u) > "$work/allowed"
    [ "$(wc -l < "$work/allowed")" -gt 200 ] || fail "systemd-analyze lists too few system calls"
    bin=$(scripts/setup-postgres.sh | sed -n '$s/.* in //p')
    as_server() { if [ "$(id -u)" = 0 ]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi; }
    data=$(as_server mktemp -d)
    trap 'as_server "$bin/pg_ctl" -D "$data/d" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$work" "$data"' EXIT
    port=$((20000 + RANDOM % 20000))
    as_server "$bin/initdb" -D "$data/d" -A trust -U postgres --no-sync >/dev/null
    as_server "$bin/pg_ctl" -D "$data/d" -l "$data/log" -w start -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off" >/dev/null
    sql() { "$bin/psql" -h 127.0.0.1 -p "$port" -U postgres -qAtX -v ON_ERROR_STOP=1 -c "$1"; }
    sql "create table t (id int primary key, n int); insert into t select i, 0 from generate_series(1, 20000) i" >/dev/null
    export BACKFILLD_DATABASE_URL="postgres://postgres@127.0.0.1:$port/postgres"
    "$backfilld" migrate >/dev/null 2>&1
    sql "select backfill.enqueue('j', 't', 'n = n + 1')" >/dev/null
    strace -f -qq -o "$work/trace" "$backfilld" run --until-idle --listen 127.0.0.1:0 >"$work/said" 2>&1 || { cat "$work/said" >&2; fail "the daemon under strace"; }
    [ "$(sql 'select count(*) from t where n = 1')" = 20000 ] || fail "the daemon under strace did not change all rows"
    sed -nE 's/^[0-9]+ +([a-z_0-9]+)\(.*/\1/p' "$work/trace" | sort -u > "$work/made"
    refused=$(comm -23 "$work/made" "$work/allowed" | tr '\n' ' ')
    [ -z "$refused" ] || fail "the unit refuses system calls of the daemon: $refused"
    pass "the unit allows all $(wc -l < "$work/made") kinds of system calls of the daemon"
else
    echo "NOT RUN  system calls: this machine does not allow strace"
fi
echo "$passed passed, 0 failed"
