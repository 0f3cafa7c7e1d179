#!/bin/sh -eu
# Makes the first tokens of docker-compose.yml, one for each role.
cd /secrets
make_token() { # role, keyset
    [ -e "$1/token" ] || stekd token create "$1" --role "$1" --keyset "$2" \
        --offline /config/manager.toml --out "$1/token"
}
make_token operator '*'
make_token manager '*'
make_token distribution '*'
make_token terminator main
