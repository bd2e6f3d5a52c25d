#!/usr/bin/env bash
# Copies the primary at the first start, then runs a standby that streams from it. PRIMARY is the
# connection string of the primary.
set -euo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # The copy is moved to PGDATA only after it is complete. Otherwise the next start could run an
    # incomplete copy.
    rm -rf "$PGDATA.new"
    pg_basebackup --dbname="$PRIMARY" --pgdata="$PGDATA.new" --wal-method=stream --checkpoint=fast --write-recovery-conf
    chmod 700 "$PGDATA.new"
    mv "$PGDATA.new" "$PGDATA"
fi
exec postgres -D "$PGDATA" -c hot_standby=on ${POSTGRES_OPTIONS:-}
