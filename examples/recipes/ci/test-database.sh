#!/usr/bin/env bash
# A test database with the whole history of migrations in it: there is no daemon that would fill, so this is one.
# Needs BACKFILLD_DATABASE_URL and psql's variables (PGHOST, PGDATABASE, ...) for the same database.
set -euo pipefail
cd "$(dirname "$0")"

backfilld migrate

psql -X -v ON_ERROR_STOP=1 -f ../psql/expand.sql # your migrations, up to the one that asserts

# Ends when there is nothing left to do: 0, or 1 if a job failed, or 3 if one waits for somebody.
backfilld run --until-idle --listen 127.0.0.1:0

psql -X -v ON_ERROR_STOP=1 -f ../psql/constrain.sql # and the others
