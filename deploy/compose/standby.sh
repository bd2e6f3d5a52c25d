#!/usr/bin/env bash
# A copy of the primary, at the first start, and then a server that streams from it. PRIMARY is where that is.
set -euo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # In its place only when it is whole: one that was cut short would never become a server.
    rm -rf "$PGDATA.new"
    pg_basebackup --dbname="$PRIMARY" --pgdata="$PGDATA.new" --wal-method=stream --checkpoint=fast --write-recovery-conf
    chmod 700 "$PGDATA.new"
    mv "$PGDATA.new" "$PGDATA"
fi
exec postgres -D "$PGDATA" -c hot_standby=on ${POSTGRES_OPTIONS:-}
