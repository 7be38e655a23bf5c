#!/usr/bin/env bash
# Adds up what libFuzzer's logs say: executions, coverage, findings.
#
#   fuzz/tally.sh LOG ...
#
# A log's name up to its first dot is its target. A run that was killed, or goes on,
# counts with its last line of progress. A unit that was only slow is no finding: on a
# busy machine any may be, and one that hangs is ended by -timeout.
set -euo pipefail
awk '
    FNR == 1 {
        close_run()
        target = FILENAME
        sub(/.*\//, "", target)
        sub(/\..*/, "", target)
        runs[target]++
    }
    /^#[0-9]+/ {
        done = substr($1, 2) + 0
        if (match($0, /cov: [0-9]+/)) cov = substr($0, RSTART + 5, RLENGTH - 5) + 0
        if (match($0, / ft: [0-9]+/)) ft = substr($0, RSTART + 5, RLENGTH - 5) + 0
    }
    /^stat::number_of_executed_units/ { done = $2 + 0 }
    /Test unit written to/ && !/slow-unit-/ { found[target]++ }
    function close_run() {
        if (target == "") return
        executed[target] += done
        if (cov > most[target]) most[target] = cov
        if (ft > features[target]) features[target] = ft
        done = cov = ft = 0
    }
    END {
        close_run()
        for (target in runs) {
            printf "%-16s %12d executions, coverage %5d, features %6d, findings %d\n",
                target, executed[target], most[target], features[target], found[target]
            all += executed[target]
            n++
        }
        if (n > 1) printf "%-16s %12d executions\n", "in all", all
    }
' "$@" | sort
