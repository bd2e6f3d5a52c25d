#!/usr/bin/env bash
# Builds the last release from this repository's history and prints where its binary is. Built once, then kept in
# target/previous. The tests of upgrades run it beside the present one (make test-upgrade).
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.1.0
commit=5c58f2c9cdad3e45b77780eb2079a2879d7bc229

place=$(mkdir -p "${CARGO_TARGET_DIR:-target}/previous" && cd "${CARGO_TARGET_DIR:-target}/previous" && pwd)
binary=$place/backfilld-$version
if [ "$(cat "$place/built" 2>/dev/null)" = "$commit" ] && [ -x "$binary" ]; then
    echo "$binary"
    exit
fi
git rev-parse --quiet --verify "$commit^{commit}" >/dev/null || {
    echo "The history has no commit $commit (release $version). In a shallow clone: git fetch --unshallow" >&2
    exit 1
}
echo "Building backfilld $version, once" >&2
rm -rf "$place/source" "$place/built"
mkdir -p "$place/source"
git archive "$commit" | tar -x -C "$place/source"
(cd "$place/source" && CARGO_TARGET_DIR="$place/build" "${CARGO:-cargo}" build --locked --bin backfilld >&2)
cp "$place/build/debug/backfilld" "$binary"
echo "$commit" > "$place/built"
echo "$binary"
