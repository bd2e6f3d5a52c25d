#!/usr/bin/env bash
# Runs the integration tests on several major versions of PostgreSQL, one after the other, and
# prints a table at the end.
#
#   scripts/test-matrix.sh               runs on 14, 15, 16, 17 and 18
#   scripts/test-matrix.sh 14 18         runs on these versions
#   FILTER='test(rights)' ...            runs only these tests
#
# FILTER is a filter expression of nextest. Without nextest, FILTER is a part of a test name. The
# tests are built once. If the tests fail on one version, they still run on the next versions, and
# the exit code is 1.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || set -- 14 15 16 17 18
cargo=${CARGO:-cargo}
logs=${CARGO_TARGET_DIR:-target}/matrix
mkdir -p "$logs"
tests=(--locked --workspace --test '*')

if $cargo nextest --version >/dev/null 2>&1; then
    build() { $cargo nextest run "${tests[@]}" --no-run; }
    run() { $cargo nextest run "${tests[@]}" --profile matrix --no-fail-fast ${FILTER:+-E "$FILTER"}; }
    # Prints, for example: 247 tests run: 245 passed, 2 failed, 0 skipped
    counts() { grep -aE '^ +Summary ' "$1" | tail -n 1 | sed -E 's/^[^]]*\] *//'; }
    failures() { sed -n '/^ *Summary /,$p' "$1" | grep -aE '^ +(FAIL|TIMEOUT|SIG[A-Z]+|ABORT) ' | sed -E 's/^ +//' || true; }
else
    build() { $cargo test "${tests[@]}" --no-run; }
    run() { $cargo test "${tests[@]}" --no-fail-fast -- --test-threads=4 ${FILTER:+"$FILTER"}; }
    counts() { grep -aE '^test result: ' "$1" | awk '{ p += $4; f += $6; s += $8 } END { printf "%d passed, %d failed, %d ignored\n", p, f, s }'; }
    failures() { grep -aE '^test .* FAILED$' "$1" || true; }
fi

# The test runner handles the interrupt and exits normally. Without this trap, the tests of the next
# version would start.
trap 'exit 130' INT
build

rows=()
failed=0
for major in "$@"; do
    log=$logs/$major.log
    printf '\n=== PostgreSQL %s\n' "$major"
    if ! bindir=$(scripts/fetch-postgres.sh "$major"); then
        rows+=("$major|-|FAILED|no server")
        failed=1
        continue
    fi
    version=$("$bindir/postgres" --version | sed -E 's/^.*\) *([0-9.]+).*$/\1/')
    printf '%s in %s\n' "$version" "$bindir"
    SECONDS=0
    if PG_BINDIR=$bindir run 2>&1 | tee "$log"; then
        verdict=ok
    else
        verdict=FAILED
        failed=1
    fi
    rows+=("$major|$version|$verdict|$(counts "$log") ($((SECONDS / 60)) min $((SECONDS % 60)) s)")
    while read -r line; do
        [ -z "$line" ] || rows+=("|||  $line")
    done < <(failures "$log")
done

printf '\nPostgreSQL  version  result  tests\n'
for row in "${rows[@]}"; do
    IFS='|' read -r major version verdict text <<< "$row"
    printf '%-10s  %-7s  %-6s  %s\n' "$major" "$version" "$verdict" "$text"
done
printf 'Logs: %s/MAJOR.log\n' "$logs"
exit "$failed"
