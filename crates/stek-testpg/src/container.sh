# Starts one throwaway container.
# $1: the docker program. $2: the image. $3: directory of the log, removed at the end.
# The order `start` on standard input is answered with the exit status and the published address.
# End of input: the process that wanted the container is gone, however it ended.

# Only the end of input ends this script, and the answers may find no reader.
trap '' HUP INT TERM PIPE

docker=$1
image=$2
directory=$3
container=

start() {
    container=$("$docker" run --rm --detach --publish 127.0.0.1::5432 \
        --env POSTGRES_HOST_AUTH_METHOD=trust "$image" -c fsync=off -c max_connections=200) || return
    # The image first runs a server for its set-up, without TCP: only TCP says that all is ready.
    "$docker" exec "$container" sh -c 'tries=0
        until pg_isready --quiet --host=127.0.0.1 --username=postgres; do
            tries=$((tries + 1))
            [ "$tries" -lt 300 ] || exit 1
            sleep 0.2
        done' || return
    address=$("$docker" port "$container" 5432/tcp)
}

while read -r order; do
    address=
    case $order in
    start) start </dev/null 2>>"$directory/control.log" ;;
    *) false ;;
    esac
    echo "$? $address"
done

[ -z "$container" ] || "$docker" rm --force --volumes "$container" </dev/null >/dev/null 2>&1
rm -rf -- "$directory"
