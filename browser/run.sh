#!/bin/sh
# The status page in a real browser. Brings what it needs: a virtual environment in target/, and
# Chromium by apt-get as root on Debian, and the program from cargo unless STEK_TEST_STEKD names one.
# Exits with 77 if there is no Chromium and none can be had.
set -eu
cd "$(dirname "$0")/.."

find_chromium() {
    for name in "${STEK_TEST_CHROMIUM:-}" chromium chromium-browser google-chrome; do
        if [ -n "$name" ] && command -v "$name"; then return 0; fi
    done
    return 1
}

chromium=$(find_chromium) || chromium=
if [ -z "$chromium" ] && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium > /dev/null || true
    chromium=$(find_chromium) || chromium=
fi
if [ -z "$chromium" ]; then
    echo "THE STATUS PAGE WAS NOT TESTED: install chromium (Debian: apt-get install chromium)," >&2
    echo "or name one in STEK_TEST_CHROMIUM" >&2
    exit 77
fi

venv=$(.ci/venv page browser/requirements.txt) || {
    echo "THE STATUS PAGE WAS NOT TESTED: see above" >&2
    exit 77
}

if [ -z "${STEK_TEST_STEKD:-}" ]; then
    CARGO_TARGET_DIR="$PWD/target" SQLX_OFFLINE=true "${CARGO:-cargo}" build -q -p stekd
fi
# Alone on a network with nothing but loopback, where that is allowed: Chromium gives requests up
# whenever an interface of the machine comes, changes or goes.
alone='ip link set lo up && exec "$@"'
if unshare --net sh -c "$alone" sh true 2> /dev/null; then
    set -- unshare --net sh -c "$alone" sh "$venv/bin/python" browser/test_page.py "$@"
else
    set -- "$venv/bin/python" browser/test_page.py "$@"
fi
STEK_TEST_CHROMIUM=$chromium exec "$@"
