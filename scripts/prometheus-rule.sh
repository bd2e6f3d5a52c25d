#!/usr/bin/env bash
# Generates a PrometheusRule for the Prometheus Operator. The script generates it from the rules and
# alerts in deploy/prometheus. kustomize cannot insert one file into another, so the repository
# contains the generated file.
#
#   scripts/prometheus-rule.sh            writes the file
#   scripts/prometheus-rule.sh --check    fails if the file is not up to date
set -euo pipefail
cd "$(dirname "$0")/.."

out=deploy/kubernetes/components/monitoring/prometheusrule.yaml
parts=(deploy/prometheus/rules.yaml deploy/prometheus/alerts.yaml)

make_it() {
    local part
    cat <<'END'
# scripts/prometheus-rule.sh generates this file from deploy/prometheus/rules.yaml and alerts.yaml.
# Change those files.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: backfilld
  labels:
    app.kubernetes.io/name: backfilld
    # By default the kube-prometheus-stack chart selects only objects with the label of its own
    # release.
    release: kube-prometheus-stack
spec:
  groups:
END
    for part in "${parts[@]}"; do
        [ "$(grep -c '^[^ #-]' "$part")" = 1 ] && grep -qx 'groups:' "$part" ||
            { echo "$part: the only key at the top level must be groups" >&2; return 1; }
        # Leaves out the comment at the top, which describes the file. Blank lines get no
        # indentation.
        sed -e '1,/^groups:$/d' -e 's/^\(.\)/  \1/' "$part"
    done
}

made=$(make_it)
if [ "${1:-}" = --check ]; then
    diff -u --label "$out" --label "the output of scripts/prometheus-rule.sh" "$out" <(printf '%s\n' "$made") || {
        echo "$out is not up to date with deploy/prometheus: run scripts/prometheus-rule.sh" >&2
        exit 1
    }
else
    printf '%s\n' "$made" > "$out"
fi
