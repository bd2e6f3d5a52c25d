# Source this file from a check that defines the function `fail` and sets $rows. The file starts the
# demo's primary, standby and daemon with $rows rows, and stops them when the check ends. It sets
# $target, $work (a temporary folder), $primary and $standby (connection strings of the owner), and
# $page (the URL of the daemon). A check that starts other processes defines the function
# `also_leave`, which stops them.

target=${CARGO_TARGET_DIR:-$PWD/target}
cargo build --quiet --locked --package backfilld --package backfilld-testbed --bins
work=$(mktemp -d)
leave() {
    if declare -F also_leave >/dev/null; then also_leave; fi
    "$target/debug/demo" --remove >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap leave EXIT
KEEP=1 ROWS=$rows "$target/debug/demo" "$target/debug/backfilld" > "$work/demo" || { cat "$work/demo" >&2; fail "the demo did not succeed"; }
url_of() { sed -nE "s/^ *$1 +[^ ]+ (postgres:[^ ]+)\$/\\1/p" "$work/demo"; }
primary=$(url_of primary)
standby=$(url_of standby)
page=$(sed -nE 's/^ *status +(http:[^ ]+)\/$/\1/p' "$work/demo")
[ -n "$primary" ] && [ -n "$standby" ] && [ -n "$page" ] || fail "the output of the demo contains no addresses"
