#!/bin/sh
# Fuzzes each target for so many seconds, from the golden files on: run.sh SECONDS TARGET...
# Brings its own cargo-fuzz; needs a nightly toolchain.
# What is found is kept under target/fuzz, a crash also under fuzz/artifacts.
set -eu
cd "$(dirname "$0")/.."
seconds=$1
shift
if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "fuzzing needs a nightly toolchain: rustup toolchain install nightly --profile minimal" >&2
    exit 1
fi
fuzz=target/tools/bin/cargo-fuzz
version=0.13.2
if ! "$fuzz" fuzz --version 2>/dev/null | grep -q " $version\$"; then
    cargo install --quiet --locked --root target/tools cargo-fuzz --version "$version"
fi
golden=crates/stek-wire/golden
sessions=crates/stek-rustls/src/glue/rustls_0_23/payload/golden
for target; do
    corpus=target/fuzz/corpus/$target
    mkdir -p "$corpus"
    case $target in
    bundle_decode) cp $golden/bundle*.json "$corpus" ;;
    feed_decode) cp $golden/feed*.json "$corpus" ;;
    # Lines of text that end in the session in hexadecimal.
    *)
        number=0
        for session in $(awk '!/^#/ { print toupper($NF) }' $sessions/*.txt); do
            number=$((number + 1))
            printf %s "$session" | basenc --base16 -d >"$corpus/golden-$number"
        done
        ;;
    esac
    RUSTUP_TOOLCHAIN=nightly "$fuzz" fuzz run --fuzz-dir fuzz --target-dir target/fuzz/build "$target" "$corpus" -- \
        -max_total_time="$seconds" -max_len=65536 -verbosity=0 -print_final_stats=1
done
