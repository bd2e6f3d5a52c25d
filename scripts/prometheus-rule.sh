#!/usr/bin/env bash
# Writes the rules and alerts of deploy/prometheus as the resource that the Prometheus Operator
# reads. kustomize cannot insert one file into another, so the result is kept in the repository.
#
#   scripts/prometheus-rule.sh            writes it
#   scripts/prometheus-rule.sh --check    fails if the file differs from what would be written
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
            { echo "$part: one key is expected at the top, groups" >&2; return 1; }
        # The comment above the first group is about the file itself, so it is left out. Blank lines
        # stay blank.
        sed -e '1,/^groups:$/d' -e 's/^\(.\)/  \1/' "$part"
    done
}

made=$(make_it)
if [ "${1:-}" = --check ]; then
    diff -u --label "$out" --label "what scripts/prometheus-rule.sh makes" "$out" <(printf '%s\n' "$made") || {
        echo "$out is not what deploy/prometheus says: run scripts/prometheus-rule.sh" >&2
        exit 1
    }
else
    printf '%s\n' "$made" > "$out"
fi
