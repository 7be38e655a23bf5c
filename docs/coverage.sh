#!/usr/bin/env bash
# Measures which lines and branches of the code that must not lose data the tests run.
#
#   docs/coverage.sh [--report] [-- CARGO_TEST_OPTION...]
#
# Prints a table of the files in `scope`, and below it every line and branch that no test
# reached. docs/testing.md says why those that are left are left. Generic code counts as
# reached if any of its instances is; test modules at the end of a file do not count, nor
# does what only a build with planted bugs runs.
#
# Runs what `runs` lists, one after the other; --report prints what the last run measured.
# ESKER_MODEL_CASES sets how many cases the model has (200 here).
#
# Needs, once:
#   rustup component add llvm-tools
#   cargo install cargo-llvm-cov --locked
# Branches are measured by an unstable option of rustc, hence RUSTC_BOOTSTRAP.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# The log, the manifest, recovery, deletion vectors, the commit, and what they stand on.
scope=(
    wal/src/*.rs
    engine/src/manifest/*.rs
    engine/src/recovery.rs engine/src/recovery/*.rs
    engine/src/commit.rs
    engine/src/flush.rs engine/src/flush/*.rs
    engine/src/write/*.rs
    engine/src/{dir,files,gc,log_file,poison}.rs
    segment/src/deletion*.rs
)
# Files of `scope` that only tests are built from.
tests_only=(wal/src/format_doc.rs wal/src/mutants.rs)

runs=(
    "-p esker-wal"
    "-p esker-segment --lib"
    "-p esker --lib"
    "-p esker-tests --test regressions --test errors --test io_errors --test refused_opens --test meanwhile"
    "-p esker-tests --test recovery --test recovery_memory --test peer_bugs --test concurrency"
    "-p esker-tests --test campaign --test model --test graphs --test search"
)

usage() {
    sed -n '4s/^#  *//p' "$root/docs/coverage.sh" >&2
    exit 2
}

measure=1
failed=
extra=()
while (($#)); do
    case $1 in
    --report) measure= ;;
    --)
        shift
        extra=("$@")
        break
        ;;
    *) usage ;;
    esac
    shift
done

if ! cargo llvm-cov --version >/dev/null 2>&1; then
    echo "coverage.sh: cargo llvm-cov is missing: cargo install cargo-llvm-cov --locked" >&2
    exit 1
fi

export RUSTC_BOOTSTRAP=1 ESKER_MODEL_CASES=${ESKER_MODEL_CASES:-200}
if [[ $measure ]]; then
    cargo llvm-cov clean --workspace
    for run in "${runs[@]}"; do
        read -ra options <<<"$run"
        cargo llvm-cov --branch --no-report --no-fail-fast --locked "${options[@]}" "${extra[@]}" >&2 ||
            failed="$failed
    $run"
    done
fi

data=$(mktemp)
trap 'rm -f "$data"' EXIT
# A process that a test ends leaves half a profile.
cargo llvm-cov report --branch --failure-mode all --lcov --output-path "$data"

# Where the tests at the end of a file begin, or nothing.
tests_begin() {
    awk '/^mod [a-z_]+ \{$/ && before ~ /^#\[cfg\((all\()?test/ { print NR - 1; exit } { before = $0 }' "$1"
}

# "FILE LAST" for each file, LAST being the last line that counts.
files() {
    local file first
    for file in "${scope[@]}"; do
        if [[ " ${tests_only[*]} " != *" $file "* ]]; then
            first=$(tests_begin "$file")
            echo "$file $((${first:-1000001} - 1))"
        fi
    done
}

# Records of an lcov file: SF names the file, DA is `line,count`, BRDA is
# `line,block,outcome,count` with `-` for a branch whose line was never reached.
files | awk -F '[:,]' -v root="$root/" '
    function percent(missed, all) {
        return all ? sprintf("%.1f %%", 100 * (all - missed) / all) : ""
    }
    # What is left out by a planted bug alone is never reached in this build: the line
    # that asks for it, one outcome for each question, and the block behind it.
    function find_planted(f,    n, text, indent, end, arm, way, copy) {
        while ((getline text < (root f)) > 0) {
            n++
            source[f, n] = text
            match(text, /^ */)
            indent = substr(text, 1, RLENGTH)
            if (end != "" || index(text, "true => ") == length(arm) + 1 && arm != "" && indent == arm) {
                if (end == "" && text ~ /\{$/) { end = indent "}" }
                else if (end != "" && index(text, end) == 1) { end = "" }
                planted[f, n] = 1
            }
            # The way around a block that is always entered.
            if (way != "" && index(text, way) == 1) { planted[f, n] = 1; way = "" }
            copy = text
            if (asks[f, n] = gsub(/planted\(/, "", copy)) {
                planted[f, n] = 1
                arm = text ~ /match planted\(/ ? indent "    " : ""
                if (text ~ /if planted\(/ && text !~ /=>.*,$/) { end = indent "}" }
                if (text ~ /if !planted\(.*\{$/) { way = indent "}" }
            }
        }
        close(root f)
    }
    FNR == NR {
        split($0, part, " ")
        order[++n] = part[1]
        last[part[1]] = part[2]
        find_planted(part[1])
        next
    }
    $1 == "SF" { file = substr($0, 4); sub(root, "", file); wanted = file in last }
    !wanted { next }
    $1 == "DA" && $2 <= last[file] && !((file, $2) in planted) { line[file, $2] += $3 }
    $1 == "BRDA" && $2 <= last[file] { branch[file, $2, $3 "." $4] += $5 }
    END {
        for (key in line) {
            split(key, part, SUBSEP)
            lines[part[1]]++
            if (!line[key]) { missed_lines[part[1]]++; missed[part[1], part[2]] = "line" }
        }
        for (key in branch) {
            split(key, part, SUBSEP)
            place = part[1] SUBSEP part[2]
            if (place in planted && !asks[place]) { continue }
            if (!branch[key] && asks[place]) { asks[place]--; continue }
            branches[part[1]]++
            if (!branch[key]) {
                missed_branches[part[1]]++
                if (missed[place] != "line") {
                    # Outcomes come in pairs, the one where the condition holds first.
                    sub(/.*\./, "", part[3])
                    missed[place] = missed[place] (part[3] % 2 ? " never false" : " never true")
                }
            }
        }
        print "| file | lines | missed | | branches | missed | |"
        print "|---|--:|--:|--:|--:|--:|--:|"
        for (i = 1; i <= n; i++) {
            f = order[i]
            if (!lines[f]) { continue }
            printf "| `%s` | %d | %d | %s | %d | %d | %s |\n", f, lines[f], missed_lines[f],
                percent(missed_lines[f], lines[f]), branches[f], missed_branches[f],
                percent(missed_branches[f], branches[f])
            l += lines[f]; ml += missed_lines[f]; b += branches[f]; mb += missed_branches[f]
        }
        printf "| **all** | %d | %d | %s | %d | %d | %s |\n", l, ml, percent(ml, l), b, mb, percent(mb, b)
        if (ml + mb) { print "\nNot reached:\n" }
        for (i = 1; i <= n; i++) {
            f = order[i]
            for (number = 1; (f, number) in source; number++) {
                what = missed[f, number]
                if (what != "") {
                    sub(/^ /, "", what)
                    text = source[f, number]
                    sub(/^ */, "", text)
                    printf "%s:%d: %s: %s\n", f, number, what, text
                }
            }
        }
    }
' - "$data"

if [[ $failed ]]; then
    printf 'coverage.sh: these runs failed, so they reached less than they could:%s\n' "$failed" >&2
    exit 1
fi
