#!/usr/bin/env bash
# Tests the container image. Builds the image from the Dockerfile. Runs the image with the
# restrictions of deploy/kubernetes (read-only root file system, no capabilities, unprivileged
# user), and starts a new PostgreSQL server for it. The daemon runs a backfill, drains on SIGTERM
# during the backfill, and resumes.
#
# Needs root on Linux, and the programs buildah, podman, runc, debootstrap, openssl and python3.
# Needs no running container daemon, and pulls no image. The build stage uses a minimal Debian that
# debootstrap makes, and mounts the Rust toolchain of this machine. KEEP=1 keeps the image in
# target/image/storage.
set -euo pipefail
cd "$(dirname "$0")/../.."

limit_mb=25
target=${CARGO_TARGET_DIR:-$PWD/target}
place=$target/image
host=db.backfilld.test

[ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ] || { echo "this test needs root on Linux" >&2; exit 3; }
scripts/need.sh buildah=buildah podman=podman runc=runc debootstrap=debootstrap openssl=openssl python3=python3 || exit
bin=$(scripts/setup-postgres.sh | sed -n '$s/.* in //p')

mkdir -p "$place"
work=$(mktemp -d "${TMPDIR:-/tmp}/backfilld-image.XXXXXX")
chmod 755 "$work"
storage=(--root "$place/storage" --runroot "$work/run" --storage-driver vfs)
buildah() { command buildah "${storage[@]}" "$@"; }
# Without systemd, podman reports at each start that it cannot set a timer for the health check. The
# test runs the health check itself.
podman() { command podman "${storage[@]}" --log-level fatal --cgroup-manager cgroupfs --runtime runc "$@"; }
as_server() { (cd "$work" && runuser -u postgres -- "$@"); }
clean_up() {
    podman rm --all --force --time 0 >/dev/null 2>&1 || true
    [ -z "${names:-}" ] || kill "$names" 2>/dev/null || true
    as_server "$bin/pg_ctl" -D "$work/data" -m immediate -w stop >/dev/null 2>&1 || true
    if [ -z "${KEEP:-}" ]; then rm -rf "$place/storage"; fi
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
passed=0
pass() { passed=$((passed + 1)); echo "passed   $*"; }
fail() { echo "FAILED   $*" >&2; exit 1; }
same() { # WHAT FOUND WANTED
    [ "$2" = "$3" ] || fail "$1 is $2, but should be $3"
}

# --- build the builder's base
rootfs=$place/builder.tar
if [ ! -s "$rootfs" ]; then
    echo "Building the builder's base (only once)"
    debootstrap --variant=minbase --include=gcc,libc6-dev,musl-tools,ca-certificates bookworm "$work/rootfs" >"$work/log" 2>&1 ||
        { tail -5 "$work/log" >&2; fail "debootstrap"; }
    rm -rf "$work"/rootfs/var/cache/apt/archives/*.deb "$work"/rootfs/var/lib/apt/lists/*
    tar -C "$work/rootfs" --numeric-owner -cf "$rootfs.new" . && mv "$rootfs.new" "$rootfs"
    rm -rf "$work/rootfs"
fi
sysroot=$(rustc --print sysroot)
musl=$(uname -m)-unknown-linux-musl
[ -d "$sysroot/lib/rustlib/$musl/lib" ] || rustup target add "$musl"
cargo fetch --quiet --locked --target "$musl"
base=$(buildah from scratch)
buildah add --quiet "$base" "$rootfs" / >/dev/null
# The build runs offline. It uses the crates that `cargo fetch` has downloaded, and no others.
buildah config --env PATH=/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin --env CARGO_HOME=/cargo --env CARGO_NET_OFFLINE=true "$base"
buildah commit --quiet --rm "$base" localhost/backfilld-builder >/dev/null

# --- build the image
image=localhost/backfilld:test
mkdir -p "$place/cargo"
buildah bud --quiet --isolation chroot --pull-never --format docker --timestamp "$(git log -1 --format=%ct)" \
    --volume "$sysroot:/rust:ro" --volume "${CARGO_HOME:-$HOME/.cargo}/registry:/cargo/registry" --volume "$place/cargo:/build/target" \
    --build-arg BUILDER=localhost/backfilld-builder --build-arg "REVISION=$(git rev-parse HEAD)" \
    --tag "$image" . >"$work/log" 2>&1 || { tail -30 "$work/log" >&2; fail "the image could not be built"; }
inspect() { podman image inspect --format "$1" "$image"; }
bytes=$(inspect '{{.Size}}')
[ "$bytes" -lt $((limit_mb * 1000 * 1000)) ] || fail "the image has $bytes bytes, but the limit is $limit_mb MB"
pass "image built: $((bytes / 1000)) kB"
same "the user" "$(inspect '{{.Config.User}}')" 65532:65532
same "the health check" "$(inspect '{{json .HealthCheck.Test}}')" '["CMD","/usr/local/bin/backfilld","probe","livez"]'
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
same "the version label" "$(inspect '{{index .Config.Labels "org.opencontainers.image.version"}}')" "$version"
same "the revision label" "$(inspect '{{index .Config.Labels "org.opencontainers.image.revision"}}')" "$(git rev-parse HEAD)"
files=$(podman save --quiet --format docker-archive "$image" | tar -xO --wildcards '*layer.tar' '*.tar' 2>/dev/null | tar -t --ignore-zeros | grep -v '/$' | sort | tr '\n' ' ')
same "the list of files" "$files" "LICENSE etc/ssl/certs/ca-certificates.crt usr/local/bin/backfilld "
pass "labels, user, health check, and three files: $files"

# --- start a server that offers TLS and whose host name can be resolved only by DNS
(
    cd "$work"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=root -keyout root.key -out root.crt
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$host" -keyout server.key -out server.csr
    openssl x509 -req -days 2 -in server.csr -CA root.crt -CAkey root.key -CAcreateserial -out server.crt \
        -extfile <(echo "subjectAltName=DNS:$host")
) >/dev/null 2>&1
chown postgres "$work" "$work"/server.*
chmod 600 "$work/server.key"
as_server "$bin/initdb" -D "$work/data" -A trust -U postgres -E UTF8 --locale=C --no-sync >/dev/null
as_server cp "$work/server.crt" "$work/server.key" "$work/data/"
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free_port)
as_server "$bin/pg_ctl" -D "$work/data" -l "$work/server.log" -w start \
    -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off -c ssl=on" >/dev/null
sql() { "$bin/psql" -h 127.0.0.1 -p "$port" -U postgres -d app -qAtX -v ON_ERROR_STOP=1 -c "$1"; }
"$bin/psql" -h 127.0.0.1 -p "$port" -U postgres -d postgres -qX -c 'create database app'
sql "create role backfill_reader nologin; create role backfill_submitter nologin; create role backfill_operator nologin;
     create role owner login in role pg_read_all_stats, backfill_operator; grant create on database app to owner;
     create table counted (id bigint primary key, n int not null default 0);
     insert into counted select i from generate_series(1, 200000) i; alter table counted owner to owner"
# A name server that resolves each name to 127.0.0.1. It needs a separate loopback address, because
# clients send queries only to port 53, which another name server may use on 127.0.0.1.
resolver=127.53.0.$((RANDOM % 200 + 10))
python3 - "$resolver" "$work/asked" <<'PY' &
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
while True:
    question, asker = server.recvfrom(512)
    end = question.index(b"\0", 12) + 5
    is_a = question[end - 4:end - 2] == b"\0\1"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1" if is_a else b""
    server.sendto(question[:2] + b"\x81\x80\0\1" + (b"\0\1" if is_a else b"\0\0") + b"\0\0\0\0" + question[12:end] + answer, asker)
    open(sys.argv[2], "ab").write(question[12:end] + b"\n")
PY
names=$!
echo "nameserver $resolver" > "$work/resolv.conf"

# --- run the daemon, configured as in deploy/kubernetes
http=$(free_port)
mkdir "$work/config" "$work/secrets"
cat > "$work/config/backfilld.yaml" <<END
http: {listen: "127.0.0.1:$http"}
databases: [{name: main, url_file: /run/secrets/backfilld/database-url}]
END
url="postgres://owner@$host:$port/app?sslmode=verify-full&sslrootcert"
echo "$url=/run/secrets/backfilld/root.crt" > "$work/secrets/database-url"
cp "$work/root.crt" "$work/secrets/"
locked=(--read-only --read-only-tmpfs=false --cap-drop ALL --security-opt no-new-privileges --network host
    --ulimit nofile=1024:20000 --ulimit nproc=4096:4096 --memory 128m
    --volume "$work/config:/etc/backfilld:ro" --volume "$work/secrets:/run/secrets/backfilld:ro"
    --volume "$work/resolv.conf:/etc/resolv.conf:ro" --env BACKFILLD_CONFIG=/etc/backfilld/backfilld.yaml)
client() { podman run --rm --no-healthcheck "${locked[@]}" "$image" "$@"; }
until_true() { # SECONDS WHAT COMMAND...
    local seconds=$1 what=$2
    shift 2
    for _ in $(seq $((seconds * 10))); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    podman logs daemon >&2 || true
    fail "$what: not within $seconds s"
}
is_true() { [ "$(sql "$1")" = t ]; }

code=0
podman run --rm "${locked[@]}" "$image" doctor --database-url "$url=system" >"$work/log" 2>&1 || code=$?
[ $code = 69 ] && grep -qi 'certificate' "$work/log" || { cat "$work/log" >&2; fail "doctor did not reject the test's own CA with the system roots of the image: exit code $code"; }
grep -q "$(printf 'backfilld\x04test')" "$work/asked" || fail "the name server received no query for $host"
pass "DNS resolves the host name, and the system roots of the image reject the test's own CA: $(grep -i -m1 certificate "$work/log")"

podman run --detach --name daemon --stop-timeout 40 "${locked[@]}" "$image" >/dev/null
until_true 20 "ready" client probe readyz
status=/proc/$(podman inspect --format '{{.State.Pid}}' daemon)
read_status() { sed -n "s/^$1:[[:space:]]*//p" "$status/status" | tr '\t' ' '; }
same "the uid" "$(read_status Uid)" "65532 65532 65532 65532"
for set in CapEff CapPrm CapBnd; do same "$set" "$(read_status $set)" 0000000000000000; done
same "NoNewPrivs" "$(read_status NoNewPrivs)" 1
same "Seccomp" "$(read_status Seccomp)" 2
grep -qE '^[0-9]+ [0-9]+ [0-9:]+ [^ ]+ / ro' "$status/mountinfo" || fail "the root file system is writable"
podman healthcheck run daemon || fail "the health check"
is_true "select bool_and(ssl) from pg_stat_ssl s join pg_stat_activity a using (pid) where a.usename = 'owner'" || fail "a session does not use TLS"
pass "the daemon runs as 65532 without capabilities, on a read-only root file system, over TLS, and the health check passes"

client enqueue counted --target public.counted --set 'n = n + 1' --option max_rows_per_second=20000 --option max_batch_rows=500 >/dev/null
until_true 20 "the job runs" is_true "select rows_changed > 10000 from backfill.jobs"
begun=$(date +%s%N)
podman stop daemon >/dev/null
took=$((($(date +%s%N) - begun) / 1000000))
same "the exit code after SIGTERM" "$(podman inspect --format '{{.State.ExitCode}}' daemon)" 0
[ $took -lt 20000 ] || fail "the drain took $took ms"
is_true "select state = 'running' and rows_changed between 1 and 199999 from backfill.jobs" || fail "the job finished before SIGTERM"
is_true "select count(*) = 0 from backfill.lease" || fail "the daemon did not release its leases"
pass "the daemon drained on SIGTERM during a job in $took ms, exit code 0"

podman start daemon >/dev/null
rss=0
until_done() {
    local now
    now=$(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$(podman inspect --format '{{.State.Pid}}' daemon)/status")
    [ "${now:-0}" -le $rss ] || rss=$now
    is_true "select state = 'succeeded' from backfill.jobs"
}
until_true 60 "the job succeeds" until_done
client wait counted --timeout 5s >/dev/null
is_true "select count(*) = 200000 from counted where n = 1" || fail "some rows were not changed exactly once"
sql "select backfill.assert_complete('counted')" >/dev/null || fail "backfill.assert_complete"
pass "the job resumed, and changed each of 200,000 rows once, with at most $rss kB of memory"

echo "$passed passed, 0 failed"
