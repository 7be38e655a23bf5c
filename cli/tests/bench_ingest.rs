//! `bench-ingest`: an object for each number of writers, every field of it measured.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code, also outside of #[test] functions"
)]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use serde_json::Value;
use support::Bench;

fn data() -> Bench {
    let bench = Bench::new();
    let rows: Vec<Vec<f32>> = (0..500).map(|i| vec![i as f32 + 1.0; 16]).collect();
    bench.fvecs("data/base.fvecs", &rows);
    bench
}

fn run(bench: &Bench, line: &str) -> Value {
    let out = bench.ok(&format!("bench-ingest --data data --json {line}"));
    bench.assert_clean();
    assert_eq!(out.lines().count(), 1, "{out}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn every_field_is_there_and_possible() {
    let bench = data();
    let report = run(&bench, "--durability os");
    for field in ["rows_per_s", "raw_rows_per_s"] {
        assert!(report[field].as_f64().unwrap() > 0.0, "{report}");
    }
    let [before, after] = ["before", "after"].map(|when| {
        report[format!("raw_rows_per_s_{when}").as_str()]
            .as_f64()
            .unwrap()
    });
    let mean = report["raw_rows_per_s"].as_f64().unwrap();
    assert!((mean - (before + after) / 2.0).abs() <= 1.0, "{report}");
    assert!(report["stall_s"].as_f64().unwrap() >= 0.0, "{report}");
    assert_eq!(
        (&report["stalls"], &report["slowdowns"]),
        (&0.into(), &0.into())
    );
    assert!(report["segments"].as_u64().unwrap() >= 1, "{report}");
    // Every row reaches the log and a segment.
    assert!(
        report["write_amplification"].as_f64().unwrap() >= 2.0,
        "{report}"
    );
    assert!(
        !cfg!(target_os = "linux") || report["peak_rss_mb"].as_f64().unwrap() > 1.0,
        "{report}"
    );
    assert_eq!(report["rows"], 500);
    assert_eq!(report["dimension"], 16);
    assert_eq!(report["batch"], 500, "no larger than the run");
    assert_eq!(report["durability"], "os");
    assert_eq!(report["writers"], 1);
    assert_eq!(report["to_one_writer"], 1.0);
    let ratio = report["rows_per_s"].as_f64().unwrap() / mean;
    let said = report["to_raw"].as_f64().unwrap();
    assert!((said - ratio).abs() <= 0.001 + ratio * 0.001, "{report}");
}

#[test]
fn a_run_longer_than_the_file_has_distinct_keys_from_all_threads() {
    let bench = data();
    let report = run(
        &bench,
        "--rows 1730 --batch 90 --threads 3 --noise 0 --db kept",
    );
    assert_eq!(report["rows"], 1730);
    assert_eq!(report["durability"], "sync");
    assert_eq!(report["writers"], 3);
    assert!(report["to_one_writer"].is_null(), "one was not measured");
    let stats: Value = serde_json::from_str(&bench.ok("stats kept --json")).unwrap();
    assert_eq!(stats["collections"]["bench"]["rows"], 1730);
    // Row 1729 is the file's row 229, whose components are all 230.
    let got = bench.ok(r"get kept bench \x00\x00\x00\x00\x00\x00\x06\xc1");
    assert!(
        got.ends_with(&format!("vector   {}\n", ["230"; 16].join(","))),
        "{got}"
    );
    bench.fails("bench-ingest --data data --db kept", 1, "earlier run");
    bench.fails("bench-ingest --data data --db new --writers 1,2", 2, "--db");
}

/// Components of a row of a kept database.
fn vector(bench: &Bench, db: &str, key: &str) -> Vec<f64> {
    let got: Value =
        serde_json::from_str(&bench.ok(&format!("get {db} bench {key} --json"))).unwrap();
    let components = got["vector"].as_array().unwrap().iter();
    components.map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn rows_beyond_the_file_lie_close_by_and_in_every_run_at_the_same_place() {
    let bench = data();
    let line = "--rows 1101 --batch 90 --durability os";
    let report = run(&bench, &format!("{line} --db one"));
    assert_eq!(report["noise"], 0.1);
    run(&bench, &format!("{line} --threads 3 --db two"));
    // Rows 100, 600 and 1100: all are the file's row 100.
    let [own, repeat, again] = [
        r"\x00\x00\x00\x00\x00\x00\x00d",
        r"\x00\x00\x00\x00\x00\x00\x02X",
        r"\x00\x00\x00\x00\x00\x00\x04L",
    ];
    assert_eq!(vector(&bench, "one", own), [101.0; 16]);
    let moved = vector(&bench, "one", repeat);
    assert_eq!(moved, vector(&bench, "two", repeat));
    assert_ne!(moved, vector(&bench, "one", again));
    let squares: f64 = moved.iter().map(|x| (x - 101.0) * (x - 101.0)).sum();
    // Vectors are 4 x 250.5 long in the mean, and move by a tenth.
    assert!((50.0..200.0).contains(&squares.sqrt()), "{moved:?}");
    bench.fails("bench-ingest --data data --noise 2", 2, "--noise");
}

/// With queries beside the rows.
fn queries() -> Bench {
    let bench = data();
    let queries: Vec<Vec<f32>> = (0..7).map(|i| vec![70.0 * i as f32; 16]).collect();
    bench.fvecs("data/query.fvecs", &queries);
    bench
}

#[test]
fn searches_are_measured_while_rows_come_and_when_all_is_quiet() {
    let bench = queries();
    let report = run(
        &bench,
        "--rows 3000 --batch 50 --write-rate 6000 --search --search-rate 200 --budget 32 --l 20",
    );
    let number = |name: &str| report[name].as_f64().unwrap_or(f64::NAN);
    // What there is of each phase; so few rows may have settled before any search began.
    for (phase, part) in [
        ("", ""),
        ("settling_", ""),
        ("quiet_", ""),
        ("", "_last_tenth"),
    ] {
        let of = |name: &str| number(&format!("{phase}{name}{part}"));
        if phase == "settling_" && of("searches") == 0.0 {
            assert!(report["settling_p50_us"].is_null(), "{report}");
            assert!(report["settling_p99_due_us"].is_null(), "{report}");
            continue;
        }
        let taken = ["p50_us", "p99_us", "max_us"].map(of);
        let due = ["p50_due_us", "p99_due_us", "max_due_us"].map(of);
        assert!(0.0 < taken[0] && taken.is_sorted(), "{phase}: {report}");
        assert!(due.is_sorted(), "{phase}: {report}");
        // Whoever waits from when it was due waits for the search, too.
        assert!(taken[2] <= due[2], "{phase}: {report}");
        assert!(of("late_searches") <= of("searches"), "{phase}: {report}");
        assert!(of("missed_searches") >= 0.0, "{phase}: {report}");
    }
    // Half a second of writes, each query once. What waits for the verdict that all is
    // quiet is no part of the settling.
    assert!(number("rows_per_s") <= 6200.0, "{report}");
    let most = |seconds: f64| 200.0 * seconds + 3.0;
    let written = 3000.0 / number("rows_per_s");
    assert!(number("searches") <= most(written), "{report}");
    assert!(
        number("searches_last_tenth") <= most(written / 10.0),
        "{report}"
    );
    assert!(
        number("searches_last_tenth") <= number("searches"),
        "{report}"
    );
    assert!(number("settling_searches") <= most(number("settle_s") + 0.1));
    // On a machine that does other work, many are missed.
    let due = number("searches") + number("missed_searches");
    assert!(due >= most(written) * 0.5, "{report}");
    assert!(number("searches") >= 10.0, "{report}");
    assert_eq!(report["quiet_searches"], 7);
    assert!(number("settle_s") >= 0.0, "{report}");
    let ratio = number("p50_us") / number("quiet_p50_us");
    assert!(
        (number("p50_to_quiet") - ratio).abs() < 0.02 + 0.01 * ratio,
        "{report}"
    );
    let samples = report["segments_over_time"].as_array().unwrap();
    assert!((2..=24).contains(&samples.len()), "{report}");
    let last = samples.last().unwrap();
    assert_eq!(last[1], report["settled_segments"]);
    assert!(last[0].as_f64().unwrap() >= 1.5, "{report}");
    assert!(
        number("segments_most") >= number("segments_mean"),
        "{report}"
    );
    assert!(number("settled_write_amplification") >= number("write_amplification"));
    assert!(number("settled_written_to_flushed") >= 1.0, "{report}");
    let merged = number("settled_merge_written_mb") > 0.0;
    assert_eq!(merged, number("merges") > 0.0, "{report}");
    assert_eq!(report["budget_mb"], 32.0);
    assert_eq!((&report["l"], &report["k"]), (&20.into(), &10.into()));
    // All rows have a graph in the end, whose edges were chosen once or more.
    assert!(number("builds_a_row") >= 1.0, "{report}");
    let [segments, memtables, both] = [
        "segment_rows_without_graph_most",
        "memtable_rows_most",
        "rows_scanned_most",
    ]
    .map(number);
    assert!(segments <= 3000.0 && both <= 3000.0, "{report}");
    // All rows were in a memtable before the one flush.
    assert!(
        memtables > 300.0 && both >= memtables.max(segments),
        "{report}"
    );
    if cfg!(target_os = "linux") {
        assert!(number("peak_rss_to_budget") > 0.0, "{report}");
        assert!(number("peak_anon_to_budget") > 0.0, "{report}");
        assert!(number("peak_anon_mb") <= number("peak_rss_mb"), "{report}");
    }
}

#[test]
fn without_a_pause_there_is_no_search_that_is_missed() {
    let bench = queries();
    let report = run(
        &bench,
        "--rows 500 --durability os --search --search-rate 0 --queries 3",
    );
    for phase in ["", "settling_", "quiet_"] {
        for count in ["missed_searches", "late_searches"] {
            assert_eq!(report[format!("{phase}{count}").as_str()], 0, "{report}");
        }
    }
    assert_eq!(report["quiet_searches"], 3);
    assert_eq!(report["quiet_p99_us"], report["quiet_p99_due_us"]);
}

#[test]
fn a_pace_that_cannot_be_kept_is_told() {
    let bench = queries();
    let line = "--rows 500 --batch 50 --write-rate 1000 --durability os --search";
    let report = run(&bench, &format!("{line} --search-rate 1000000"));
    let number = |name: &str| report[name].as_f64().unwrap();
    // Seven queries take more than seven microseconds.
    assert!(number("quiet_missed_searches") > 7.0, "{report}");
    assert!(number("missed_searches") > 1000.0, "{report}");
    // Most of those that were due in half a second waited for one that ran.
    assert!(number("max_due_us") > number("p50_us"), "{report}");
    assert!(number("late_searches") > 0.0, "{report}");
}

#[test]
fn what_is_searched_for_is_read_before_anything_is_written() {
    let bench = data();
    let fails = |line: &str, code, part: &str| {
        let line = format!("bench-ingest --data data --db never {line}");
        bench.fails(&line, code, part);
    };
    fails("--search", 1, "query.fvecs");
    fails("--search --l 4", 2, "--l 4 is below --k 10");
    fails("--search-rate 5", 2, "--search");
    assert!(!bench.path("never").exists());
    let report = run(&bench, "--durability os");
    assert!(report.get("p50_us").is_none(), "{report}");
}

#[test]
fn what_merges_write_is_told_without_searches_too() {
    let bench = data();
    let report = run(&bench, "--rows 3000 --durability os --settle");
    let number = |name: &str| report[name].as_f64().unwrap_or(f64::NAN);
    let share = |written: f64| written / number("put_mb");
    let at_flush =
        number("log_written_mb") + number("flush_written_mb") + number("merge_written_mb");
    // Megabytes are told to a tenth.
    let error = share(0.2);
    assert!(
        (share(at_flush) - number("write_amplification")).abs() < error,
        "{report}"
    );
    let more = number("settled_merge_written_mb") - number("merge_written_mb");
    let settled = number("settled_write_amplification");
    assert!((share(at_flush + more) - settled).abs() < error, "{report}");
    let segments = number("flush_written_mb") + number("settled_merge_written_mb");
    let flushed = segments / number("flush_written_mb");
    let said = number("settled_written_to_flushed");
    assert!((said - flushed).abs() < 0.1 * flushed, "{report}");
    assert!(number("settle_s") >= 0.0 && number("settled_segments") >= 1.0);
    assert!(report.get("p50_us").is_none(), "{report}");
    let report = run(&bench, "--rows 3000 --durability os");
    assert!(report.get("settle_s").is_none(), "{report}");
}

#[test]
fn each_number_of_writers_is_measured_and_compared_with_one() {
    let bench = data();
    let out = bench.ok("bench-ingest --data data --json --rows 40 --batch 1 --writers 1,4");
    bench.assert_clean();
    let reports: Vec<Value> = out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(reports.len(), 2, "{out}");
    for (report, writers) in reports.iter().zip([1, 4]) {
        assert_eq!(report["writers"], writers);
        assert_eq!((&report["rows"], &report["batch"]), (&40.into(), &1.into()));
    }
    let out_of_both = bench
        .ok("bench-ingest --data data --json --rows 40 --durability os --writers 1,2 --settle");
    let held: Vec<f64> = out_of_both
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|report| report["rss_before_mb"].as_f64())
        .collect();
    // Before the first database, for both.
    assert_eq!(held.first(), held.last(), "{out_of_both}");
    assert!(!cfg!(target_os = "linux") || held.len() == 2);
    let rate = |report: &Value| report["rows_per_s"].as_f64().unwrap();
    let ratio = rate(&reports[1]) / rate(&reports[0]);
    let said = reports[1]["to_one_writer"].as_f64().unwrap();
    assert!((said - ratio).abs() <= 0.01 + ratio * 0.01, "{out}");
}

#[test]
fn data_that_cannot_be_used_is_named() {
    let bench = data();
    bench.fails("bench-ingest --data nowhere", 1, "nowhere");
    bench.write("odd/base.bvecs", &[1, 0, 0, 0, 7, 2]);
    bench.fails("bench-ingest --data odd", 1, "base.bvecs");
    bench.write("data/metric", b"hamming");
    bench.fails("bench-ingest --data data", 1, "hamming");
    bench.assert_clean();
}

#[test]
fn a_person_gets_a_table() {
    let bench = data();
    let out = bench.ok("bench-ingest --data data --durability os");
    assert!(
        out.lines().any(|line| line.starts_with("rows_per_s ")),
        "{out}"
    );
    let bench = queries();
    let out = bench.ok("bench-ingest --data data --durability os --search --queries 3");
    for name in [
        "missed_searches ",
        "late_searches ",
        "p99_due_us ",
        "max_due_us ",
    ] {
        let of_it = out.lines().find(|line| line.starts_with(name));
        let of_it = of_it.unwrap_or_else(|| panic!("no {name}: {out}"));
        assert!(of_it.split_whitespace().count() == 2, "{of_it}");
    }
}
