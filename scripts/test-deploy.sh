#!/usr/bin/env bash
# Tests the deployment files, part by part; each part can be run alone. A part installs what it
# needs (scripts/need.sh). A part whose needs cannot be installed is reported as not run, which is a
# failure unless --where-possible is set.
#
#   scripts/test-deploy.sh                                 all of scripts/deploy/*.sh
#   scripts/test-deploy.sh prometheus systemd              these
#   scripts/test-deploy.sh --where-possible prometheus     these; parts that cannot run here are
# only reported
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
        # The exit code of scripts/need.sh for a program that cannot be installed.
        3) not_run+=("$part") ;;
        *) failed+=("$part") ;;
    esac
done
printf '\n'
[ ${#passed[@]} = 0 ] || echo "passed:  ${passed[*]}"
[ ${#not_run[@]} = 0 ] || echo "NOT RUN: ${not_run[*]} (what they need can't be had here; see above)" >&2
[ ${#failed[@]} = 0 ] || { echo "FAILED:  ${failed[*]}" >&2; exit 1; }
[ ${#not_run[@]} = 0 ] || [ -n "$where_possible" ] || exit 3
