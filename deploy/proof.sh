#!/bin/sh
# Shows that a session begun at one terminator of docker-compose.yml resumes at the other, with
# OpenSSL as the client, in both directions; fails unless it does. For at most PROOF_SECONDS the
# terminators may still be waiting for their first keys.
set -eu
cd "$(dirname "$0")/.."
ports="8444 8445"
patience=${PROOF_SECONDS:-30}

scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
timeout 30 deploy/compose.sh exec -T terminator cat /secrets/terminator/tls/ca.pem >"$scratch/ca.pem"

# Prints who answered, what OpenSSL says of the handshake, and the name of the key of the new ticket.
visit() { # port, options of s_client
    port=$1
    shift
    printf 'GET / HTTP/1.0\r\n\r\n' | timeout 10 openssl s_client -tls1_3 -ign_eof "$@" \
        -connect "127.0.0.1:$port" -servername localhost -verify_hostname localhost \
        -CAfile "$scratch/ca.pem" -verify_return_error -sess_out "$scratch/new" \
        >"$scratch/said" 2>"$scratch/errors" || { tail -n 3 "$scratch/errors" >&2; return 1; }
    who=$(sed -n 's/^\(.*\): [a-z]* handshake.*/\1/p' "$scratch/said")
    kind=$(sed -n 's/^\(New\|Reused\), TLSv1.3.*/\1/p' "$scratch/said" | head -n 1)
    key=$(openssl sess_id -noout -text -in "$scratch/new" 2>/dev/null |
        sed -n 's/^ *0000 - \([0-9a-f]*\)[ -]\([0-9a-f]*\)[ -]\([0-9a-f]*\)[ -]\([0-9a-f]*\) .*/\1\2\3\4/p')
    echo "${who:-nobody} ${kind:-?} ${key:-none}"
}

pair() { # port of the first, port of the second
    first=$(visit "$1") || return 1
    mv "$scratch/new" "$scratch/session" 2>/dev/null || { echo "  no ticket from port $1"; return 1; }
    second=$(visit "$2" -sess_in "$scratch/session") || return 1
    printf '  port %s  %s\n  port %s  %s\n' "$1" "$first" "$2" "$second"
    case "$first / $second" in
    *" New "*" / "*" Reused "*) [ "${first%% *}" != "${second%% *}" ] ;;
    *) return 1 ;;
    esac
}

both() {
    # shellcheck disable=SC2086
    set -- $ports
    pair "$1" "$2" && pair "$2" "$1"
}

deadline=$(($(date +%s) + patience))
until seen=$(both 2>&1); do
    if [ "$(date +%s)" -ge "$deadline" ]; then
        printf '%s\n' "$seen" "proof: a session does NOT resume at the other terminator"
        exit 1
    fi
    sleep 1
done
printf '%s\n' "$seen" "proof: sessions resume at either terminator"
