#!/usr/bin/env bash
# Fuzzes readers of untrusted files with libFuzzer: scripts/fuzz.sh SECONDS [TARGET...]; all targets if none is
# named. Needs a C++ compiler. Inputs that are found go to fuzz/artifacts; what should stay covered goes, minimized,
# to fuzz/corpus/TARGET, where the tests read it.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
seconds=${1:?usage: scripts/fuzz.sh SECONDS [TARGET...]}
shift
host=$(rustc -vV | sed -n 's/host: //p')
# What cargo-fuzz sets, without the sanitizers that need an unstable compiler. With `--target` build scripts and
# procedural macros stay as they are.
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Cdebug-assertions -Ccodegen-units=1"
RUSTFLAGS=$flags cargo build --release --locked --target "$host" ${ALBEF_FUZZ_FEATURES:+--features "$ALBEF_FUZZ_FEATURES"}
reader=${CARGO_TARGET_DIR:-target}/$host/release/reader
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    mapfile -t names < <(ALBEF_FUZZ_TARGET= "$reader" /dev/null 2>&1 | sed -n 's/.*one of //p' | tr -d ' ' | tr ',' '\n')
fi
failed=0
for name in "${names[@]}"; do
    work=$(mktemp -d)
    mkdir -p "artifacts/$name" "corpus/$name"
    cargo run --quiet --release --manifest-path ../Cargo.toml -p albef-fuzz --no-default-features --example seeds -- \
        "$name" "$work"
    echo "== $name, $seconds s"
    ALBEF_FUZZ_TARGET=$name "$reader" "$work" "corpus/$name" -max_total_time="$seconds" -max_len=65536 -timeout=10 \
        -rss_limit_mb=2048 -artifact_prefix="artifacts/$name/" -print_final_stats=1 2>&1 |
        grep -E "^(stat::|==|SUMMARY|Test unit|artifact)" || failed=1
    if [ -n "$(ls -A "artifacts/$name")" ]; then failed=1; fi
    rm -rf "$work"
done
exit $failed
