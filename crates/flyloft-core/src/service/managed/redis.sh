set -eu
umask 077
mkdir -p /data/redis
users=/data/redis/users.acl
if [ ! -s "$users" ]; then
    hash=$(sha256sum </data/password)
    echo "user default on #${hash%% *} ~* &* +@all" >"$users.making"
    mv "$users.making" "$users"
fi
rm -f /data/password

# shellcheck disable=SC2086 # words of our own
exec redis-server --bind '*' '-::*' --port 6379 --dir /data/redis --aclfile "$users" --daemonize no --logfile '' \
    --appendonly yes --databases 256 --maxmemory-policy noeviction $SETTINGS
