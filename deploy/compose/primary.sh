#!/usr/bin/env bash
# The image lets in whoever has a password; replication it leaves to us.
set -euo pipefail
echo "host replication replicator all scram-sha-256" >> "$PGDATA/pg_hba.conf"
