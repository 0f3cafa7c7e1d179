#!/bin/bash
# Runs the fleet of docker-compose.yml on images from Debian's packages, and kills each manager, each
# distribution replica and PostgreSQL in turn: sessions resume with each of them away, and keys rotate
# without one of two and again with all. A manager that lost its ratchet gets it from the other. Takes
# the Docker daemon that is there, else starts one of its own, as root, and removes it. Installs by
# apt-get, as root, what is missing; exits with 77 if that cannot be had here.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "test-compose: $*"; }
compose() { timeout 120 deploy/compose.sh "$@"; }
scratch=$(mktemp -d /var/tmp/stekd-compose.XXXXXX)
daemon=
up=

finish() {
    local status=$?
    trap - EXIT INT TERM
    if [ -n "$up" ]; then
        if [ $status != 0 ]; then
            deploy/compose.sh ps --all || true
            deploy/compose.sh logs --no-color --tail 20 || true
        fi
        make --no-print-directory down >"$scratch/down" 2>&1 || { cat "$scratch/down"; status=1; }
        if [ -n "$(docker ps --all --quiet --filter label=com.docker.compose.project=stekd)$(
            docker volume ls --quiet --filter label=com.docker.compose.project=stekd)$(
            docker network ls --quiet --filter label=com.docker.compose.project=stekd)$(
            docker image ls --quiet stekd:compose)" ]; then
            say "\`make down\` left something behind"
            status=1
        fi
    fi
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" || true
        ip link delete docker0 2>/dev/null || true
        awk -v under="$scratch/" 'index($2, under) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount
    fi
    rm -rf --one-file-system -- "$scratch"
    case $status in
    0) say "passed" ;;
    77) say "SKIPPED" ;;
    *) say "FAILED" ;;
    esac
    exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

# What the fleet needs here, and by which packages Debian gives it.
install_what_is_missing() {
    local missing=() needs_root=
    docker info >/dev/null 2>&1 || { needs_root=yes; command -v dockerd >/dev/null || missing+=(docker.io iptables); }
    if [ ! -e target/offline/base.tar ] || [ ! -x target/offline/docker-compose ]; then
        needs_root=yes
        command -v debootstrap >/dev/null || missing+=(debootstrap)
    fi
    if [ -n "$needs_root" ] && [ "$(id -u)" != 0 ]; then
        say "only root can start a Docker daemon and run debootstrap"
        exit 77
    fi
    [ ${#missing[@]} != 0 ] || return 0
    say "installing ${missing[*]}"
    { command -v apt-get && apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
        --no-install-recommends "${missing[@]}"; } >"$scratch/apt" 2>&1 || { tail "$scratch/apt"; exit 77; }
}

# Without rules in the firewall of this machine: containers reach each other, and nothing leaves.
start_daemon() {
    say "starting a Docker daemon"
    export DOCKER_HOST=unix://$scratch/docker.sock
    dockerd --data-root "$scratch/data" --exec-root "$scratch/exec" --pidfile "$scratch/pid" \
        --host "$DOCKER_HOST" --iptables=false --ip-masq=false >"$scratch/dockerd.log" 2>&1 &
    daemon=$!
    local tries
    for ((tries = 0; tries < 60; tries++)); do
        ! docker info >/dev/null 2>&1 || return 0
        kill -0 "$daemon" 2>/dev/null || break
        sleep 1
    done
    tail "$scratch/dockerd.log"
    exit 1
}

# Waits for at most a minute until the command ends well.
soon() {
    local deadline=$((SECONDS + 60))
    until "$@" >"$scratch/soon" 2>&1; do
        [ $SECONDS -lt $deadline ] || { say "not within a minute: $*"; cat "$scratch/soon"; return 1; }
        sleep 1
    done
}

health() { [ "$(docker inspect --format '{{.State.Health.Status}}' "$1")" = healthy ]; }
proof() { PROOF_SECONDS=0 deploy/proof.sh | tee "$scratch/proof"; }
# The names of the keys that new tickets are sealed under.
names() { PROOF_SECONDS=0 deploy/proof.sh | awk '$1 == "port" { print $5 }' | sort -u; }
rotate() { compose run --rm --no-TTY operator keyset rotate main; }
# Both terminators have left the key that was the newest.
moved_on() { local now; now=$(names) && [ "$(wc -l <<<"$now")" = 1 ] && [ "$now" != "$1" ]; }
keys_rotate() {
    local before
    before=$(names) && soon rotate && soon moved_on "$before" && say "    a rotation reached both terminators"
}

# Kills one container and lets the proof pass without it; then brings it back.
without() { # what, container, whether keys can rotate meanwhile
    say "$1 is killed"
    docker kill "$2" >/dev/null
    proof
    [ "$3" = no ] || keys_rotate
    docker start "$2" >/dev/null
    soon health "$2"
    proof
    keys_rotate
}

# As many copies of the ratchet are known, and all are of one seed.
ratchets() { # how many
    local seen
    seen=$(compose run --rm --no-TTY operator ratchet show --output json) &&
        [ "$(grep -o '"behind":' <<<"$seen" | wc -l)" = "$1" ] &&
        [ "$(grep -o '"phase":' <<<"$seen" | wc -l)" = 1 ]
}

install_what_is_missing
docker info >/dev/null 2>&1 || start_daemon
if [ -n "$(docker ps --all --quiet --filter label=com.docker.compose.project=stekd)" ]; then
    say "a fleet of docker-compose.yml is there already: \`make down\` first"
    exit 1
fi
up=yes
make --no-print-directory up-offline
deploy/proof.sh
keys_rotate

soon ratchets 2
say "two managers hold the ratchet"
without "the first manager" "$(compose ps --quiet manager-1)" yes
without "the second manager" "$(compose ps --quiet manager-2)" yes
for replica in $(compose ps --quiet distribution); do
    without "a distribution replica" "$replica" yes
done
without "PostgreSQL" "$(compose ps --quiet postgres)" no

say "the second manager loses its ratchet"
compose rm --stop --force manager-2 >"$scratch/lost" 2>&1 || { cat "$scratch/lost"; exit 1; }
docker volume rm stekd_ratchet-2 >/dev/null
keys_rotate
compose up --no-build --no-deps --detach manager-2 >"$scratch/again" 2>&1 || { cat "$scratch/again"; exit 1; }
again=$(compose ps --quiet manager-2)
soon health "$again"
gave() { docker logs "$again" 2>&1 | grep "a peer gave the ratchet's state"; }
soon gave
# What became of the lost copy nobody knows: it stays in the list until it is forgotten.
soon ratchets 3
without "the first manager" "$(compose ps --quiet manager-1)" yes

say "what Prometheus sees"
ask() { compose exec -T prometheus promtool query instant http://127.0.0.1:9090 "$1"; }
everything_is_scraped() { [ "$(ask 'count(up == 1)' | grep -c '=> 6 @')" = 1 ]; }
soon everything_is_scraped
