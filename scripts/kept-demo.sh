# To be sourced by a check: puts up the demo's primary, standby and daemon until the check ends, with $rows rows.
# Gives $target, $work (a folder of its own), $primary, $standby (urls of their owner) and $page (the daemon's address).
# A check that has more to end than these defines `also_leave` before.

target=${CARGO_TARGET_DIR:-$PWD/target}
cargo build --quiet --locked --package backfilld --package backfilld-testbed --bins
work=$(mktemp -d)
leave() {
    if declare -F also_leave >/dev/null; then also_leave; fi
    "$target/debug/demo" --remove >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap leave EXIT
KEEP=1 ROWS=$rows "$target/debug/demo" "$target/debug/backfilld" > "$work/demo" || { cat "$work/demo" >&2; fail "the demo"; }
url_of() { sed -nE "s/^ *$1 +[^ ]+ (postgres:[^ ]+)\$/\\1/p" "$work/demo"; }
primary=$(url_of primary)
standby=$(url_of standby)
page=$(sed -nE 's/^ *status +(http:[^ ]+)\/$/\1/p' "$work/demo")
[ -n "$primary" ] && [ -n "$standby" ] && [ -n "$page" ] || fail "the demo did not say where it is"
