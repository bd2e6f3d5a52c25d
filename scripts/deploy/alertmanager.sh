#!/usr/bin/env bash
# Causes the condition of each alert and checks that the alert fires. The alerts pass through a real
# Prometheus and a real Alertmanager, which uses the routes of deploy/prometheus/alertmanager.yaml.
# A receiver records the notifications. Each alert must also be resolved after its cause has ended.
# The times of the alerts are divided by 60 (scripts/deploy/hurried.py). Otherwise the test would
# take hours.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() { echo "FAILED   $*" >&2; exit 1; }
scripts/need.sh prometheus=prometheus promtool=prometheus amtool=prometheus-alertmanager psql=postgresql-client python3=python3 || exit
# The program has another name in Debian.
ALERTMANAGER=$(command -v prometheus-alertmanager || command -v alertmanager) || fail "amtool is installed, but Alertmanager is not"
export ALERTMANAGER

routed() { amtool config routes test --config.file=deploy/prometheus/alertmanager.yaml "$@" 2>/dev/null; }
amtool check-config deploy/prometheus/alertmanager.yaml >/dev/null || fail "amtool check-config"
[ "$(routed alertname=BackfilldDown severity=critical)" = pager ] || fail "a critical alert is not routed to the pager"
[ "$(routed alertname=BackfilldHeldLong severity=warning database=main)" = tickets ] || fail "a warning is not routed to the tickets"
echo "passed   amtool check-config, config routes test"

rows=10000
. scripts/kept-demo.sh
python3 scripts/deploy/hurried.py 60 > "$work/alerts.yaml"
promtool check rules "$work/alerts.yaml" >/dev/null || fail "promtool check rules, on the alerts with divided times"
python3 scripts/deploy/alertmanager.py "$target/debug/backfilld" "$work" "$primary" "$standby" "$page" || fail "the alerts"
