#!/usr/bin/env bash
# Builds the newest suitable release from its tag and prints the path of its binary. The binary is
# built once and kept in target/previous. The upgrade tests run this binary together with the
# current release (make test-upgrade). Prints no path if no suitable release exists.
set -euo pipefail
cd "$(dirname "$0")/.."

# A suitable release contains the baseline of the schema, and its schema is older than the schema of
# this commit. Without such a release, the tests simulate the next release instead.
newest() { ls-versions "$1" | tail -n 1; }
ls-versions() { git ls-tree --name-only "$1" src/pg/schema/versions/ 2>/dev/null | sort; }
tag=
for candidate in $(git tag --list 'v*' --sort=-version:refname); do
    if [ -n "$(newest "$candidate")" ] && [ "$(newest "$candidate")" != "$(newest HEAD)" ]; then
        tag=$candidate
        break
    fi
done
if [ -z "$tag" ]; then
    echo "No tag v* has an earlier schema: the tests run a simulated next release together with this release instead" >&2
    exit
fi
commit=$(git rev-parse "$tag^{commit}")
place=$(mkdir -p "${CARGO_TARGET_DIR:-target}/previous" && cd "${CARGO_TARGET_DIR:-target}/previous" && pwd)
binary=$place/backfilld-$tag
if [ "$(cat "$place/built" 2>/dev/null)" = "$commit" ] && [ -x "$binary" ]; then
    echo "$binary"
    exit
fi
echo "Building backfilld $tag (only once)" >&2
rm -rf "$place/source" "$place/built"
mkdir -p "$place/source"
git archive "$commit" | tar -x -C "$place/source"
(cd "$place/source" && CARGO_TARGET_DIR="$place/build" "${CARGO:-cargo}" build --locked --bin backfilld >&2)
cp "$place/build/debug/backfilld" "$binary"
echo "$commit" > "$place/built"
echo "$binary"
