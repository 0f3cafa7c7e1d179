# Starts and stops one throwaway cluster; for PostgreSQL 10 and later.
# $1: directory of the server programs. $2: directory of the cluster, removed at the end.
# Orders come as lines on standard input: `initialise`, `adopt BACKUP`, `recover`, `start PORT`,
# `stop`, `backup PORT NAME`. Each is answered with the exit status. End of input: the process that
# wanted the cluster is gone, however it ended.
# Orders are carried out one after the other, so the end never overtakes a start.

# Only the end of input ends this script, and the answers may find no reader.
trap '' HUP INT TERM PIPE

programs=$1
directory=$2

control() {
    "$programs/pg_ctl" --pgdata="$directory/data" --wait --timeout=300 "$@" \
        </dev/null >>"$directory/control.log" 2>&1
}

while read -r order port name; do
    case $order in
    initialise)
        "$programs/initdb" --pgdata="$directory/data" --username=postgres --auth=trust \
            --encoding=UTF8 --locale=C --no-sync </dev/null >"$directory/control.log" 2>&1
        ;;
    adopt) cp -a -- "$port" "$directory/data" </dev/null >"$directory/control.log" 2>&1 ;;
    # Without a server, for that is said to have started before its recovery has ended.
    recover)
        "$programs/postgres" --single -D "$directory/data" postgres \
            </dev/null >>"$directory/control.log" 2>&1
        ;;
    backup)
        "$programs/pg_basebackup" --host="$directory" --port="$port" --username=postgres \
            --pgdata="$directory/$name" --wal-method=fetch --checkpoint=fast --no-sync \
            </dev/null >>"$directory/control.log" 2>&1
        ;;
    start) control --log="$directory/server.log" --options="-p $port" start ;;
    stop) control --mode=immediate stop ;;
    *) false ;;
    esac
    echo "$?"
done

control --mode=immediate stop
rm -rf -- "$directory"
