#!/usr/bin/env bash
# Allows replication connections from other hosts. The pg_hba.conf of the image allows only ordinary
# connections from other hosts. This script must be executable. Otherwise the entrypoint of the
# image sources the script, and `set -euo pipefail` applies to the entrypoint too.
set -euo pipefail
echo "host replication replicator all scram-sha-256" >> "$PGDATA/pg_hba.conf"
