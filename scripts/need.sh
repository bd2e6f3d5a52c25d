#!/usr/bin/env bash
# Installs the missing programs that a check needs, on Debian and Ubuntu, as root or through sudo.
# Prints a message first, and does not start the services of the packages. Exits with code 3 if a
# program cannot be installed. The check is then reported as not run.
#
#   scripts/need.sh promtool=prometheus python3:ensurepip=python3-venv
#
# An argument is PROGRAM=PACKAGE, or PYTHON:MODULE=PACKAGE.
set -euo pipefail

has() {
    case $1 in
        *:*) "${1%%:*}" -c "import ${1#*:}" >/dev/null 2>&1 ;;
        *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}
lacking=()
for need in "$@"; do
    has "${need%%=*}" || lacking+=("${need#*=}")
done
[ ${#lacking[@]} -gt 0 ] || exit 0

give_up() { echo "the Debian packages ${lacking[*]} are required, but $1" >&2; exit 3; }
command -v apt-get >/dev/null 2>&1 || give_up "this system has no apt-get"
if [ "$(id -u)" = 0 ]; then
    root() { env DEBIAN_FRONTEND=noninteractive "$@"; }
elif command -v sudo >/dev/null 2>&1 && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
    root() { sudo env DEBIAN_FRONTEND=noninteractive "$@"; }
else
    give_up "installing them requires root or sudo"
fi
echo "installing with apt-get: ${lacking[*]}" >&2
# This policy file prevents packages from starting their services. An existing file of the
# administrator is not changed.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | root tee "$policy" >/dev/null
    root chmod 755 "$policy"
    trap 'root rm -f "$policy"' EXIT
fi
{ root apt-get update -q && root apt-get install -q -y --no-install-recommends "${lacking[@]}"; } >/dev/null || give_up "apt-get could not install them"
for need in "$@"; do
    has "${need%%=*}" || give_up "their installation did not provide ${need%%=*}"
done
