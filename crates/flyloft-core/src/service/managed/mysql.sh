set -eu
umask 077
data=/data/mysql
mkdir -p /data/tmp
if [ ! -d "$data" ]; then
    rm -rf /data/making
    mariadb-install-db --no-defaults --datadir=/data/making --auth-root-authentication-method=socket --skip-test-db \
        >/dev/null
    # Of letters and digits, as passwords of our own are.
    mariadbd --no-defaults --bootstrap --datadir=/data/making --tmpdir=/data/tmp <<SQL
FLUSH PRIVILEGES;
CREATE USER 'flyloft'@'%' IDENTIFIED BY '$(cat /data/password)';
GRANT ALL PRIVILEGES ON *.* TO 'flyloft'@'%' WITH GRANT OPTION;
SQL
    mv /data/making "$data"
fi
rm -f /data/password

# shellcheck disable=SC2086 # words of our own
exec mariadbd --no-defaults --datadir="$data" --tmpdir=/data/tmp --socket=/tmp/mariadbd.sock --bind-address='*' \
    --port=3306 --skip-name-resolve --character-set-server=utf8mb4 $SETTINGS
