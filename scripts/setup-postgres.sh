#!/usr/bin/env bash
# Makes sure that a PostgreSQL server is installed. The server need not run, because the tests and
# the demo start their own servers.
#
# Searches the same directories as the testbed (tests/testbed/src/binaries.rs). On Debian and
# Ubuntu, installs a missing server as root or through sudo, and first prints the names of the
# packages. On other systems, prints instructions and fails. Running the script again changes
# nothing.
set -euo pipefail

oldest=14

# Prints the version and the directory of the server in `$1`, if this version is new enough.
server_in() {
    local version
    [ -x "$1/initdb" ] && [ -x "$1/postgres" ] || return 1
    version=$("$1/postgres" --version 2>/dev/null) || return 1
    [[ $version =~ \)\ ([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge "$oldest" ] || return 1
    echo "PostgreSQL: $version in $1"
}

find_server() {
    local dir
    if [ -n "${PG_BINDIR:-}" ]; then
        server_in "$PG_BINDIR" && return 0
        echo "PG_BINDIR is set to $PG_BINDIR, which has no initdb and postgres of version $oldest or later." >&2
        exit 1
    fi
    if command -v pg_config >/dev/null 2>&1; then
        server_in "$(pg_config --bindir)" && return 0
    fi
    # The highest version comes first. A pattern without a match stays unchanged, and `server_in`
    # skips it, because it is not a directory.
    while read -r dir; do
        server_in "$dir" && return 0
    done < <(printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
        /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin /home/linuxbrew/.linuxbrew/opt/postgresql*/bin |
        sort -rV)
    if dir=$(command -v initdb 2>/dev/null); then
        server_in "$(dirname "$dir")" && return 0
    fi
    return 1
}

give_up() {
    cat >&2 <<END
No PostgreSQL server (initdb and postgres, version $oldest or later) was found, and $1.
Install one:
  Debian, Ubuntu   apt-get install postgresql postgresql-contrib   (as root)
  Fedora, RHEL     dnf install postgresql-server postgresql-contrib   (as root)
  macOS            brew install postgresql@17
or set PG_BINDIR to the directory that contains initdb and postgres. No server needs to be running.
END
    exit 1
}

find_server && exit 0

command -v apt-get >/dev/null 2>&1 || give_up "this system has no apt-get"
if [ "$(id -u)" = 0 ]; then
    root() { env DEBIAN_FRONTEND=noninteractive "$@"; }
elif command -v sudo >/dev/null 2>&1 && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
    root() { sudo env DEBIAN_FRONTEND=noninteractive "$@"; }
else
    give_up "installing it requires root or sudo"
fi

echo "PostgreSQL is not installed. Installing with apt-get: postgresql postgresql-contrib,"
echo "without the server on port 5432 that the package starts by default."
root apt-get update -q
# postgresql-common must be installed first, because the installation of the server reads the
# configuration file of postgresql-common.
root apt-get install -q -y postgresql-common
conf=/etc/postgresql-common/createcluster.conf
if root grep -qE '^[#[:space:]]*create_main_cluster' "$conf" 2>/dev/null; then
    root sed -i -E 's/^[#[:space:]]*create_main_cluster.*/create_main_cluster = false/' "$conf"
else
    root sh -c "echo 'create_main_cluster = false' >> $conf"
fi
root apt-get install -q -y postgresql postgresql-contrib

find_server || give_up "the package that apt-get installed does not contain one"
