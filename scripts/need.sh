#!/usr/bin/env bash
# Installs the missing programs that a check needs (on Debian and Ubuntu, as root or through sudo).
# It prints a message first and does not start the services of the packages. Exits 3 if a program
# cannot be installed: the check was not run.
#
#   scripts/need.sh promtool=prometheus python3:ensurepip=python3-venv      program=package, or
# python:module=package
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

give_up() { echo "needs ${lacking[*]} (packages of Debian), and $1" >&2; exit 3; }
command -v apt-get >/dev/null 2>&1 || give_up "this system has no apt-get"
if [ "$(id -u)" = 0 ]; then
    root() { env DEBIAN_FRONTEND=noninteractive "$@"; }
elif command -v sudo >/dev/null 2>&1 && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
    root() { sudo env DEBIAN_FRONTEND=noninteractive "$@"; }
else
    give_up "installing takes root or sudo"
fi
echo "installing with apt-get: ${lacking[*]}" >&2
# This file decides whether a package may start its service. An administrator's own file takes
# precedence.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | root tee "$policy" >/dev/null
    root chmod 755 "$policy"
    trap 'root rm -f "$policy"' EXIT
fi
{ root apt-get update -q && root apt-get install -q -y --no-install-recommends "${lacking[@]}"; } >/dev/null || give_up "apt-get could not install them"
for need in "$@"; do
    has "${need%%=*}" || give_up "they are installed without ${need%%=*}"
done
