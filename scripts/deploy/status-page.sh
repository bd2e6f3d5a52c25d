#!/usr/bin/env bash
# Tests the status page in a real browser: what a user reads while a job runs, is held, is paused
# and fails; on a phone and a desktop, light and dark, with and without JavaScript, by keyboard, and
# with axe's rules. SCREENSHOTS=folder keeps the pictures, CHROMIUM=path selects another browser
# than the system's.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() { echo "FAILED   $*" >&2; exit 1; }
CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
if [ -z "$CHROMIUM" ]; then
    scripts/need.sh chromium=chromium || exit
    CHROMIUM=$(command -v chromium)
fi
export CHROMIUM
scripts/need.sh node=nodejs npm=npm psql=postgresql-client || exit

target=${CARGO_TARGET_DIR:-$PWD/target}
tools=$target/browser
mkdir -p "$tools"
cp scripts/browser/package.json scripts/browser/package-lock.json scripts/browser/status-page.mjs "$tools/"
lock=$(cksum < scripts/browser/package-lock.json)
if [ "$(cat "$tools/filled" 2>/dev/null)" != "$lock" ]; then
    rm -f "$tools/filled"
    npm ci --prefix "$tools" --ignore-scripts --no-audit --no-fund --loglevel=error || { echo "npm could not fetch what drives the browser" >&2; exit 3; }
    echo "$lock" > "$tools/filled"
fi

rows=100000
. scripts/kept-demo.sh
shots=${SCREENSHOTS:-$work}
mkdir -p "$shots"
# Pausing replay requires a superuser.
node "$tools/status-page.mjs" "$page" "$primary" "${standby/owner@/postgres@}" "$shots" || fail "the status page"
