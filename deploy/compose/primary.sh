#!/usr/bin/env bash
# Allows replication connections: the pg_hba.conf of the image allows only ordinary connections with
# a password. The file must be executable; otherwise the image sources it into its own shell.
set -euo pipefail
echo "host replication replicator all scram-sha-256" >> "$PGDATA/pg_hba.conf"
