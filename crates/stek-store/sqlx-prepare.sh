#!/bin/sh
# Writes crates/stek-store/.sqlx anew from the migrations and the queries in the source. Run by
# `make sqlx-prepare`, with a PostgreSQL in STEK_TEST_DATABASE_URL; needs psql.
set -eu
cd "$(dirname "$0")/../.."
data=crates/stek-store/.sqlx
base=stek_sqlx_prepare
psql() { command psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 "$@"; }

psql --dbname "$STEK_TEST_DATABASE_URL" \
  --command "DROP DATABASE IF EXISTS $base" --command "CREATE DATABASE $base"
url=$(printf %s "$STEK_TEST_DATABASE_URL" | sed -E "s#^([^?]*)/[^/?]*#\1/$base#")
cat migrations/postgres/*.sql | psql --dbname "$url"

mkdir -p "$data"
rm -f "$data"/query-*.json
# cargo does not notice these variables.
touch crates/stek-store/src/lib.rs
SQLX_OFFLINE=false SQLX_OFFLINE_DIR="$PWD/$data" DATABASE_URL="$url" cargo check --package stek-store
psql --dbname "$STEK_TEST_DATABASE_URL" --command "DROP DATABASE $base"
