#!/bin/bash
# Pastes the shell blocks of README.md, as they are written and from top to bottom, into one shell in this
# checkout, and fails where a command does. `make test` is left out: it is run by itself.
set -euo pipefail
cd "$(dirname "$0")/.."
# A reader's shell has none of these.
unset CARGO_TARGET_DIR STEKD_PROFILE STEKD_LOG STEKD_LOG_FORMAT
[ ! -e fleet ] || { echo "test-readme: fleet/ is there already; move it away" >&2; exit 1; }

blocks=$(awk '/^```sh$/ { inside = 1; next } /^```$/ { inside = 0 } inside' README.md | grep -vx 'make test')
[ "$(grep -c '^stekd probe' <<<"$blocks")" = 2 ] || { echo "test-readme: where are the blocks?" >&2; exit 1; }

trap 'rm -rf fleet' EXIT
# What was begun ends with the shell, wherever that stops.
# shellcheck disable=SC2016
end='trap "kill \$(jobs -p) 2>/dev/null || true; wait" EXIT'
status=0
printf '%s\n' "$end" "$blocks" | timeout --foreground 1800 bash -euv || status=$?
if [ "$status" != 0 ]; then
    tail -n 20 fleet/*.log >&2 || true
    echo "test-readme: FAILED, with status $status" >&2
elif [ -e fleet ]; then
    echo "test-readme: FAILED, for README.md does not take fleet/ away" >&2
    status=1
fi
[ "$status" = 0 ] && echo "test-readme: everything in README.md works as written"
exit "$status"
