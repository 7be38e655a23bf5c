//! `bench-merge`, `bench-segments` and `bench-churn`: lines whose every field is measured.

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

const ROWS: u32 = 9000;

/// Rows on a grid that is shuffled, and queries between them; no truth.
fn data() -> Bench {
    let bench = Bench::new();
    let place = |i: u32| {
        // 7919 is a prime that does not divide the number of rows.
        let at = i * 7919 % ROWS;
        vec![(at % 30) as f32, (at / 30 % 30) as f32, (at / 900) as f32]
    };
    let rows: Vec<Vec<f32>> = (0..ROWS).map(place).collect();
    bench.fvecs("data/base.fvecs", &rows);
    let queries = (0..20).map(|i| vec![i as f32 + 0.3, 28.9 - i as f32, 4.4]);
    bench.fvecs("data/query.fvecs", &queries.collect::<Vec<_>>());
    bench
}

fn run(bench: &Bench, line: &str) -> Vec<Value> {
    let out = bench.ok(line);
    bench.assert_clean();
    let lines = out.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

fn number(line: &Value, name: &str) -> f64 {
    line[name]
        .as_f64()
        .unwrap_or_else(|| panic!("{name} of {line}"))
}

#[test]
fn a_merge_is_compared_with_a_rebuild_in_turns() {
    let bench = data();
    let line = "bench-merge --data data --rows 4000 --durability os --l 10,40 --json";
    let lines = run(&bench, &format!("{line} --repeat 3"));
    assert_eq!(lines.len(), 2);
    for (line, l) in lines.iter().zip([10, 40]) {
        assert_eq!((&line["l"], &line["rounds"]), (&l.into(), &3.into()));
        assert_eq!(
            (&line["rows"], &line["kept_rows"]),
            (&4000.into(), &3600.into())
        );
        assert_eq!(line["kept_graph"], true, "{line}");
        assert_eq!(line["graph_rows"], 400, "{line}");
        assert_eq!(line["graph_rows_rebuild"], 4000, "{line}");
        for recall in ["recall_merge", "recall_rebuild"] {
            assert!((0.8..=1.0).contains(&number(line, recall)), "{line}");
        }
        assert!(number(line, "seconds") > 0.0 && number(line, "seconds_rebuild") > 0.0);
        if cfg!(target_os = "linux") {
            let ratios = ["cpu_ratio_least", "cpu_ratio", "cpu_ratio_most"];
            // Processor time has ticks, and so few rows may take none.
            let ratios = ratios.map(|name| line[name].as_f64().unwrap_or(0.0));
            assert!(ratios.is_sorted(), "{line}");
            for merge in ["", "_rebuild"] {
                let [peak, more] = ["peak_rss_mb", "peak_rss_more_mb"]
                    .map(|name| number(line, &format!("{name}{merge}")));
                assert!(0.0 <= more && more < peak, "{line}");
            }
        }
    }
    let once = run(&bench, line);
    assert_eq!(once[0]["rounds"], 1);
    assert_eq!(once[0]["recall_merge"], lines[0]["recall_merge"]);
    bench.fails("bench-merge --data data --repeat 0", 2, "--repeat");
}

/// The best figure of all lists.
fn fastest(line: &Value, name: &str, better: fn(f64, f64) -> f64) -> f64 {
    let points = line["points"].as_array().unwrap().iter();
    points
        .map(|point| number(point, name))
        .reduce(better)
        .unwrap()
}

#[test]
fn segments_are_compared_with_one() {
    let bench = data();
    let line = "bench-segments --data data --rows 8400 --durability os --segments 4,1 --l 10,40 \
                --recall 0.5,0.999999 --repeat 2 --json";
    let lines = run(&bench, line);
    assert_eq!(lines.len(), 2);
    let one = &lines[1];
    for (line, segments) in lines.iter().zip([4, 1]) {
        assert_eq!(line["segments"], segments);
        assert_eq!((&line["rows"], &line["k"]), (&8400.into(), &10.into()));
        let points = line["points"].as_array().unwrap();
        assert_eq!(points.len(), 2);
        for ((point, of_one), l) in points
            .iter()
            .zip(one["points"].as_array().unwrap())
            .zip([10, 40])
        {
            assert_eq!(point["l"], l);
            assert!((0.8..=1.0).contains(&number(point, "recall")), "{line}");
            assert!(number(point, "p50_us") <= number(point, "p99_us"));
            let slower = number(point, "p50_us") / number(of_one, "p50_us");
            assert!((number(point, "p50_to_one") - slower).abs() < 0.02 * slower);
            let cost = number(of_one, "qps") / number(point, "qps");
            assert!((number(point, "cost_to_one") - cost).abs() < 0.001 + cost * 0.001);
        }
        // Both lists find more than half: the faster is compared, and what it finds told. On a
        // busy machine that may be the larger.
        let half = &line["at_recall"][0];
        assert_eq!(half["wanted"], 0.5);
        let qps = fastest(line, "qps", f64::max);
        assert_eq!(number(half, "qps"), qps, "{line}");
        let mut of_list = points.iter().filter(|point| number(point, "qps") == qps);
        assert!(
            of_list.any(|point| point["recall"] == half["found"]),
            "{line}"
        );
        let cost = fastest(one, "qps", f64::max) / qps;
        let slower = fastest(line, "p50_us", f64::min) / fastest(one, "p50_us", f64::min);
        assert!((number(half, "cost_to_one") - cost).abs() < 0.001 + cost * 0.001);
        assert!((number(half, "p50_to_one") - slower).abs() < 0.02 * slower);
    }
    assert_eq!(one["at_recall"][0]["cost_to_one"], 1.0);
    // More is found by lists in each of four segments than in one.
    let recall = |line: &Value| number(&line["points"][0], "recall");
    assert!(recall(&lines[0]) >= recall(one), "{lines:?}");
}

#[test]
fn what_has_no_graphs_is_not_compared() {
    let bench = data();
    let fails = |line: &str, part: &str| {
        bench.fails(&format!("bench-segments --data data {line}"), 2, part);
    };
    fails("--segments 5", "--segments 5");
    fails("--rows 9001", "--rows 9001");
    fails("--k 20 --l 16", "--l 16 is below --k 20");
    fails("--recall 1.5", "--recall");
    let lines = run(
        &bench,
        "bench-segments --data data --rows 4100 --segments 2 --l 10 --json",
    );
    assert!(lines[0]["points"][0]["cost_to_one"].is_null(), "{lines:?}");
    assert!(
        lines[0]["at_recall"][0]["cost_to_one"].is_null(),
        "{lines:?}"
    );
    bench.assert_clean();
}

#[test]
fn generations_are_compared_with_a_rebuild() {
    let bench = data();
    let line = "bench-churn --data data --rows 3000 --durability os --l 20 --queries 15 --json";
    let lines = run(&bench, &format!("{line} --generations 7"));
    assert_eq!(lines.len(), 8);
    for (line, generation) in lines.iter().zip(0..) {
        assert_eq!(line["generation"], generation);
        assert_eq!((&line["live_rows"], &line["l"]), (&2700.into(), &20.into()));
        assert_eq!(line["replaced"], if generation == 0 { 0 } else { 270 });
        let [kept, built] = ["recall", "recall_rebuild"].map(|name| number(line, name));
        // Who is near depends on who is there.
        assert!((0.98..=1.0).contains(&kept), "{line}");
        assert!((0.98..=1.0).contains(&built), "{line}");
        assert!(
            (number(line, "loss_points") - 100.0 * (built - kept)).abs() < 0.02,
            "{line}"
        );
        // So few rows were one segment before anything was replaced.
        let built = if generation == 0 { 0 } else { 2700 };
        assert_eq!(line["graph_rows_rebuild"], built, "{line}");
        let rows = if line["kept_graph"] == true {
            270
        } else {
            built
        };
        assert_eq!(line["graph_rows"], rows, "{line}");
    }
    // Nothing is kept of no graph, and a graph five times.
    let kept: Vec<bool> = lines
        .iter()
        .map(|line| line["kept_graph"] == true)
        .collect();
    assert_eq!(kept.iter().filter(|kept| **kept).count(), 6, "{kept:?}");
    assert_eq!((kept[0], kept[6]), (false, false), "{kept:?}");
    assert_eq!(
        lines[0]["recall"], lines[0]["recall_rebuild"],
        "one graph, twice"
    );
    // The same rows are drawn again.
    let recalls = |lines: &[Value]| {
        let recalls = lines.iter().map(|line| line["recall_rebuild"].clone());
        recalls.collect::<Vec<_>>()
    };
    let again = run(&bench, &format!("{line} --generations 2"));
    assert_eq!(recalls(&again), recalls(&lines)[..3]);
}

#[test]
fn deletions_give_their_space_back() {
    let bench = data();
    let line = "bench-churn --data data --rows 9000 --durability os --queries 2 --json \
                --generations 0 --delete 0.1,0.6,1";
    let lines = run(&bench, line);
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0]["generation"], 0);
    let mut before = None;
    for (line, (share, left)) in lines[1..].iter().zip([(0.1, 7290), (0.6, 3240), (1.0, 0)]) {
        assert_eq!(
            (&line["deleted"], &line["live_rows"]),
            (&share.into(), &left.into())
        );
        let [disk, segments, log, fresh] =
            ["disk_mb", "segment_mb", "log_mb", "fresh_mb"].map(|name| number(line, name));
        assert!(
            before.is_none_or(|before| line["disk_mb_before"] == before),
            "{line}"
        );
        before = Some(line["disk_mb"].clone());
        assert!(segments + log <= disk + 0.02, "{line}");
        assert!(disk - log - segments < 0.05, "{line}");
        // A tenth is not worth a merge, the other half is.
        assert_eq!(line["merges"] == 0, share == 0.1, "{line}");
        let written = number(line, "written_mb");
        assert_eq!(written > 0.3, share == 0.6, "{line}");
        if left == 0 {
            assert_eq!((segments, fresh), (0.0, 0.0), "{line}");
            assert!(line["disk_to_fresh"].is_null(), "{line}");
            continue;
        }
        assert_eq!(line["segments"], 1);
        let most = if share == 0.1 { 1.2 } else { 1.05 };
        let ratio = number(line, "disk_to_fresh");
        assert!((0.95..most).contains(&ratio), "{line}");
        assert!((segments / fresh - ratio).abs() < 0.1, "{line}");
        let flushed = number(line, "disk_mb_flushed");
        assert!(share < 0.5 || flushed > disk, "{line}");
    }
    bench.fails(&format!("{line},0.5"), 2, "--delete 1,0.5");
    bench.fails(
        "bench-churn --data data --delete 0",
        2,
        "above 0 and at most 1",
    );
    bench.assert_clean();
}

#[test]
fn a_generation_needs_rows_in_reserve() {
    let bench = data();
    let fails = |line: &str, part: &str| {
        bench.fails(&format!("bench-churn --data data {line}"), 2, part);
    };
    fails("--live 0.95", "450 in reserve");
    fails("--live 0.5 --share 0.00001", "at least one");
    fails("--l 9", "--l 9 is below --k 10");
    fails("--queries 21", "--queries 21");
    bench.assert_clean();
}
