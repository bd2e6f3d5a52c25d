#!/usr/bin/env bash
# The image lets in whoever has a password; replication it leaves to us. Executable, or the image would source it instead.
set -euo pipefail
echo "host replication replicator all scram-sha-256" >> "$PGDATA/pg_hba.conf"
