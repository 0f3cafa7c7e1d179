#!/bin/bash
# What the entry point of the postgres image does, as far as docker-compose.yml uses it: makes the
# database once, with what is in /docker-entrypoint-initdb.d, and serves it.
set -euo pipefail
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH

if [ ! -e "$PGDATA/made" ]; then
    find "$PGDATA" -mindepth 1 -delete
    initdb --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" --auth-local=trust \
        --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --no-sync
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl --wait --options="-c listen_addresses=" start
    createdb --username=postgres "$POSTGRES_DB"
    for script in /docker-entrypoint-initdb.d/*.sql; do
        psql --no-psqlrc --set=ON_ERROR_STOP=1 --username=postgres --dbname="$POSTGRES_DB" --file="$script"
    done
    pg_ctl --wait --mode=fast stop
    touch "$PGDATA/made"
fi
exec postgres -c 'listen_addresses=*'
