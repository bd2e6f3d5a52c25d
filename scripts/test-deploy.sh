#!/usr/bin/env bash
# Tries what is deployed, part by part; each may be run alone. A part whose tools are missing says so, and fails.
#
#   scripts/test-deploy.sh                 all of scripts/deploy/*.sh
#   scripts/test-deploy.sh prometheus      these
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || set -- $(basename -s .sh -a scripts/deploy/*.sh)
failed=()
for part in "$@"; do
    printf '\n=== %s\n' "$part"
    "scripts/deploy/$part.sh" || failed+=("$part")
done
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
