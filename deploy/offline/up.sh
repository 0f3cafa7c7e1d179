#!/bin/sh
# Starts docker-compose.yml on a machine that reaches no registry: Debian's mirror gives what stands in
# for base images, and cargo builds the program here.
set -eu
cd "$(dirname "$0")/../.."

deploy/offline/build.sh
if ! docker image inspect stekd-offline:base >/dev/null 2>&1; then
    echo "offline: import of target/offline/base.tar" >&2
    timeout 300 docker import target/offline/base.tar stekd-offline:base >/dev/null
fi
echo "offline: the program" >&2
SQLX_OFFLINE=true ${CARGO:-cargo} build --release --locked -p stekd --features otlp

on="-f docker-compose.yml -f deploy/offline/compose.yml"
# shellcheck disable=SC2086
{
    echo "offline: the image" >&2
    timeout 300 deploy/compose.sh $on build --quiet
    echo "offline: the services" >&2
    timeout 300 deploy/compose.sh $on up --no-build --detach --wait --wait-timeout 240
}
