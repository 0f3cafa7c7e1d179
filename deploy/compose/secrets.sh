#!/bin/sh -eu
# Makes every secret and certificate of docker-compose.yml. What is there already stays, for the
# database and the other files know it.
umask 077
cd /secrets

# PostgreSQL runs as another user, so its files are open; nobody else mounts their volume.
for role in postgres stekd_owner stekd_manager; do
    [ -e postgres/$role ] || (umask 022 && od -An -v -N32 -tx1 /dev/urandom | tr -d ' \n' >postgres/$role)
done
owner=$(cat postgres/stekd_owner)
echo "postgres://stekd_owner:$owner@postgres/stekd" >owner/database-url
echo "postgres:5432:stekd:stekd_owner:$owner" >owner/pgpass
echo "postgres://stekd_manager:$(cat postgres/stekd_manager)@postgres/stekd" >manager/database-url

[ -e manager/cluster-secret ] || stekd secret manager/cluster-secret

[ -e manager/tls/ca.pem ] || stekd dev-ca manager/tls --name manager --name manager-1 --name manager-2
[ -e distribution/tls/ca.pem ] || stekd dev-ca distribution/tls --name distribution
[ -e terminator/tls/ca.pem ] || stekd dev-ca terminator/tls --name terminator --name localhost
cp manager/tls/ca.pem distribution/manager-ca.pem
cp manager/tls/ca.pem operator/manager-ca.pem
cp distribution/tls/ca.pem terminator/distribution-ca.pem
