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
#[test]
fn rows_can_be_left_in_memtables() {
    let bench = data();
    let points = run(&bench, "--k 5 --l 8 --unflushed 150 --db kept");
    assert_eq!(
        (&points[0]["n"], &points[0]["unflushed"]),
        (&ROWS.into(), &150.into())
    );
    assert_eq!(points[0]["recall"], 1.0);
    assert!(points[0]["memory"]["active_memtables"]["vectors"].as_u64() >= Some(150 * 16));
    let line = format!("bench --data data --unflushed {ROWS}");
    bench.fails(&line, 2, "leaves none");
}

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
    for start in ["ingest ", "build ", "holds ", "disk "] {
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

/// A line of another library about the rows of [`data`].
fn peer(name: &str, param: &str, recall: f64, qps: f64) -> String {
    format!(
        r#"{{"peer": "{name}", "n": 600, "d": 4, "metric": "l2", "k": 5, "build_s": 2.5, "param": {param}, "recall": {recall}, "qps": {qps}, "p50_us": 10.5, "p99_us": 20.5, "rss_mb": 100.5, "anon_mb": 50.5, "disk_mb": 0.0}}"#
    )
}

/// Cells of the table's row of a library.
fn row<'a>(out: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!("| {name} |");
    let line = out.lines().find(|line| line.starts_with(&start));
    let line = line.unwrap_or_else(|| panic!("no row of {name} in {out}"));
    line.split('|').map(str::trim).collect()
}

/// Fails unless every tag is closed in its order.
fn assert_well_formed(svg: &str) {
    let mut open = Vec::new();
    for part in svg.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("a tag ends");
        assert!(!text.contains("& "), "{text}");
        let name = tag.split_whitespace().next().unwrap();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "{svg}");
        } else if !tag.ends_with('/') && !tag.starts_with(['?', '!']) {
            open.push(name);
        }
    }
    assert!(open.is_empty() && svg.contains("<svg"), "{open:?}");
}

#[test]
fn a_sweep_goes_on_until_nothing_more_is_found() {
    let bench = data();
    let points = run(&bench, "--k 5 --sweep --repeat 1");
    let sizes: Vec<u64> = points
        .iter()
        .map(|p| p["param"].as_u64().unwrap())
        .collect();
    assert_eq!(sizes[0], 5);
    assert!(sizes.is_sorted_by(|a, b| a < b), "{sizes:?}");
    let last = points.last().unwrap()["recall"].as_f64().unwrap();
    assert!(last >= 0.995 || sizes.last() == Some(&600), "{points:?}");
    // The truth is wrong: two rows of five are all that a search can find.
    let truth: Vec<[u32; 5]> = (0..QUERIES).map(|query| [40 * query + 80; 5]).collect();
    bench.ivecs("data/groundtruth.ivecs", &truth);
    let points = run(&bench, "--k 5 --sweep --repeat 1");
    assert!(points.len() < 8, "{points:?}");
    bench.fails("bench --data data --sweep --l 5", 2, "cannot be used with");
}

#[test]
fn threads_are_measured_beside_one() {
    let bench = data();
    let points = run(&bench, "--k 5 --l 8 --threads 3 --repeat 2");
    let number = |name: &str| points[0][name].as_f64().unwrap();
    assert_eq!(points[0]["threads"], 3);
    assert!((number("qps_per_thread") * 3.0 - number("qps_threads")).abs() < 1.0);
    assert!(
        (number("scaling") * number("qps") - number("qps_threads")).abs() < 0.01 * number("qps")
    );
    assert!(number("p50_us_threads") <= number("p99_us_threads"));
    let out = bench.ok("bench --data data --k 5 --l 8,16 --threads 2 --repeat 1");
    let head = out.lines().find(|line| line.contains("qps by 2")).unwrap();
    assert!(head.ends_with("scaling"), "{out}");
    let alone = run(&bench, "--k 5 --l 8 --repeat 1");
    assert!(alone[0].get("qps_threads").is_none(), "{alone:?}");
}

#[test]
fn memory_is_counted_by_the_row() {
    let bench = data();
    let point = &run(&bench, "--k 5 --l 8 --repeat 1")[0];
    let heap = point["heap_row_bytes"].as_f64().unwrap();
    assert!((0.0..10_000.0).contains(&heap), "{point}");
    // What the database says of itself, under the names that its figures have.
    let held = &point["memory"];
    let bytes = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{held}"));
    let mut parts = 0;
    for name in [
        "codes",
        "graphs",
        "vectors",
        "keys",
        "key_filters",
        "payloads",
        "other_sections",
    ] {
        let section = &held[name];
        assert!(bytes(&section["mapped"]) < 1 << 20, "{held}");
        parts += bytes(&section["resident"]);
    }
    for name in ["active_memtables", "frozen_memtables"] {
        for part in ["vectors", "codes", "index"] {
            parts += bytes(&held[name][part]);
        }
    }
    for name in ["pinned_memtables", "writes", "tables", "deletion_vectors"] {
        parts += bytes(&held[name]);
    }
    for name in ["block_cache", "builds", "searches"] {
        parts += bytes(&held[name]);
    }
    assert_eq!(bytes(&held["resident"]), parts, "{held}");
    // Segments that are read and not mapped are in the cache as far as they were read.
    let vectors = bytes(&held["vectors"]["mapped"]) + bytes(&held["vectors"]["resident"]);
    match bytes(&held["mapped"]) {
        0 => assert!(bytes(&held["block_cache"]) > 0, "{held}"),
        _ => assert!(vectors >= u64::from(ROWS) * 4 * 4, "{held}"),
    }
    assert!(
        bytes(&held["mapped"]) >= bytes(&held["vectors"]["mapped"]),
        "{held}"
    );
    for name in ["hot", "not_hot", "not_hot_segments"] {
        assert_eq!(bytes(&held[name]), 0, "600 rows have no graph: {held}");
    }
    if cfg!(target_os = "linux") {
        let anon = point["anon_mb"].as_f64().unwrap();
        let by_row = point["anon_row_bytes"].as_f64().unwrap();
        let bytes = anon * f64::from(1 << 20) / f64::from(ROWS);
        // One is rounded to a tenth of a MiB.
        assert!((by_row - bytes).abs() < 100.0, "{point}");
        let peak = point["build_peak_rss_mb"].as_f64().unwrap();
        assert!((1.0..10_000.0).contains(&peak), "{point}");
    }
}

#[test]
fn others_are_compared_and_drawn() {
    let bench = data();
    let slow = [
        peer("slow", "[20, 50]", 0.96, 2.0),
        peer("slow", "[40, 90]", 1.0, 1.0),
    ];
    bench.write("a.jsonl", slow.join("\n").as_bytes());
    bench.write("b.jsonl", peer("fast", "16", 0.99, 1e12).as_bytes());
    let line = "bench --data data --k 5 --l 600 --repeat 1 --compare a.jsonl --compare b.jsonl";
    let out = bench.ok(&format!("{line} --plot p.svg --plot q.png"));
    let ours = row(&out, "**esker**");
    assert_eq!((ours[5], ours[7]), ("1.00", "1.00"), "{out}");
    let [slow, fast] = [row(&out, "slow"), row(&out, "fast")];
    assert_eq!(
        (slow[2], slow[4], fast[6]),
        ("2.5", "2", "1,000,000,000,000")
    );
    assert!(slow[5].parse::<f64>().unwrap() > 1.0, "{out}");
    assert_eq!(fast[5], "0.00", "{out}");
    let svg = std::fs::read_to_string(bench.path("p.svg")).unwrap();
    assert_well_formed(&svg);
    for part in ["esker", "slow", "fast", "data: 600 rows"] {
        assert!(svg.contains(part), "{part}: {svg}");
    }
    let file = std::fs::File::open(bench.path("q.png")).unwrap();
    let mut reader = png::Decoder::new(std::io::BufReader::new(file))
        .read_info()
        .unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let inked = pixels.iter().filter(|byte| **byte < 100).count();
    assert!(inked > 1000, "{inked}");
    // With lines of JSON on standard output the table goes elsewhere.
    let ran = bench.run(&format!("{line} --json"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stdout.lines().all(|line| line.starts_with('{')),
        "{}",
        ran.stdout
    );
    row(&ran.stderr, "slow");
}

#[test]
fn what_cannot_be_compared_is_named_before_anything_is_loaded() {
    let bench = data();
    let good = peer("other", "16", 0.9, 10.0);
    for (bad, part) in [
        ("{\"peer\":".to_owned(), "p.jsonl, line 2: "),
        (good.replace("\"qps\"", "\"cps\""), "line 2: qps must be"),
        (good.replace("600", "601"), "line 2: it is of n 601"),
        (
            good.replace("\"k\": 5", "\"k\": 10"),
            "this run is of n 600",
        ),
        (good.replace("other", "esker"), "lines of esker"),
    ] {
        bench.write("p.jsonl", format!("{good}\n{bad}\n").as_bytes());
        bench.fails(
            "bench --data data --k 5 --db never --compare p.jsonl",
            1,
            part,
        );
    }
    bench.write("p.jsonl", b"\n");
    bench.fails(
        "bench --data data --k 5 --db never --compare p.jsonl",
        1,
        "no measurements",
    );
    bench.fails(
        "bench --data data --k 5 --db never --compare q.jsonl",
        1,
        "q.jsonl",
    );
    bench.fails(
        "bench --data data --k 5 --db never --plot p.jpg",
        2,
        ".svg or .png",
    );
    assert!(!bench.path("never").exists());
    bench.assert_clean();
}

#[test]
fn figures_are_drawn_into_a_document_and_printed() {
    let bench = data();
    // A name with every kind of character that one may have.
    let lines = [
        peer("a.b-c_d 1", "16", 0.9, 10.0),
        peer("esker", "1", 1.0, 5.0),
    ];
    bench.write("m.jsonl", lines.join("\n").as_bytes());
    let out = bench.ok("figures m.jsonl --title x.y-1 --out o --png");
    row(&out, "a.b-c_d 1");
    assert_eq!(support::names(&bench.path("o")), ["x.y-1.png", "x.y-1.svg"]);
    bench.write(
        "d.md",
        b"before\n<!-- figures:x -->\nold\n<!-- /figures:x -->\nafter\n",
    );
    assert_eq!(bench.ok("figures m.jsonl --title x --out o --doc d.md"), "");
    let text = std::fs::read_to_string(bench.path("d.md")).unwrap();
    assert!(
        text.starts_with("before\n<!-- figures:x -->\n\n![Queries per second"),
        "{text}"
    );
    assert!(text.ends_with("<!-- /figures:x -->\nafter\n"), "{text}");
    assert!(text.contains("](o/x.svg)"), "{text}");
    row(&text, "**esker**");
    bench.fails("figures m.jsonl --title ../x --out o", 2, "name of a file");
    bench.fails(
        "figures m.jsonl --title y --out o --doc d.md",
        1,
        "<!-- figures:y -->",
    );
    bench.write("m.jsonl", format!("{}\n[]", lines[0]).as_bytes());
    bench.fails("figures m.jsonl --title x --out o", 1, "m.jsonl, line 2: ");
}

#[test]
fn a_plot_is_named_after_its_data_whatever_it_is_called() {
    let bench = data();
    std::fs::rename(bench.path("data"), bench.path("a<b&c")).unwrap();
    let line = "bench --k 5 --l 8 --repeat 1 --durability os --plot p.svg --data a<b&c";
    bench.ok(line);
    let svg = std::fs::read_to_string(bench.path("p.svg")).unwrap();
    assert_well_formed(&svg);
    assert!(svg.contains("a&lt;b&amp;c: 600 rows"), "{svg}");
}
