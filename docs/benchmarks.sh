#!/usr/bin/env bash
# Measures searches on data sets and writes the plots and tables of docs/benchmarks.md.
#
#   docs/benchmarks.sh [--peers DIR] DATA_DIR... [-- OPTION...]
#
# Each DATA_DIR is one that `esker bench --data` takes; its last part NAME names the
# results. Esker's go to docs/figures/NAME.esker.jsonl. Measurements of other libraries
# are lines of the same form in NAME.PEER.jsonl; with --peers, those of DIR are copied
# to docs/figures first. All files of a NAME are then drawn to docs/figures/NAME.svg,
# and the table replaces what docs/benchmarks.md has between the lines
# <!-- figures:NAME --> and <!-- /figures:NAME -->. OPTIONs are passed to `esker bench`.
#
# Ratios mean something only if all was measured on one machine, idle otherwise.
set -euo pipefail

usage() {
    sed -n '4s/^#  *//p' "$root/docs/benchmarks.sh" >&2
    exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
peers=
sets=()
options=()
while (($#)); do
    case $1 in
    --peers)
        (($# >= 2)) || usage
        peers=$(cd "$2" && pwd)
        shift 2
        ;;
    --)
        shift
        options=("$@")
        break
        ;;
    -*) usage ;;
    *)
        sets+=("$(cd "$1" && pwd)")
        shift
        ;;
    esac
done
((${#sets[@]})) || usage

cd "$root"
doc=docs/benchmarks.md
out=docs/figures
mkdir -p "$out"

# Before anything is measured: a run takes minutes.
for data in "${sets[@]}"; do
    name=${data##*/}
    for marker in "<!-- figures:$name -->" "<!-- /figures:$name -->"; do
        if ! grep -qF -- "$marker" "$doc"; then
            echo "benchmarks.sh: $doc has no line $marker" >&2
            exit 1
        fi
    done
done

cargo build --release --locked -p esker-cli
shopt -s nullglob
for data in "${sets[@]}"; do
    name=${data##*/}
    if [[ -n $peers ]]; then
        for file in "$peers/$name".*.jsonl; do
            # Esker's own are measured, never copied.
            [[ ${file##*/} == "$name.esker.jsonl" || $file -ef $out/${file##*/} ]] ||
                cp -- "$file" "$out/"
        done
    fi
    # Half a measurement replaces nothing.
    new=$out/$name.esker.jsonl.new
    trap 'rm -f "$new"' EXIT
    echo "$name: measuring" >&2
    cargo run --quiet --release --locked -p esker-cli -- \
        bench --data "$data" --json ${options[@]+"${options[@]}"} >"$new"
    mv "$new" "$out/$name.esker.jsonl"
    cargo run --quiet --release --locked -p esker-cli -- figures \
        --title "$name" --out "$out" --doc "$doc" "$out/$name".*.jsonl
done
