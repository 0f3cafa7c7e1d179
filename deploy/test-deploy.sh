#!/bin/bash
# Checks what deploy/ holds without running it: alerts, units, manifests, compose files, scripts. Takes
# promtool and shellcheck out of Debian's packages where they are not installed, into target/tools. A
# tool that cannot be had is named, and with it what was not checked; only a failed check fails.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
failed=()
skipped=()

skip() { # what, why
    echo "SKIPPED  $1: $2"
    skipped+=("$1")
}

check() { # what, tool that it needs, command
    local what=$1 tool=$2
    shift 2
    if [ -n "$tool" ] && ! command -v "$tool" >/dev/null; then
        skip "$what" "$tool is not installed"
    elif "$@" >"$scratch/said" 2>&1; then
        echo "ok       $what"
        grep -hoE 'exposure level for .*|.*resources pass' "$scratch/said" | sed 's/^/           /'
    else
        echo "FAILED   $what"
        sed 's/^/           /' "$scratch/said"
        failed+=("$what")
    fi
}

# A program out of a package of Debian, without installing it: nothing is started, and once lists of
# packages are there, it takes no root.
from_debian() { # program, package
    local tools="$PWD/target/tools/$2" got
    PATH=$PATH:$tools/usr/bin
    ! command -v "$1" >/dev/null && command -v apt-get >/dev/null && mkdir -p "$tools" || return 0
    [ "$(id -u)" != 0 ] || timeout 300 apt-get update -qq
    (cd "$tools" && timeout 300 apt-get download -qq -o APT::Sandbox::User=root "$2") || return 0
    got=$(ls "$tools/$2"_*.deb) && dpkg -x "$got" "$tools"
    rm -f "$tools/$2"_*.deb
}

# Units name programs and users that are not on this machine: a root of their own has them.
units() {
    local root=$scratch/root unit
    mkdir -p "$root"/{etc,usr/bin,usr/lib/sysusers.d,usr/lib/tmpfiles.d} "$scratch/units"
    cp deploy/systemd/stekd.sysusers "$root/usr/lib/sysusers.d/stekd.conf"
    cp deploy/systemd/stekd.tmpfiles "$root/usr/lib/tmpfiles.d/stekd.conf"
    systemd-sysusers --root="$root" stekd.conf || return
    for user in stekd-manager stekd-distribution; do
        grep -q "^$user:" "$root/etc/passwd" || { echo "no user $user"; return 1; }
    done
    if [ "$(id -u)" = 0 ]; then
        systemd-tmpfiles --root="$root" --create stekd.conf || return
        [ "$(stat -c %a "$root/run/stekd-manager")" = 700 ] || { echo "no /run/stekd-manager"; return 1; }
    fi
    for unit in deploy/systemd/*.service; do
        sed 's#^ExecStart=/usr/bin/stekd#ExecStart=/bin/true#' "$unit" >"$scratch/units/${unit##*/}"
    done
    systemd-analyze verify --man=no "$scratch"/units/*.service >"$scratch/verified" 2>&1 || {
        cat "$scratch/verified"
        return 1
    }
    # `verify` warns of a key that it does not know and ends well.
    [ ! -s "$scratch/verified" ] || { cat "$scratch/verified"; return 1; }
}

# 0 is the tightest, 10 the loosest; the unit without any of it has 9.
exposure() { systemd-analyze security --offline=yes --threshold=15 --no-pager "$@"; }

# Rendered, and joined into one file for each.
kustomize() {
    local overlay
    for overlay in migrate base ha; do
        kubectl kustomize "deploy/kustomize/$overlay" >"$scratch/$overlay.yaml" || return
    done
    [ "$(grep -c 'kind: PodDisruptionBudget' "$scratch/ha.yaml")" = 2 ]
}

# Against the schemas of Kubernetes, by a tool from PyPI: what was rendered, else what stands in whole
# objects in the files.
schemas() { # file...
    "$validate" --strict --kubernetes-version 1.32 "$@" || return
    echo "$(cat "$@" | grep -c '^kind:') resources pass"
}

compose() {
    deploy/compose.sh -f docker-compose.yml config --quiet &&
        deploy/compose.sh -f docker-compose.yml -f deploy/offline/compose.yml config --quiet
}

from_debian promtool prometheus
from_debian shellcheck shellcheck
check "Prometheus configuration" promtool promtool check config deploy/prometheus/prometheus.yml
check "alerts fire, and only then" promtool promtool test rules deploy/prometheus/stekd.rules.test.yml
check "systemd units" systemd-analyze units
check "sandbox of the units" systemd-analyze exposure deploy/systemd/*.service
check "kustomize" kubectl kustomize
if [ -s "$scratch/ha.yaml" ]; then
    manifests=("$scratch"/*.yaml)
else
    # What is whole without kustomize.
    manifests=(deploy/kustomize/{base/[!k]*,migrate/[!k]*,ha/disruption}.yaml)
fi
if validate=$(.ci/venv manifests deploy/requirements.txt)/bin/kubernetes-validate; then
    check "manifests against schemas" "" schemas deploy/kustomize/namespace.yaml "${manifests[@]}"
else
    skip "manifests against schemas" "kubernetes-validate is not there, and PyPI does not give it"
fi
if deploy/compose.sh version >/dev/null 2>&1; then
    check "compose files" "" compose
else
    skip "compose files" "Compose is not installed"
fi
check "dashboard is JSON" python3 python3 -m json.tool deploy/grafana/stekd.json "$scratch/dashboard"
check "shell scripts" shellcheck shellcheck --severity=warning deploy/*.sh deploy/compose/*.sh deploy/offline/*.sh

[ ${#skipped[@]} = 0 ] || echo "test-deploy: SKIPPED ${#skipped[@]}, see above"
[ ${#failed[@]} = 0 ] || { echo "test-deploy: FAILED ${#failed[@]}"; exit 1; }
echo "test-deploy: what was checked holds"
