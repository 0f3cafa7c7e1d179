#!/bin/sh
# Docker Compose on docker-compose.yml: Docker's own, else the one that deploy/offline/build.sh fetched.
cd "$(dirname "$0")/.." || exit
if docker compose version >/dev/null 2>&1; then
    exec docker compose "$@"
elif [ -x target/offline/docker-compose ]; then
    exec target/offline/docker-compose "$@"
fi
echo "docker compose is missing: install Compose v2, or run \`make up-offline\`" >&2
exit 1
