#!/bin/sh
# Starts docker-compose.yml on a machine that reaches no registry: Debian's mirror gives what stands in
# for base images, and cargo builds the program here.
set -eu
cd "$(dirname "$0")/../.."
# Where the Dockerfile looks for the program.
export CARGO_TARGET_DIR="$PWD/target"
CARGO=${CARGO:-cargo}

# All that is needed, before the minutes that the rest takes.
missing=
need() { missing="$missing
  $1"; }
timeout 60 docker info >/dev/null 2>&1 || need "a Docker daemon that answers \`docker info\`"
"$CARGO" --version >/dev/null 2>&1 || need "cargo, of the Rust that Cargo.toml names: https://rustup.rs"
command -v cc >/dev/null || need "a C compiler: apt-get install build-essential"
command -v openssl >/dev/null || need "openssl, for \`make proof\`: apt-get install openssl"
if [ ! -e target/offline/base.tar ] || [ ! -x target/offline/docker-compose ]; then
    [ "$(id -u)" = 0 ] || need "root, the first time, for debootstrap"
    command -v debootstrap >/dev/null || need "debootstrap: apt-get install debootstrap"
fi
[ -z "$missing" ] || { echo "offline: what is missing here:$missing" >&2; exit 1; }

deploy/offline/build.sh
if ! docker image inspect stekd-offline:base >/dev/null 2>&1; then
    echo "offline: import of target/offline/base.tar" >&2
    timeout 300 docker import target/offline/base.tar stekd-offline:base >/dev/null
fi
echo "offline: the program" >&2
SQLX_OFFLINE=true "$CARGO" build --release --locked -p stekd --features otlp

on="-f docker-compose.yml -f deploy/offline/compose.yml"
# shellcheck disable=SC2086
{
    echo "offline: the image" >&2
    timeout 300 deploy/compose.sh $on build --quiet
    echo "offline: the services" >&2
    timeout 300 deploy/compose.sh $on up --no-build --detach --wait --wait-timeout 240
}
