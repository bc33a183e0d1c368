set -eu
umask 077
data=/data/postgres
for bin in /usr/lib/postgresql/*/bin; do :; done
version=${bin%/bin} version=${version##*/}

if [ ! -s "$data/PG_VERSION" ]; then
    rm -rf /data/making
    # Text is sorted by bytes: an order that no version of a library changes, so that indexes outlive upgrades.
    "$bin/initdb" --pgdata=/data/making --username=postgres --pwfile=/data/password --auth=scram-sha-256 \
        --encoding=UTF8 --locale=C.UTF-8 --no-instructions >/dev/null
    # What environments have is closed to each other when it is made. These are there before.
    "$bin/postgres" --single -D /data/making postgres >/dev/null <<SQL
REVOKE CONNECT, TEMPORARY ON DATABASE postgres FROM PUBLIC
REVOKE CONNECT, TEMPORARY ON DATABASE template1 FROM PUBLIC
SQL
    mv /data/making "$data"
fi
rm -f /data/password

made=$(cat "$data/PG_VERSION")
if [ "$made" != "$version" ]; then
    echo "the data are those of PostgreSQL $made, and this is $version: nothing was done to them"
    exec sleep infinity
fi

# What an earlier container's processes had as numbers, others have in this one.
if [ ! -e /dev/shm/flyloft-begun ]; then
    rm -f "$data/postmaster.pid"
    touch /dev/shm/flyloft-begun
fi
echo 'host all all all scram-sha-256' >"$data/pg_hba.conf"

# shellcheck disable=SC2086 # words of our own
"$bin/postgres" -D "$data" -c listen_addresses='*' -c unix_socket_directories='' -c log_checkpoints=off $SETTINGS &
server=$!
# To SIGTERM it waits until everybody has left, and an app that sleeps never does.
trap 'kill -INT "$server" 2>/dev/null || true' TERM
while kill -0 "$server" 2>/dev/null; do
    ending=0
    wait "$server" || ending=$?
done
exit "$ending"
