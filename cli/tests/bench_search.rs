//! `bench`: a line for each size of the search list, every field of it measured.

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

const ROWS: u32 = 600;
const QUERIES: u32 = 12;

/// Where row `i` lies. Rows come in pairs of one place, so every second true
/// neighbour ties with the one before.
fn place(i: u32) -> Vec<f32> {
    let x = (i / 2) as f32;
    vec![x + 1.0, 0.5 * x, 1.0, 0.0]
}

/// Each query is at the place of a row, and the truth names the nearest five rows of
/// the base file, though of the last pair only one.
fn data() -> Bench {
    let bench = Bench::new();
    let rows: Vec<Vec<f32>> = (0..ROWS).map(place).collect();
    bench.fvecs("data/base.fvecs", &rows);
    let near: Vec<u32> = (0..QUERIES).map(|query| 40 * query + 80).collect();
    let queries: Vec<Vec<f32>> = near.iter().map(|i| place(*i)).collect();
    bench.fvecs("data/query.fvecs", &queries);
    let truth: Vec<[u32; 5]> = near
        .iter()
        .map(|i| [*i, i + 1, i + 2, i + 3, i - 1])
        .collect();
    bench.ivecs("data/groundtruth.ivecs", &truth);
    bench.write("data/metric", b"l2\n");
    bench
}

fn run(bench: &Bench, line: &str) -> Vec<Value> {
    let out = bench.ok(&format!("bench --data data --json {line}"));
    bench.assert_clean();
    let lines = out.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

#[test]
fn every_field_of_every_point_is_there_and_possible() {
    let bench = data();
    let points = run(&bench, "--k 5 --l 8,64 --durability os --repeat 2");
    assert_eq!(points.len(), 2);
    for (point, l) in points.iter().zip([8, 64]) {
        assert_eq!(point["peer"], "esker");
        assert_eq!(point["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!((&point["n"], &point["d"]), (&ROWS.into(), &4.into()));
        assert_eq!((&point["metric"], &point["k"]), (&"l2".into(), &5.into()));
        assert_eq!(point["param"], l);
        assert_eq!(point["durability"], "os");
        assert_eq!(point["segments"], 1);
        let number = |name: &str| point[name].as_f64().unwrap_or(f64::NAN);
        // The fifth neighbour ties with two more rows, any of which is right.
        assert!((0.9..=1.0).contains(&number("recall")), "{point}");
        assert!(number("build_s") >= 0.0, "{point}");
        for name in ["qps", "p50_us", "p99_us", "ingest_vps", "disk_mb"] {
            assert!(number(name) > 0.0, "{name} of {point}");
        }
        assert!(number("p50_us") <= number("p99_us"), "{point}");
        if cfg!(target_os = "linux") {
            assert!(number("rss_mb") > 1.0, "{point}");
            assert!(number("anon_mb") < number("rss_mb"), "{point}");
        }
    }
}

/// How good answers are is a graph's matter; here it matters whom they are judged by.
fn recall(points: &[Value]) -> f64 {
    points[0]["recall"].as_f64().unwrap()
}

#[test]
fn fewer_rows_and_queries_have_a_truth_of_their_own() {
    let bench = data();
    // Six of the queries are at places of rows that are not loaded.
    let points = run(&bench, "--rows 300 --k 5 --l 300 --writers 3 --batch 7");
    assert_eq!(points[0]["n"], 300);
    assert!(recall(&points) > 0.9, "{points:?}");
    let one = run(&bench, "--queries 1 --k 2 --l 600 --repeat 1");
    assert_eq!(one[0]["p50_us"], one[0]["p99_us"], "there is one latency");
}

#[test]
fn a_wrong_truth_shows_in_the_recall() {
    let bench = data();
    // As if nothing but a query's own place were near: two rows of five.
    let truth: Vec<[u32; 5]> = (0..QUERIES).map(|query| [40 * query + 80; 5]).collect();
    bench.ivecs("data/groundtruth.ivecs", &truth);
    let points = run(&bench, "--k 5 --l 600");
    assert!((0.3..=0.4).contains(&recall(&points)), "{points:?}");
}

#[test]
fn the_database_can_be_kept_and_is_not_used_twice() {
    let bench = data();
    run(&bench, "--k 3 --l 9 --repeat 1 --db kept");
    let stats: Value = serde_json::from_str(&bench.ok("stats kept --json")).unwrap();
    assert_eq!(stats["collections"]["bench"]["rows"], ROWS);
    bench.fails("bench --data data --k 3 --db kept", 1, "already holds");
    bench.ok("create other things -d 2 -m l2");
    bench.fails("bench --data data --k 3 --db other", 1, "already holds");
}

#[test]
fn data_that_cannot_be_used_is_named_before_anything_is_loaded() {
    let bench = data();
    for (line, code, part) in [
        ("--k 6", 1, "names 5 neighbours"),
        ("--k 5 --queries 13", 2, "--queries 13"),
        ("--k 5 --rows 601", 2, "--rows 601"),
        ("--k 5 --rows 4", 2, "--k 5"),
    ] {
        let line = format!("bench --data data --db never {line}");
        bench.fails(&line, code, part);
    }
    let refuse = |part: &str| bench.fails("bench --data data --k 5 --db never", 1, part);
    bench.ivecs("data/groundtruth.ivecs", &[[0_u32; 5]]);
    refuse("1 queries, and 12");
    bench.ivecs("data/groundtruth.ivecs", &[[ROWS; 5]; QUERIES as usize]);
    refuse("row 600");
    bench.fvecs("data/query.fvecs", &[vec![1.0; 5]]);
    refuse("5 dimensions");
    std::fs::remove_file(bench.path("data/groundtruth.ivecs")).unwrap();
    bench.fvecs("data/query.fvecs", &[vec![1.0; 4]]);
    refuse("groundtruth.ivecs");
    std::fs::remove_file(bench.path("data/query.fvecs")).unwrap();
    refuse("query.fvecs nor query.bvecs");
    assert!(!bench.path("never").exists());
    bench.assert_clean();
}

#[test]
fn a_person_gets_a_table() {
    let bench = data();
    let out = bench.ok("bench --data data --k 5 --l 8,16 --durability os");
    assert!(out.starts_with("600 rows of 4 dimensions, l2\n"), "{out}");
    for start in ["ingest ", "build ", "disk "] {
        assert!(out.lines().any(|line| line.starts_with(start)), "{out}");
    }
    let table: Vec<Vec<&str>> = out
        .lines()
        .skip_while(|line| !line.trim_start().starts_with("l "))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(table.len(), 3, "{out}");
    assert_eq!((table[1][0], table[2][0]), ("8", "16"));
    assert_eq!(table[1].len(), 8, "{out}");
}
