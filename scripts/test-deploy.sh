#!/usr/bin/env bash
# Tries what is deployed, part by part; each may be run alone. A part installs what it needs (scripts/need.sh); one that can't have it
# is told as not run, and that is a failure, unless it was asked for with --where-possible.
#
#   scripts/test-deploy.sh                                 all of scripts/deploy/*.sh
#   scripts/test-deploy.sh prometheus systemd              these
#   scripts/test-deploy.sh --where-possible prometheus     these, and those that can't run here are only told
set -euo pipefail
cd "$(dirname "$0")/.."

where_possible=
[ "${1:-}" != --where-possible ] || { where_possible=1; shift; }
[ $# -gt 0 ] || set -- $(basename -s .sh -a scripts/deploy/*.sh)
passed=() failed=() not_run=()
for part in "$@"; do
    [ -x "scripts/deploy/$part.sh" ] || { echo "there is no part $part; there are: $(basename -s .sh -a scripts/deploy/*.sh | xargs)" >&2; exit 2; }
    printf '\n=== %s\n' "$part"
    started=$SECONDS
    code=0
    "scripts/deploy/$part.sh" || code=$?
    case $code in
        0) passed+=("$part ($((SECONDS - started)) s)") ;;
        # As scripts/need.sh says it.
        3) not_run+=("$part") ;;
        *) failed+=("$part") ;;
    esac
done
printf '\n'
[ ${#passed[@]} = 0 ] || echo "passed:  ${passed[*]}"
[ ${#not_run[@]} = 0 ] || echo "NOT RUN: ${not_run[*]} (what they need can't be had here; see above)" >&2
[ ${#failed[@]} = 0 ] || { echo "FAILED:  ${failed[*]}" >&2; exit 1; }
[ ${#not_run[@]} = 0 ] || [ -n "$where_possible" ] || exit 3
