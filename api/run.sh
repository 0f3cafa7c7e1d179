#!/bin/sh
# The HTTP interfaces against their OpenAPI documents, with requests that are drawn at random. Brings
# what it needs in a virtual environment in target/. Exits with 77 if that cannot be had.
set -eu
cd "$(dirname "$0")/.."

venv=$(.ci/venv api api/requirements.txt) || {
    echo "THE INTERFACES WERE NOT TESTED: see above" >&2
    exit 77
}

if [ -z "${STEK_TEST_STEKD:-}" ]; then
    CARGO_TARGET_DIR="$PWD/target" SQLX_OFFLINE=true "${CARGO:-cargo}" build -q -p stekd
fi
exec "$venv/bin/python" api/test_api.py "$@"
