#!/bin/sh
# Writes rustls-VERSION.txt beside this file: sessions as exactly that version of rustls encodes them, from real
# handshakes: capture.sh VERSION. Two versions compatible by number cannot be in one build, so each is captured by
# a program of its own. To be run for the lowest version that Cargo.toml allows and for the one in Cargo.lock.
set -eu
version=${1:?usage: capture.sh VERSION}
golden=$(cd "$(dirname "$0")" && pwd)
root=$(git -C "$golden" rev-parse --show-toplevel)
program=$(mktemp -d)
trap 'rm -rf "$program"' EXIT
mkdir "$program/src"
cp "$golden/capture.rs" "$program/src/main.rs"
cat >"$program/Cargo.toml" <<TOML
[package]
name = "capture"
version = "0.0.0"
edition = "2024"

[dependencies]
rcgen = { version = "0.14", default-features = false, features = ["aws_lc_rs"] }
rustls = { version = "=$version", default-features = false, features = ["aws_lc_rs", "std", "tls12"] }

[workspace]
TOML
CARGO_TARGET_DIR="$root/target/golden" cargo run -q --manifest-path "$program/Cargo.toml" -- "$version" \
    >"$program/captured"
mv "$program/captured" "$golden/rustls-$version.txt"
echo "rustls-$version.txt: $(grep -vc '^#' "$golden/rustls-$version.txt") sessions"
