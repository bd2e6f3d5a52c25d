#!/usr/bin/env bash
# Checks the manifests without a cluster. Renders each manifest, and validates it against the
# schemas of three minor versions of Kubernetes: the newest one that kubernetes-validate supports,
# and the two previous ones. A warning is a failure. Then checks for errors that the schemas do not
# cover. The script also tests that these checks can fail.
#
# Fetches kubernetes-validate with pip, and the schemas of the custom resources with npm. BACKFILLD
# names the binary that reads the configuration. The binary is built if it does not exist.
set -euo pipefail
cd "$(dirname "$0")/../.."

# The version of kubernetes-validate equals the newest minor version of Kubernetes that it supports.
# Kubernetes releases a minor version about every four months. Raise the versions here after each of
# these releases.
validate=kubernetes-validate==1.37.0
minors=(1.37.0 1.36.0 1.35.0)

target=${CARGO_TARGET_DIR:-$PWD/target}
tools=$target/tools/kubernetes
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

scripts/need.sh python3=python3 python3:ensurepip=python3-venv node=nodejs npm=npm || exit
kubectl=$(scripts/kubernetes/kubectl.sh) || { echo "kubectl could not be found or fetched" >&2; exit 3; }
backfilld=${BACKFILLD:-$target/debug/backfilld}
[ -x "$backfilld" ] || cargo build --locked --bin backfilld
mkdir -p "$tools"
fetch() { echo "could not fetch $1 with $2" >&2; exit 3; }
[ -x "$tools/bin/python" ] || python3 -m venv "$tools"
"$tools/bin/pip" install --quiet --disable-pip-version-check "$validate" || fetch "$validate" pip
cp scripts/kubernetes/{package.json,custom.mjs} "$tools/"
(cd "$tools" && npm install --silent --no-audit --no-fund --no-package-lock) || fetch "the packages of scripts/kubernetes/package.json" npm

render() { # DIRECTORY FILE: any message of kustomize, for example a deprecation, is a failure
    "$kubectl" kustomize "$1" > "$2" 2> "$2.said" && [ ! -s "$2.said" ] || { cat "$2.said" >&2; return 1; }
}

# Validates the core resources of a file strictly, for one minor version. kubernetes-validate exits
# with code 0 and only warns about a removed apiVersion or an unknown kind, so a warning counts as a
# failure too.
valid() { # FILE MINOR
    "$tools/bin/python" - "$1" "$work/core.yaml" <<'PY'
import sys, yaml
own = ("monitoring.coreos.com/", "kustomize.toolkit.fluxcd.io/")
things = [t for t in yaml.safe_load_all(open(sys.argv[1])) if t and not t["apiVersion"].startswith(own)]
yaml.safe_dump_all(things, open(sys.argv[2], "w"))
PY
    [ -s "$work/core.yaml" ] || return 0
    "$tools/bin/kubernetes-validate" --strict -k "$2" "$work/core.yaml" > "$work/validated" 2>&1 || { cat "$work/validated" >&2; return 1; }
    if grep -v '^INFO ' "$work/validated" >&2; then return 1; fi
}

custom() { # FILE...
    (cd "$tools" && node custom.mjs "$@")
}

# Runs all checks of a rendered file. This function is also called in conditions, in which bash
# ignores errexit, so each command handles its own failure.
whole() { # FILE NAME
    local minor
    for minor in "${minors[@]}"; do valid "$1" "$minor" || return 1; done
    custom "$1" || return 1
    "$tools/bin/python" scripts/kubernetes/check.py "$1" "$2"
}

passed=0
for folder in deploy/kubernetes/base deploy/kubernetes/overlays/*; do
    name=${folder#deploy/kubernetes/}
    render "$folder" "$work/${name//\//-}.yaml"
    whole "$work/${name//\//-}.yaml" "$name"
    passed=$((passed + 1))
    echo "passed   $name on ${minors[*]}"
done
for file in deploy/kubernetes/examples/*.yaml; do
    whole "$PWD/$file" "${file#deploy/kubernetes/}"
    passed=$((passed + 1))
    echo "passed   ${file#deploy/kubernetes/} on ${minors[*]}"
done

scripts/prometheus-rule.sh --check
passed=$((passed + 1))
echo "passed   the PrometheusRule is up to date with deploy/prometheus"

# The binary reads each configuration. Exit code 1 means that the daemon does not respond. Exit code
# 78 means that the configuration is invalid, for example because of an unknown key.
for config in deploy/kubernetes/base/backfilld.yaml deploy/systemd/backfilld.yaml; do
    sed 's/:8432/:1/' "$config" > "$work/config.yaml"
    [ "$(sed -n 's/.*listen:.*/&/p' "$work/config.yaml")" != "" ] || echo 'http: {listen: "127.0.0.1:1"}' >> "$work/config.yaml"
    code=0
    "$backfilld" probe --config "$work/config.yaml" > "$work/said" 2>&1 || code=$?
    [ $code = 1 ] || { echo "$config: exit code $code" >&2; cat "$work/said" >&2; exit 1; }
    passed=$((passed + 1))
    echo "passed   $config is read"
done

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
said=$(grep -rhoE '(backfilld:|newTag: |ARG VERSION=|backfilld-)[0-9]+\.[0-9]+\.[0-9]+' Dockerfile deploy docs/install.md docs/kubernetes.md | sort -u)
[ -n "$said" ] && ! grep -vE "[:=-] ?${version//./\\.}$" <<< "$said" || { echo "the release is $version, but a file names another version: $said" >&2; exit 1; }
passed=$((passed + 1))
echo "passed   all files name the image of release $version"

# Each of these changes adds one mistake to the production overlay. The checks must refuse each
# changed overlay.
production=$work/overlays-production.yaml
refused() { # WHAT SED
    sed "$2" "$production" > "$work/slip.yaml"
    if cmp -s "$production" "$work/slip.yaml"; then echo "the mistake \"$1\" changes nothing" >&2; exit 1; fi
    if whole "$work/slip.yaml" slip > "$work/said" 2>&1; then echo "the checks do not refuse: $1" >&2; exit 1; fi
    passed=$((passed + 1))
    echo "refused  $1"
}
refused "an unknown key" 's/^  replicas: 2/  replica: 2/'
refused "a wrong type" 's/^  replicas: 2/  replicas: two/'
refused "a removed apiVersion" 's|^apiVersion: policy/v1$|apiVersion: policy/v1beta1|'
refused "a liveness probe that checks the database" '/livenessProbe:/,/port:/s|/livez|/readyz|'
refused "a termination grace period that is too short for the drain" 's/terminationGracePeriodSeconds: 40/terminationGracePeriodSeconds: 20/'
refused "a writable root file system" 's/readOnlyRootFilesystem: true/readOnlyRootFilesystem: false/'
refused "a ConfigMap with another name" '/configMap:/,/name:/s/name: backfilld-config.*/name: backfilld-config/'
refused "an unknown key of a custom resource" 's/podMetricsEndpoints:/podMetricEndpoints:/'
refused "a PodMonitor that selects no pod" '/^kind: PodMonitor/,/^---/s/component: daemon/component: worker/'
refused "series with another job label" '/jobLabel:/d'
refused "a PodDisruptionBudget that prevents the drain of a node" 's/maxUnavailable: 1$/maxUnavailable: 0/'
refused "a PodDisruptionBudget that protects pods that are not ready" 's/unhealthyPodEvictionPolicy: AlwaysAllow/unhealthyPodEvictionPolicy: IfHealthyBudget/'
refused "a NetworkPolicy without the database port" 's/port: 5432/port: 6543/'
refused "a NetworkPolicy for another namespace of Prometheus" 's/kubernetes.io\/metadata.name: monitoring/kubernetes.io\/metadata.name: observability/'
refused "a configuration file that does not exist" 's|value: /etc/backfilld/backfilld.yaml|value: /etc/backfilld/config.yaml|'
refused "a Secret of another application" 's/secretName: backfilld$/secretName: app-gate/'
refused "a Secret that the daemon cannot read" '/fsGroup:/d'
refused "too little memory" 's/memory: 128Mi/memory: 4Mi/'
refused "a token that is not in the Secret" 's|token_file: .*|token_file: /run/secrets/backfilld/token|'

echo "$passed passed, 0 failed"
