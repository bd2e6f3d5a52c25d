#!/usr/bin/env bash
# One deploy of a release whose code needs what an earlier release's migration enqueued.
# Needs BACKFILLD_DATABASE_URL, psql's variables (PGHOST, PGDATABASE, ...) for the same database, and both on the PATH;
# backfilld of the same release as the daemon.
set -euo pipefail

job=${1:?the name of the job}
timeout=${2:-30m}

code=0
backfilld wait "$job" --timeout "$timeout" || code=$?
if [ "$code" = 75 ]; then # Not done yet; what it waits for, if anything, is at "next". Nothing is broken.
    backfilld status "$job"
    echo "Run this deploy again when $job is done."
fi
[ "$code" = 0 ] || exit "$code" # `wait` has said what and why.

# `wait` says that it has succeeded; this says that it was proved, and is checked where the data is.
psql -X -v ON_ERROR_STOP=1 -c "select backfill.assert_complete('$job')"
