#!/bin/bash
# Checks what deploy/ holds without running it: alerts, units, manifests, compose files, scripts. A tool
# that is missing is named, and with it what was not checked; only a failed check fails.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
failed=()
skipped=()

check() { # what, tool that it needs, command
    local what=$1 tool=$2
    shift 2
    if [ -n "$tool" ] && ! command -v "$tool" >/dev/null; then
        echo "SKIPPED  $what: $tool is not installed"
        skipped+=("$what")
    elif "$@" >"$scratch/said" 2>&1; then
        echo "ok       $what"
        grep -hoE 'exposure level for .*|.*resources pass' "$scratch/said" | sed 's/^/           /'
    else
        echo "FAILED   $what"
        sed 's/^/           /' "$scratch/said"
        failed+=("$what")
    fi
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

kustomize() {
    local overlay
    for overlay in base ha; do
        kubectl kustomize deploy/kustomize/$overlay >"$scratch/$overlay.yaml" || return
    done
}

# Against the schemas of Kubernetes, by a tool from PyPI, installed once under target/.
schemas() {
    local venv=target/kubernetes-validate overlay
    if [ ! -x $venv/bin/kubernetes-validate ]; then
        python3 -m venv $venv && timeout 300 $venv/bin/pip install --quiet kubernetes-validate==1.37.0 || {
            rm -rf $venv
            return 1
        }
    fi
    for overlay in base ha; do
        $venv/bin/kubernetes-validate --strict --kubernetes-version 1.32 "$scratch/$overlay.yaml" || return
        echo "$overlay: $(grep -c '^kind:' "$scratch/$overlay.yaml") resources pass"
    done
    [ "$(grep -c 'kind: PodDisruptionBudget' "$scratch/ha.yaml")" = 2 ]
}

compose() {
    deploy/compose.sh -f docker-compose.yml config --quiet &&
        deploy/compose.sh -f docker-compose.yml -f deploy/offline/compose.yml config --quiet
}

check "Prometheus configuration" promtool promtool check config deploy/prometheus/prometheus.yml
check "alerts fire, and only then" promtool promtool test rules deploy/prometheus/stekd.rules.test.yml
check "systemd units" systemd-analyze units
check "sandbox of the units" systemd-analyze exposure deploy/systemd/*.service
check "kustomize" kubectl kustomize
if [ -s "$scratch/ha.yaml" ]; then
    check "manifests against schemas" python3 schemas
fi
if deploy/compose.sh version >/dev/null 2>&1; then
    check "compose files" "" compose
else
    echo "SKIPPED  compose files: Compose is not installed"
    skipped+=("compose files")
fi
check "dashboard is JSON" python3 python3 -m json.tool deploy/grafana/stekd.json "$scratch/dashboard"
check "shell scripts" shellcheck shellcheck --severity=warning deploy/*.sh deploy/compose/*.sh deploy/offline/*.sh

[ ${#skipped[@]} = 0 ] || echo "test-deploy: SKIPPED ${#skipped[@]}, see above"
[ ${#failed[@]} = 0 ] || { echo "test-deploy: FAILED ${#failed[@]}"; exit 1; }
echo "test-deploy: what was checked holds"
