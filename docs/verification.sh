#!/usr/bin/env bash
# What verification costs searches: this build beside one that checks no block.
#
#   docs/verification.sh DATA_DIR [ROUNDS] [-- OPTION...]
#
# Builds `esker` twice, the second time with `--cfg esker_unverified`, which leaves out
# every comparison of a block with its hash, and lets both take turns, ROUNDS times each
# (default 5). Each run loads DATA_DIR, closes, opens again and asks all queries ten
# times at each size of the search list, so that blocks are verified at their first touch,
# as after any restart, and the fastest round is one of warm segments. OPTIONs are passed
# to `esker bench`. Prints, for each size, the best QPS of both and their ratio.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
(($# >= 1)) || { sed -n '4s/^#  *//p' "$root/docs/verification.sh" >&2; exit 2; }
data=$(cd "$1" && pwd)
shift
rounds=5
if (($#)) && [[ $1 != -- ]]; then
    rounds=$1
    shift
fi
[[ ${1-} == -- ]] && shift

cd "$root"
cargo build --release --locked -p esker-cli
RUSTFLAGS="--cfg esker_unverified" \
    cargo build --release --locked -p esker-cli --target-dir target/unverified
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for ((round = 1; round <= rounds; round++)); do
    for kind in verified unverified; do
        binary=target/release/esker
        [[ $kind == verified ]] || binary=target/unverified/release/esker
        echo "round $round of $rounds: $kind" >&2
        "$binary" bench --data "$data" --reopen --repeat 10 --json "$@" >>"$out/$kind"
    done
done
field() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p"; }
printf '%6s %12s %12s %8s %10s\n' l verified unverified ratio blocks
for l in $(field param <"$out/verified" | sort -nu); do
    best() { grep "\"param\":$l," "$out/$1" | field qps | sort -g | tail -1; }
    blocks=$(grep "\"param\":$l," "$out/verified" | field blocks_verified | sort -g | tail -1)
    awk -v l="$l" -v a="$(best verified)" -v b="$(best unverified)" -v blocks="$blocks" \
        'BEGIN { printf "%6d %12.0f %12.0f %8.3f %9.1f%%\n", l, a, b, a / b, blocks * 100 }'
done
