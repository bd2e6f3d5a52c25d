#!/usr/bin/env bash
# Allows replication connections. The pg_hba.conf of the image allows only ordinary connections with
# a password. This file must be executable. Otherwise the image sources it into its own shell.
set -euo pipefail
echo "host replication replicator all scram-sha-256" >> "$PGDATA/pg_hba.conf"
