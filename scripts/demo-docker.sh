#!/usr/bin/env bash
# `make demo DOCKER=1`: runs the demo in containers, with Prometheus and Grafana
# (deploy/compose.yaml). The containers keep running.
#
#   scripts/demo-docker.sh             runs a backfill, shows its progress and verifies the result
#   scripts/demo-docker.sh --remove    stops the containers, and removes them with their data
set -euo pipefail
cd "$(dirname "$0")/.."

docker compose version >/dev/null 2>&1 || {
    echo "docker compose (the plugin, version 2) is not installed. To run the demo without containers: make demo" >&2
    exit 1
}
compose() { docker compose --file deploy/compose.yaml "$@"; }
if [ "${1:-}" = --remove ]; then
    exec docker compose --file deploy/compose.yaml down --volumes --remove-orphans
fi

compose up --detach --build --wait
# Waits until the daemon is ready. A ready daemon has installed the schema.
for _ in $(seq 60); do
    if compose exec -T daemon backfilld probe readyz >/dev/null 2>&1; then break; fi
    sleep 1
done
compose exec -T daemon backfilld enqueue orders_total_cents --target public.orders \
    --set 'total_cents = round(total * 100)::bigint' --filter 'total_cents is null'
compose exec daemon backfilld watch orders_total_cents
compose exec -T daemon backfilld wait orders_total_cents --timeout 10m
compose exec -T primary psql -U owner -d app -X -v ON_ERROR_STOP=1 \
    -c "select backfill.assert_complete('orders_total_cents')" \
    -c "select count(*) as orders, count(*) filter (where total_cents is distinct from round(total * 100)) as unfilled from public.orders"
cat <<'END'

Grafana      http://127.0.0.1:3000/
Prometheus   http://127.0.0.1:9090/alerts
metrics      http://127.0.0.1:8432/metrics
SQL          docker compose -f deploy/compose.yaml exec primary psql -U owner app
remove       make demo-remove DOCKER=1
END
