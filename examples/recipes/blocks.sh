#!/usr/bin/env bash
# Checks that the code blocks in docs/recipes are equal to the files that check.sh runs. If a code
# block follows a line like
#     <!-- same as examples/recipes/psql/expand.sql -->
# the code block must be the text of the whole file. `blocks.sh --write` copies the text of the
# files into the docs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

bad=0
for page in docs/recipes/*.md; do
    wanted=$(awk '
        inside { if ($0 == "```") { inside = 0; print } ; next }
        { print }
        /^<!-- same as .* -->$/ { file = $4; pending = 1; next }
        pending && /^```/ {
            pending = 0; inside = 1
            while ((got = (getline line < file)) > 0) print line
            if (got < 0) print "(" file " does not exist)"
            close(file)
        }' "$page")
    if [ "$wanted" != "$(cat "$page")" ]; then
        if [ "${1:-}" = --write ]; then
            printf '%s\n' "$wanted" >"$page"
        else
            bad=1
            echo "$page differs from the files of examples/recipes; to update it, run: examples/recipes/blocks.sh --write" >&2
            diff <(cat "$page") <(printf '%s\n' "$wanted") >&2 || true
        fi
    fi
done
exit $bad
