#!/usr/bin/env bash
# Makes each alert fire by causing its condition, through a real Prometheus and a real Alertmanager
# with the routes of deploy/prometheus/alertmanager.yaml, to a receiver that records the
# notifications. Each alert must also end once its cause is gone. The alerts' times are divided by
# 60 (scripts/deploy/hurried.py), because the test would take hours otherwise.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() { echo "FAILED   $*" >&2; exit 1; }
scripts/need.sh prometheus=prometheus promtool=prometheus amtool=prometheus-alertmanager psql=postgresql-client python3=python3 || exit
# The name in Debian, and the usual name.
ALERTMANAGER=$(command -v prometheus-alertmanager || command -v alertmanager) || fail "there is amtool, and no Alertmanager"
export ALERTMANAGER

routed() { amtool config routes test --config.file=deploy/prometheus/alertmanager.yaml "$@" 2>/dev/null; }
amtool check-config deploy/prometheus/alertmanager.yaml >/dev/null || fail "amtool check-config"
[ "$(routed alertname=BackfilldDown severity=critical)" = pager ] || fail "what is critical does not go to the pager"
[ "$(routed alertname=BackfilldHeldLong severity=warning database=main)" = tickets ] || fail "a warning does not become a ticket"
echo "passed   amtool check-config, config routes test"

rows=10000
. scripts/kept-demo.sh
python3 scripts/deploy/hurried.py 60 > "$work/alerts.yaml"
promtool check rules "$work/alerts.yaml" >/dev/null || fail "promtool check rules, of the hurried alerts"
python3 scripts/deploy/alertmanager.py "$target/debug/backfilld" "$work" "$primary" "$standby" "$page" || fail "the alerts"
