#!/bin/sh
# Makes, under target/offline, what `make up-offline` needs and no registry gives: base.tar, a Debian
# with PostgreSQL, Prometheus and OpenSSL in it, which stands in for all base images; and Compose, where
# Docker has none. Only Debian's mirror is asked. What is there already stays.
set -eu
cd "$(dirname "$0")/../.."

SUITE=trixie
MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
OUT=target/offline

say() { echo "offline: $*" >&2; }

[ ! -e $OUT/base.tar ] || [ ! -x $OUT/docker-compose ] || exit 0

mkdir -p $OUT
root=$(mktemp -d -p "$PWD/$OUT" root.XXXXXX)
trap 'rm -rf --one-file-system -- "$root" $OUT/base.tar.part' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "1/4 Debian $SUITE from $MIRROR"
timeout 900 debootstrap --variant=minbase --include=ca-certificates "$SUITE" "$root" "$MIRROR" \
    >$OUT/debootstrap.log 2>&1 || { tail -n 20 $OUT/debootstrap.log >&2; exit 1; }

in_root() { timeout 900 chroot "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"; }

say "2/4 PostgreSQL, Prometheus and OpenSSL"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"
mkdir -p "$root/etc/postgresql-common"
echo 'create_main_cluster = false' >"$root/etc/postgresql-common/createcluster.conf"
in_root apt-get install -y --no-install-recommends postgresql prometheus openssl >$OUT/install.log 2>&1 ||
    { tail -n 20 $OUT/install.log >&2; exit 1; }

# A volume that is new when it is mounted here belongs to the same user.
in_root install -d -o postgres -g postgres -m 0700 /var/lib/postgresql/data
# A tmpfs that is mounted here takes its mode.
in_root install -d -o postgres -g postgres -m 3777 /run/postgresql

say "3/4 Compose"
in_root sh -c 'cd /var/tmp && apt-get -qq -o APT::Sandbox::User=root download docker-compose'
dpkg-deb --fsys-tarfile "$root"/var/tmp/docker-compose_*.deb |
    tar -xO --wildcards '*/cli-plugins/docker-compose' >$OUT/docker-compose
chmod +x $OUT/docker-compose

say "4/4 the image"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/tmp/* "$root"/usr/share/doc
tar -C "$root" --numeric-owner -cf $OUT/base.tar.part .
mv $OUT/base.tar.part $OUT/base.tar
