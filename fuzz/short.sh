#!/usr/bin/env bash
# Fuzzes every target for a short time, as a gate of continuous integration can.
#
#   fuzz/short.sh [TARGET ...]
#
# ESKER_FUZZ_SECONDS    seconds for each target, 10 unless told
# ESKER_FUZZ_SANITIZER  address (unless told) or none
# ESKER_FUZZ_CORPUS     where new inputs go; a directory that is thrown away unless told
# ESKER_FUZZ_LOGS       where the fuzzer's own words go; thrown away unless told
#
# Ends with an error if a target finds something, which then lies in fuzz/artifacts/.
# Without a C++ compiler there is no fuzzer: says so and ends well. The stable
# compiler does: RUSTC_BOOTSTRAP lets it take the fuzzer's flags.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly version=0.13.2
readonly seconds=${ESKER_FUZZ_SECONDS:-10}
readonly sanitizer=${ESKER_FUZZ_SANITIZER:-address}
readonly triple=$(rustc -vV | sed -n 's/^host: //p')

# libfuzzer-sys builds the fuzzer with whatever `c++` is.
if ! command -v "${CXX:-c++}" >/dev/null; then
    echo "fuzz: skipped, there is no C++ compiler"
    exit 0
fi
if ! command -v cargo-fuzz >/dev/null; then
    echo "fuzz: installing cargo-fuzz $version"
    cargo install --locked --quiet cargo-fuzz --version "$version"
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
readonly corpora=${ESKER_FUZZ_CORPUS:-$scratch/corpus}
readonly logs=${ESKER_FUZZ_LOGS:-$scratch/logs}
mkdir -p "$logs"

# One build for all of them. `cargo fuzz run` would build each by itself.
export RUSTC_BOOTSTRAP=1
readonly build=${CARGO_TARGET_DIR:-fuzz/target}
cargo fuzz build --sanitizer "$sanitizer" --target-dir "$build"

# The longest input of each: what runs long is no use in a short time.
longest() {
    case $1 in
        open_directory) echo 128 ;;
        engine_ops) echo 120 ;;
        deletion_vector) echo 512 ;;
        batch_decode) echo 1024 ;;
        manifest_replay) echo 2048 ;;
        log_replay) echo 4200 ;;
        *) echo 20000 ;;
    esac
}

targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    mapfile -t targets < <(cargo fuzz list)
fi
failed=()
for target in "${targets[@]}"; do
    mkdir -p "$corpora/$target" "fuzz/artifacts/$target"
    log=$logs/$target.log
    if ! "$build/$triple/release/$target" \
        -max_total_time="$seconds" -max_len="$(longest "$target")" \
        -timeout=10 -malloc_limit_mb=64 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="fuzz/artifacts/$target/" \
        "$corpora/$target" "fuzz/corpus/$target" >"$log" 2>&1; then
        failed+=("$target")
        tail -n 60 "$log"
    fi
    fuzz/tally.sh "$log"
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "fuzz: findings in ${failed[*]}, see fuzz/artifacts/"
    exit 1
fi
echo "fuzz: nothing found in ${#targets[@]} targets"
