//! The everyday commands, run as a user runs them.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code, also outside of #[test] functions"
)]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use support::Bench;

/// 300 points on a line, so that the nearest are known without a search.
fn line_of_points() -> Vec<Vec<f32>> {
    (0..300).map(|i| vec![i as f32, 0.5, -1.0]).collect()
}

/// A database `db` with a collection `points`, imported with keys and payloads.
fn imported() -> Bench {
    let bench = Bench::new();
    bench.fvecs("base.fvecs", &line_of_points());
    let keys: String = (0..300)
        .map(|i| format!("p{i}\tpoint number {i}\n"))
        .collect();
    bench.write("keys.tsv", keys.as_bytes());
    bench.ok("create db points --dimension 3 --metric l2");
    let out = bench.ok("import db points base.fvecs --keys keys.tsv --batch 70");
    assert_eq!(out, "imported 300 rows; collection points has 300\n");
    bench
}

#[test]
fn rows_come_back_by_key() {
    let bench = imported();
    let out = bench.ok("get db points p17");
    assert_eq!(
        out,
        "key      p17\npayload  point number 17\nvector   17,0.5,-1\n"
    );
    let json: serde_json::Value =
        serde_json::from_str(&bench.ok("get db points p17 --json")).unwrap();
    assert_eq!(json["payload"], "point number 17");
    assert_eq!(json["vector"], serde_json::json!([17.0, 0.5, -1.0]));
    bench.fails("get db points p300", 1, "p300");
    bench.fails("get db nowhere p1", 1, "nowhere");
}

#[test]
fn searches_find_the_nearest_rows_in_order() {
    let bench = imported();
    let expected = "0\tp40\tpoint number 40\n1\tp39\tpoint number 39\n1\tp41\tpoint number 41\n";
    assert_eq!(
        bench.ok("search db points --vector 40,0.5,-1 -k 3"),
        expected
    );
    assert_eq!(bench.ok("search db points --like p40 -k 3"), expected);
    assert_eq!(
        bench.ok("search db points --query base.fvecs --row 40 -k 3"),
        expected
    );
    let json = bench.ok("search db points --like p40 -k 2 --json");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[1]["key"], "p39");
    assert_eq!(json[1]["distance"], 1.0);
    let all = bench.ok("search db points --like p0 -k 1000000");
    assert_eq!(all.lines().count(), 300, "k is clamped");

    bench.fails("search db points --vector 1,2", 1, "exactly 3");
    bench.fails("search db points --vector 1,2,NaN", 1, "NaN");
    bench.fails("search db points --like p40 -k 0", 1, "k");
    bench.fails("search db points --like nobody", 1, "nobody");
    bench.fails(
        "search db points --query base.fvecs --row 300",
        1,
        "rows 0 to 299",
    );
}

#[test]
fn bytes_are_vectors_too_and_rows_without_keys_are_numbered() {
    let bench = Bench::new();
    let rows: Vec<u8> = (0..20u8).flat_map(|i| [2, 0, 0, 0, i, 255]).collect();
    bench.write("base.bvecs", &rows);
    bench.ok("create db images -d 2 -m l2");
    bench.ok("import db images base.bvecs --durability os");
    assert_eq!(
        bench.ok("get db images 19"),
        "key      19\nvector   19,255\n"
    );
}

#[test]
fn an_import_can_be_run_again() {
    let bench = imported();
    let out = bench.ok("import db points base.fvecs --keys keys.tsv");
    assert_eq!(out, "imported 300 rows; collection points has 300\n");
}

#[test]
fn keys_of_any_bytes_can_be_typed_as_they_are_shown() {
    let bench = Bench::new();
    bench.fvecs("base.fvecs", &[vec![1.0, 0.0], vec![0.0, 1.0]]);
    bench.write("keys", b"nul\0\xff\\\nblank key");
    bench.ok("create db odd -d 2 -m cosine");
    bench.ok("import db odd base.fvecs --keys keys");
    let found = bench.ok("search db odd --vector 3,0 -k 1");
    let key = found.split('\t').nth(1).unwrap();
    assert_eq!(key, r"nul\x00\xff\\");
    assert!(
        bench
            .ok(&format!("get db odd {key}"))
            .contains("vector   1,0")
    );
    assert_eq!(bench.run_args(&["get", "db", "odd", "blank key"]).code, 0);
    bench.fails(r"get db odd nul\z", 2, "backslash");
}

#[test]
fn collections_are_created_once_and_never_change() {
    let bench = imported();
    let again = bench.ok("create db points --dimension 3 --metric l2");
    assert!(again.contains("exists already"), "{again}");
    bench.fails("create db points --dimension 4 --metric l2", 1, "points");
    bench.fails(
        "create db points --dimension 3 --metric cosine",
        1,
        "points",
    );
    bench.ok("create db others --dimension 4 --metric ip");
    assert!(bench.ok("get db points p0").contains("0,0.5,-1"));
}

#[test]
fn files_that_do_not_fit_are_refused_before_anything_is_written() {
    let bench = imported();
    bench.fvecs("wide.fvecs", &[vec![1.0; 4]]);
    bench.fails("import db points wide.fvecs", 1, "4 dimensions");
    bench.write("short.tsv", b"a\nb\n");
    bench.fails("import db points base.fvecs --keys short.tsv", 1, "2 lines");
    bench.write("cut.fvecs", &[3, 0, 0, 0, 1]);
    bench.fails("import db points cut.fvecs", 1, "cut short");
    bench.write("hostile.fvecs", &[0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0]);
    bench.fails("import db points hostile.fvecs", 1, "components");
    bench.fails("import db points keys.tsv", 1, "neither .fvecs nor .bvecs");
    bench.fails("import db points missing.fvecs", 1, "missing.fvecs");
    assert!(bench.ok("stats db").contains("300"));
}

#[test]
fn a_bad_row_is_named_and_the_rows_before_its_batch_stay() {
    let bench = imported();
    let mut rows = line_of_points();
    rows[150][1] = f32::NAN;
    bench.fvecs("nan.fvecs", &rows);
    bench.ok("create db fresh --dimension 3 --metric l2");
    bench.fails("import db fresh nan.fvecs --batch 100", 1, "row 150");
    assert_eq!(
        bench
            .ok("search db fresh --vector 0,0,0 -k 1000")
            .lines()
            .count(),
        100
    );
}

#[test]
fn stats_verify_and_compact_tell_what_is_there() {
    let bench = imported();
    let stats: serde_json::Value = serde_json::from_str(&bench.ok("stats db --json")).unwrap();
    assert_eq!(stats["collections"]["points"]["rows"], 300);
    assert_eq!(stats["collections"]["points"]["dimension"], 3);
    assert_eq!(stats["collections"]["points"]["metric"], "l2");
    // What was imported is in the log, and replayed.
    let bytes = |name: &str| stats["memory"][name].as_u64().unwrap();
    assert!(bytes("memtables") > 300 * 3 * 4 && bytes("resident") >= bytes("memtables"));
    assert_eq!(
        (&stats["merges_due"], &stats["merge_debt_bytes"]),
        (&0.into(), &0.into())
    );
    let out = bench.ok("compact db");
    assert!(
        out.starts_with("1 segments before, 1 after; 0 merges"),
        "{out}"
    );
    let out = bench.ok("verify db");
    assert!(out.starts_with("intact: 1 segments of 300 rows"), "{out}");
    assert_eq!(out.lines().count(), 1, "{out}");
    assert_eq!(bench.ok("verify db -q"), "");
    let report: serde_json::Value = serde_json::from_str(&bench.ok("verify db --json")).unwrap();
    assert_eq!(
        (&report["intact"], &report["live_rows"]),
        (&true.into(), &300.into())
    );
    assert!(
        bench
            .ok("get db points p299")
            .contains("vector   299,0.5,-1")
    );
}

#[test]
fn damage_is_found_and_named() {
    let bench = imported();
    bench.ok("compact db");
    let segment = support::names(&bench.path("db"))
        .into_iter()
        .find(|name| name.ends_with(".segment"))
        .expect("a segment after compaction");
    let path = bench.path("db").join(&segment);
    let mut bytes = std::fs::read(&path).unwrap();
    // The first component of the first vectors lies behind the header page.
    bytes[4096] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let before = support::names(&bench.path("db"));
    let ran = bench.run("verify db");
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    let lines: Vec<_> = ran.stdout.lines().collect();
    let [problem, summary] = lines[..] else {
        panic!("{lines:?}")
    };
    assert!(
        problem.contains(&format!("{segment}: byte 4096: ")),
        "{problem}"
    );
    assert!(summary.starts_with("damaged, 1 problem: 1 segments of 300 rows"));
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);

    let quiet = bench.run("verify db --quiet --rate 100");
    assert_eq!((quiet.code, quiet.stdout.lines().count()), (1, 1));
    let json = bench.run("verify db --json");
    assert_eq!(json.code, 1);
    let report: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(
        (&report["intact"], &report["complete"]),
        (&false.into(), &true.into())
    );
    assert_eq!(report["problems"][0]["offset"], 4096);
    let file = report["problems"][0]["file"].as_str().unwrap();
    assert!(file.ends_with(&segment), "{file}");
    assert_eq!(
        support::names(&bench.path("db")),
        before,
        "nothing is written"
    );
    bench.fails("search db points --vector 0,0,0", 1, &segment);
}

/// Damaged in a row, or gone: what is left answers, and a note says what is missing.
#[test]
fn a_search_can_leave_damaged_segments_out() {
    let bench = imported();
    bench.ok("compact db");
    bench.fvecs("extra.fvecs", &[vec![9.0, 0.5, -1.0]]);
    bench.ok("import db points extra.fvecs");
    let mut names = support::names(&bench.path("db")).into_iter();
    let segment = names.rfind(|name| name.ends_with(".segment")).unwrap();
    let path = bench.path("db").join(&segment);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let search = "search db points --vector 9,0.5,-1 -k 3";
    bench.fails(search, 1, &segment);
    for _ in 0..2 {
        let ran = bench.run(&format!("{search} --skip-quarantined"));
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
        assert!(ran.stdout.starts_with("0\t"), "{}", ran.stdout);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        for part in ["left out", "300 rows", &segment] {
            assert!(ran.stderr.contains(part), "{}", ran.stderr);
        }
        let _ = std::fs::remove_file(&path);
    }
    bench.fails(search, 1, &segment);
}

/// Where an open has nothing to offer any more.
#[test]
fn a_database_that_cannot_be_opened_is_verified_none_the_less() {
    let bench = imported();
    bench.ok("compact db");
    let path = bench.path("db");
    let names = support::names(&path);
    let manifest = names.iter().find(|name| name.ends_with(".manifest"));
    let manifest = manifest.expect("there is one");
    let mut bytes = std::fs::read(path.join(manifest)).unwrap();
    bytes[200] ^= 1;
    std::fs::write(path.join(manifest), &bytes).unwrap();
    bench.fails("stats db", 1, manifest);
    let ran = bench.run("verify db");
    assert_eq!(ran.code, 1);
    assert!(
        ran.stdout.contains(&format!("{manifest}: byte 128: ")),
        "{}",
        ran.stdout
    );
    assert!(
        ran.stdout.contains("damaged, 1 problem: 1 segments"),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_directory_without_a_database_is_left_alone() {
    let bench = Bench::new();
    bench.fvecs("base.fvecs", &line_of_points());
    for command in [
        "stats nowhere",
        "verify nowhere",
        "compact nowhere",
        "get nowhere c k",
    ] {
        bench.fails(command, 1, "nowhere");
    }
    bench.fails("import nowhere points base.fvecs", 1, "nowhere");
    assert!(
        !bench.path("nowhere").exists(),
        "only create makes a database"
    );
    std::fs::create_dir(bench.path("empty")).unwrap();
    bench.fails("stats empty", 1, "esker create empty");
    assert_eq!(support::names(&bench.path("empty")), [""; 0]);

    bench.write("letters/dear-diary.txt", b"today");
    for command in ["stats letters", "create letters points -d 3 -m l2"] {
        bench.fails(command, 1, "letters");
    }
    assert_eq!(support::names(&bench.path("letters")), ["dear-diary.txt"]);
    bench.write("file", b"x");
    bench.fails("create file points -d 3 -m l2", 1, "file");
    bench.fails("stats file", 1, "file");
}

#[test]
fn the_wrong_command_line_is_exit_code_2() {
    let bench = Bench::new();
    for line in [
        "",
        "no-such-command",
        "create db",
        "create db c -d 0 -m l2",
        "create db c -d 65536 -m l2",
        "create db c -d 3 -m hamming",
        "import db c",
        "import db c f.fvecs --batch 0",
        "search db c",
        "search db c --vector x",
        "bench-ingest --data . --rows 0",
        "bench-ingest --data . --durability sometimes",
        "bench-ingest --data . --writers 1,0",
        "bench",
        "bench --data . --k 0",
        "bench --data . --l 4",
        "bench --data . --l 10,x",
        "bench --data . --l 64, --k 100",
        "bench --data . --k 1000",
        "bench --data . --repeat 0",
        "bench --data . --queries 0",
    ] {
        assert_eq!(bench.run(line).code, 2, "esker {line}");
    }
    assert_eq!(support::names(&bench.path("")), ["tmp"], "nothing was made");
}

#[test]
fn help_goes_to_standard_output() {
    let bench = Bench::new();
    assert!(bench.ok("--help").contains("Examples:"));
    for command in [
        "demo",
        "create",
        "import",
        "get",
        "search",
        "stats",
        "verify",
        "compact",
        "bench-ingest",
        "bench",
    ] {
        let help = bench.ok(&format!("{command} --help"));
        assert!(
            help.contains(&format!("esker {command}")) && help.contains("Example"),
            "{help}"
        );
    }
    assert!(!bench.ok("--help").contains("demo-child"));
}

/// `esker ... | head -1` closes the pipe while there is much to say.
#[test]
#[cfg(unix)]
fn a_reader_that_leaves_is_no_error() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let bench = imported();
    let mut rows = Vec::new();
    for i in 0..3000 {
        rows.push(vec![i as f32, 0.0, 0.0]);
    }
    bench.fvecs("many.fvecs", &rows);
    bench.ok("import db points many.fvecs");
    let mut child = bench
        .command()
        .args(["search", "db", "points", "--like", "p0", "-k", "100000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut reader = BufReader::with_capacity(16, child.stdout.take().unwrap());
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "0\tp0\tpoint number 0\n");
    drop(reader);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
