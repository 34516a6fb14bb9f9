#!/usr/bin/env bash
# Runs every test: unit, integration and documentation tests, and all examples and benches are compiled.
#
#   ./test.sh            everything
#   ./test.sh NAME       only the tests whose name contains NAME
#
# Needs cargo. Servers that tests talk to are taken from PATH; what is missing is installed through apt, and said.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '==> %s\n' "$*"; }

# need PROGRAM PACKAGE: installs PACKAGE through apt where PROGRAM is not on PATH.
need() {
    if command -v "$1" >/dev/null; then
        say "using $1: $(command -v "$1")"
        return
    fi
    say "installing $2 through apt, for $1"
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -qq && $sudo apt-get install -y -qq "$2"
}

command -v cargo >/dev/null || { say "cargo is missing: see https://rustup.rs"; exit 1; }

# Servers that tests start themselves, on free ports. Debian keeps PostgreSQL's programs out of PATH.
for folder in /usr/lib/postgresql/*/bin; do PATH=$PATH:$folder; done
need initdb postgresql
# Debian keeps daemons out of the PATH of users.
PATH=$PATH:/usr/sbin
need pgbouncer pgbouncer
export TOLLGATE_TEST_POSTGRES=1
need redis-server redis-server
need memcached memcached
export TOLLGATE_TEST_MEMCACHED=1
need openssl openssl
need chromium chromium
export TOLLGATE_TEST_CHROMIUM=1
# The audit of accessibility that the dashboard passes.
axe=target/axe-core/node_modules/axe-core/axe.min.js
need npm npm
[ -f "$axe" ] || npm install --silent --prefix target/axe-core axe-core@4
export TOLLGATE_TEST_AXE=$PWD/$axe
need prometheus prometheus
need promtool prometheus
export TOLLGATE_TEST_PROMETHEUS=1
export TOLLGATE_TEST_REDIS=1
# A partition is made by a packet filter, in a network namespace of the test's own.
need unshare util-linux
need ip iproute2
need nft nftables
if unshare --map-root-user --net --pid --fork nft add table inet probe 2>/dev/null; then
    export TOLLGATE_TEST_NETWORK=1
else
    say "LEFT OUT: tests/faults_partition.rs, for this machine allows no packet filter in a network namespace"
fi

say "cargo test --all-targets --all-features"
cargo test --no-fail-fast --all-targets --all-features -- "$@"
say "recipes for other drivers, and for axum 0.7"
cargo test --quiet --manifest-path examples/recipes/Cargo.toml
say "cargo test --doc --all-features"
cargo test --doc --all-features -- "$@"
say "all tests passed"
