#!/usr/bin/env bash
# One deploy of a release whose code needs what an earlier release's migration enqueued.
# Needs BACKFILLD_DATABASE_URL, and backfilld on the PATH: of the same release as the daemon.
set -euo pipefail

job=${1:?the name of the job}
timeout=${2:-30m}

code=0
backfilld wait "$job" --timeout "$timeout" || code=$?
case $code in
    0) ;; # Filled and proved.
    75) # Still at work, or held by something that it names. Nothing is broken: deploy later.
        backfilld status "$job"
        echo "$job goes on by itself; run this deploy again." ;;
    1) # Failed, cancelled, or there is no such job: somebody has to look.
        backfilld status "$job" || true ;;
    *) # 69: the database can't be reached, 77: it lets us not in or not see, 2 and 78: mended here.
        echo "backfilld wait said no more than its exit code $code." ;;
esac
[ "$code" = 0 ] || exit "$code"

# `wait` says that it has succeeded; this says that it was proved, and is checked where the data is.
psql -X -v ON_ERROR_STOP=1 -c "select backfill.assert_complete('$job')"
