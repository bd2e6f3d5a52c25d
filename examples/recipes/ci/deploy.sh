#!/usr/bin/env bash
# Deploys a release whose code needs a backfill that the migration of an earlier release enqueued.
# Needs BACKFILLD_DATABASE_URL, the variables of psql (PGHOST, PGDATABASE, ...) for the same
# database, and psql and backfilld on the PATH. backfilld should be of the same release as the
# daemon.
set -euo pipefail

job=${1:?the name of the job}
timeout=${2:-30m}

code=0
backfilld wait "$job" --timeout "$timeout" || code=$?
if [ "$code" = 75 ]; then # The job has not finished. This is not an error. The status shows whether the job waits, and for what.
    backfilld status "$job"
    echo "Run this deploy again when $job is done."
fi
[ "$code" = 0 ] || exit "$code" # `wait` has printed the error.

# `wait` checks that the job succeeded; assert_complete also checks in the database that the job was
# verified.
psql -X -v ON_ERROR_STOP=1 -c "select backfill.assert_complete('$job')"
