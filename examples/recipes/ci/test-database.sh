#!/usr/bin/env bash
# Builds a test database with all migrations. Runs a daemon between the migration that enqueues a
# backfill and the migration that asserts that the backfill is complete. Needs
# BACKFILLD_DATABASE_URL and the variables of psql (PGHOST, PGDATABASE, ...) for the same database.
set -euo pipefail
cd "$(dirname "$0")"

backfilld migrate

psql -X -v ON_ERROR_STOP=1 -f ../psql/expand.sql # your migrations before the one that asserts

# Exits when no job can run: with 1 if a job failed, with 3 if a job waits (for example for
# approval), and otherwise with 0.
backfilld run --until-idle --listen 127.0.0.1:0

psql -X -v ON_ERROR_STOP=1 -f ../psql/constrain.sql # the remaining migrations
