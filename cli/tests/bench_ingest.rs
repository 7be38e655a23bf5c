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
    let report = run(&bench, "--rows 1730 --batch 90 --threads 3 --db kept");
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
}
