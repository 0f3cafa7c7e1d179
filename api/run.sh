#!/bin/sh
# The HTTP interfaces against their OpenAPI documents, with requests that are drawn at random. Brings
# what it needs in a virtual environment in target/. Exits with 77 if that cannot be had.
set -eu
cd "$(dirname "$0")/.."

venv=target/venv-api
if ! cmp -s api/requirements.txt "$venv/installed"; then
    rm -rf "$venv"
    if ! { python3 -m venv "$venv" && "$venv/bin/pip" install -q -r api/requirements.txt; }; then
        echo "THE INTERFACES WERE NOT TESTED: python3 with venv, and a package index, are needed" >&2
        exit 77
    fi
    cp api/requirements.txt "$venv/installed"
fi

if [ -z "${STEK_TEST_STEKD:-}" ]; then
    SQLX_OFFLINE=true "${CARGO:-cargo}" build -q -p stekd
fi
exec "$venv/bin/python" api/test_api.py "$@"
