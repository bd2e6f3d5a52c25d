#!/usr/bin/env bash
# Checks the rules, the alerts and the dashboard with promtool, with Grafana's schema, and with a
# real Prometheus that scrapes a running daemon. PG_BINDIR=... selects a PostgreSQL server other
# than the one that scripts/setup-postgres.sh finds.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${CARGO_TARGET_DIR:-$PWD/target}
# The schema of Grafana 11.6.
schema='grafana-foundation-sdk==1769699379!11.6.0'
passed=0
pass() { passed=$((passed + 1)); echo "passed   $*"; }
fail() { echo "FAILED   $*" >&2; exit 1; }
scripts/need.sh promtool=prometheus prometheus=prometheus psql=postgresql-client curl=curl python3=python3 python3:ensurepip=python3-venv || exit

promtool check rules deploy/prometheus/rules.yaml deploy/prometheus/alerts.yaml >/dev/null || fail "promtool check rules"
promtool test rules deploy/prometheus/tests/*.yaml >/dev/null || fail "promtool test rules"
pass "promtool check rules, test rules"
scripts/prometheus-rule.sh --check
pass "the PrometheusRule is up to date"
tools=$target/tools/grafana
"$tools/bin/python" -c 'import grafana_foundation_sdk' 2>/dev/null || {
    { python3 -m venv "$tools" && "$tools/bin/pip" install --quiet --disable-pip-version-check "$schema"; } || { echo "could not install $schema with pip" >&2; exit 3; }
}
"$tools/bin/python" scripts/deploy/round-trip.py deploy/grafana/dashboards/backfilld.json || fail "Grafana's schema does not contain these keys of the dashboard"
pass "Grafana's schema contains all keys of the dashboard"

prometheus=
also_leave() { [ -z "$prometheus" ] || kill "$prometheus" 2>/dev/null || true; }
rows=100000
. scripts/kept-demo.sh
ask() { psql -X -q -v ON_ERROR_STOP=1 -At "$primary" -c "$1"; }

# Creates jobs in the states that the dashboard shows: a running job with a deadline, a job that
# waits for approval, and later a job with a row that cannot be changed. Also starts a rollout.
ask "create table steady (id int primary key, n int not null default 0);
     insert into steady select generate_series(1, 500000);
     create table bad (id int primary key, t text, n int); insert into bad select i, case when i = 7 then 'x' else i::text end from generate_series(1, 1000) i;
     select backfill.enqueue('steady', 'steady', 'n = n + 1', options => '{\"max_rows_per_second\": 2000, \"max_batch_rows\": 50, \"deadline\": \"2099-01-01T00:00:00Z\"}');
     select backfill.enqueue('waits', 'steady', 'n = n', needs_approval => true);
     create table rolled (id int primary key); insert into rolled values (1);
     select backfill.rollout_start('{\"rollout\": \"next\", \"table\": \"rolled\", \"add_column\": {\"name\": \"next\", \"type\": \"int\", \"using\": \"id + 1\"}}');" >/dev/null
cat > "$work/prometheus.yml" <<END
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: ["$PWD/deploy/prometheus/rules.yaml", "$PWD/deploy/prometheus/alerts.yaml"]
scrape_configs:
  - job_name: backfilld
    static_configs: [{targets: ["${page#http://}"]}]
END
# Shortens the interval of the recording rules, because 15 s is too slow for this test.
sed "s/interval: 15s/interval: 1s/" deploy/prometheus/rules.yaml > "$work/rules.yaml"
sed -i "s,$PWD/deploy/prometheus/rules.yaml,$work/rules.yaml," "$work/prometheus.yml"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/data" --web.listen-address="127.0.0.1:$port" > "$work/log" 2>&1 &
prometheus=$!
until curl -sf "http://127.0.0.1:$port/-/ready" >/dev/null; do kill -0 "$prometheus" || { cat "$work/log" >&2; fail "prometheus"; }; sleep 0.2; done
sleep 5
ask "select backfill.enqueue('bad', 'bad', 'n = t::int');" >/dev/null
curl -sf "$page/metrics" | promtool check metrics || fail "promtool check metrics"
pass "promtool check metrics, on a daemon with running jobs"
# The standby pauses its replay for 10 s, so that the jobs are held. Some panels have series only if
# a job was held.
stand_still() { psql -X -q -v ON_ERROR_STOP=1 -At "${standby/owner@/postgres@}" -c "select pg_wal_replay_$1()" >/dev/null || fail "the standby's replay: $1"; }
stand_still pause
(sleep 10; stand_still resume) &
resumes=$!
python3 scripts/deploy/answers.py "http://127.0.0.1:$port" "$(ask "show server_version_num")" || fail "an expression returns no series"
wait "$resumes"
pass "each panel and each recording rule has series, and the alerts of the failed job fire"
echo "$passed passed, 0 failed"
