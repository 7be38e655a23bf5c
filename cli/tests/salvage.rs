//! `esker salvage`, run as a user runs it.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code, also outside of #[test] functions"
)]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use std::path::PathBuf;

use support::{Bench, names};

/// A database `db` of 300 rows in one segment, and none in its log.
fn made() -> Bench {
    let bench = Bench::new();
    let rows: Vec<_> = (0..300).map(|i| vec![i as f32; 64]).collect();
    bench.fvecs("base.fvecs", &rows);
    bench.ok("create db points --dimension 64 --metric l2");
    bench.ok("import db points base.fvecs");
    bench.ok("compact db");
    // Opened and closed once more, its log holds no copies.
    bench.ok("stats db");
    bench
}

/// The only segment of `db`.
fn segment(bench: &Bench) -> PathBuf {
    let mut segments = names(&bench.path("db"));
    segments.retain(|name| name.ends_with(".segment"));
    assert_eq!(segments.len(), 1);
    bench.path("db").join(&segments[0])
}

#[test]
fn an_intact_database_is_copied_and_the_code_says_so() {
    let bench = made();
    let before = names(&bench.path("db"));
    let out = bench.ok("salvage db new");
    assert_eq!(
        out,
        "collection points: 300 rows recovered, none lost\nnothing was lost\n"
    );
    assert_eq!(names(&bench.path("db")), before);
    assert!(bench.ok("verify new").starts_with("intact"));
    assert!(bench.ok("get new points 17").contains("17,17,17"));
    bench.fails("salvage db new", 1, "not empty");
    bench.fails("salvage db db", 1, "within each other");
    bench.fails("salvage db db/inside", 1, "within each other");
    bench.fails("salvage nowhere other", 1, "nowhere");
    assert_eq!(bench.run("salvage db").code, 2);
}

#[test]
fn lost_rows_are_counted_and_the_code_says_so() {
    let bench = made();
    let path = segment(&bench);
    let mut bytes = std::fs::read(&path).unwrap();
    // In the first block of vectors: 16 rows of 256 bytes.
    bytes[5000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let ran = bench.run("salvage db new --json");
    assert_eq!(ran.code, 2, "{}{}", ran.stdout, ran.stderr);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["complete"], false);
    assert_eq!(json["recovered"], 284);
    assert_eq!(
        json["lost"],
        serde_json::json!({"at_least": 16, "at_most": 16})
    );
    let damage = &json["damages"][0];
    assert_eq!(damage["offset"], 4096);
    assert_eq!(damage["lost"]["at_least"], 16);
    assert!(damage["file"].as_str().unwrap().ends_with(".segment"));
    let ran = bench.run("salvage db again");
    assert_eq!(ran.code, 2);
    assert!(
        ran.stdout.contains("284 rows recovered, 16 lost"),
        "{}",
        ran.stdout
    );
    assert!(bench.ok("verify again").starts_with("intact"));
}

/// Root may write anywhere, so this shows only that nothing is written.
#[cfg(unix)]
#[test]
fn a_read_only_directory_can_be_salvaged() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = made();
    let db = bench.path("db");
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for name in names(&db) {
        mode(&db.join(name), 0o400);
    }
    mode(&db, 0o500);
    let ran = bench.run("salvage db new");
    mode(&db, 0o700);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("300 rows recovered"));
}
