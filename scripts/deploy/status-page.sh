#!/usr/bin/env bash
# Tests the status page in a real browser. Checks the text that the page shows when a job runs, is
# held, is paused, or has failed. Also checks:
# - the page on a phone and on a desktop, in light and in dark mode;
# - the page with and without JavaScript, and its use by keyboard;
# - the rules of axe.
#
# SCREENSHOTS=folder keeps the screenshots. CHROMIUM=path selects a browser other than the system's.
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
    npm ci --prefix "$tools" --ignore-scripts --no-audit --no-fund --loglevel=error || { echo "npm could not fetch the packages of scripts/browser/package.json" >&2; exit 3; }
    echo "$lock" > "$tools/filled"
fi

rows=100000
. scripts/kept-demo.sh
shots=${SCREENSHOTS:-$work}
mkdir -p "$shots"
# The test connects to the standby as a superuser, because pg_wal_replay_pause requires one.
node "$tools/status-page.mjs" "$page" "$primary" "${standby/owner@/postgres@}" "$shots" || fail "the status page"
