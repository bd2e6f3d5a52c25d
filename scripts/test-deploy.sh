#!/usr/bin/env bash
# Tests the deployment files in parts. Each part can be run separately, and installs the programs
# that it needs (scripts/need.sh). A part that cannot install its programs is reported as not run.
# Exits with 1 if a part has failed. Otherwise exits with 3 if a part was not run and
# --where-possible is not set.
#
#   scripts/test-deploy.sh                                 runs all of scripts/deploy/*.sh
#   scripts/test-deploy.sh prometheus systemd              runs these parts
#   scripts/test-deploy.sh --where-possible prometheus     does not fail if a part cannot run
set -euo pipefail
cd "$(dirname "$0")/.."

where_possible=
[ "${1:-}" != --where-possible ] || { where_possible=1; shift; }
[ $# -gt 0 ] || set -- $(basename -s .sh -a scripts/deploy/*.sh)
passed=() failed=() not_run=()
for part in "$@"; do
    [ -x "scripts/deploy/$part.sh" ] || { echo "unknown part $part; known parts: $(basename -s .sh -a scripts/deploy/*.sh | xargs)" >&2; exit 2; }
    printf '\n=== %s\n' "$part"
    started=$SECONDS
    code=0
    "scripts/deploy/$part.sh" || code=$?
    case $code in
        0) passed+=("$part ($((SECONDS - started)) s)") ;;
        # scripts/need.sh returns 3 for a program that cannot be installed.
        3) not_run+=("$part") ;;
        *) failed+=("$part") ;;
    esac
done
printf '\n'
[ ${#passed[@]} = 0 ] || echo "passed:  ${passed[*]}"
[ ${#not_run[@]} = 0 ] || echo "NOT RUN: ${not_run[*]} (required programs cannot be installed; see above)" >&2
[ ${#failed[@]} = 0 ] || { echo "FAILED:  ${failed[*]}" >&2; exit 1; }
[ ${#not_run[@]} = 0 ] || [ -n "$where_possible" ] || exit 3
