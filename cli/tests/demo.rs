//! The demo: what it prints, what it proves, and that it leaves nothing behind.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code, also outside of #[test] functions"
)]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use support::Bench;

#[test]
fn the_demo_loses_nothing_and_leaves_nothing() {
    let bench = Bench::new();
    let out = bench.ok("demo");
    bench.assert_clean();
    assert!(out.contains("with SIGKILL"), "{out}");

    let line = out
        .lines()
        .find(|line| line.starts_with("recall@10 "))
        .expect("the result line");
    let words: Vec<&str> = line.split_whitespace().collect();
    let [
        "recall@10",
        recall,
        "p50",
        p50,
        "us",
        "p99",
        p99,
        "us",
        "recovered",
        back,
        "of",
        acked,
        "acknowledged",
    ] = words[..]
    else {
        panic!("{line}");
    };
    assert_eq!(line.split("  ").count(), 4, "{line}");
    assert!(recall.parse::<f64>().unwrap() >= 0.98, "{line}");
    assert!(out.contains("a graph over 5000 rows"), "{out}");
    assert_eq!(back, acked, "{line}");
    let acked: usize = acked.parse().unwrap();
    assert!(
        (2000..=3600).contains(&acked) && acked.is_multiple_of(100),
        "killed midway: {line}"
    );
    let (p50, p99): (u64, u64) = (p50.parse().unwrap(), p99.parse().unwrap());
    assert!(0 < p50 && p50 <= p99, "{line}");

    assert_eq!(
        out.lines()
            .filter(|line| line.starts_with("query  "))
            .count(),
        3,
        "{out}"
    );
    let after_query = out.split("\nquery  ").skip(1);
    for block in after_query {
        let distances: Vec<f32> = block
            .lines()
            .skip(1)
            .filter_map(|line| line.split("  ").next()?.parse().ok())
            .collect();
        assert_eq!(distances.len(), 5, "{block}");
        assert!(distances.is_sorted() && distances[0] > 0.0, "{block}");
    }
}

/// Killed itself, the demo cannot clean up; its sweeper does.
#[test]
#[cfg(unix)]
fn a_killed_demo_leaves_nothing_either() {
    let bench = Bench::new();
    let mut demo = bench
        .command()
        .arg("demo")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let temporary = bench.temporary();
    let has_database = || {
        support::names(&temporary)
            .iter()
            .any(|name| temporary.join(name).join("db").exists())
    };
    wait_until("the demo's database appears", has_database);
    demo.kill().unwrap();
    demo.wait().unwrap();
    wait_until("the sweeper removes it", || {
        support::names(&temporary).is_empty()
    });
    // The ingesting process must not come back with a file.
    std::thread::sleep(Duration::from_millis(300));
    bench.assert_clean();
}

#[test]
fn the_sweeper_touches_only_what_is_its_own() {
    let bench = Bench::new();
    bench.write("precious/file", b"x");
    bench.fails("sweep-scratch precious", 2, "left alone");
    assert!(bench.path("precious/file").exists());
}

#[test]
fn the_licence_of_the_texts_is_at_hand() {
    assert!(
        Bench::new()
            .ok("demo --license")
            .contains("Princeton University")
    );
}

#[test]
fn a_demo_without_a_place_for_files_says_so() {
    let bench = Bench::new();
    let output = bench
        .command()
        .arg("demo")
        .env("TMPDIR", "/no/such/place")
        .output()
        .unwrap();
    let ran = support::Ran::from(output);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("/no/such/place"), "{}", ran.stderr);
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "in vain: {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The demo must not depend on files beside the binary.
#[test]
fn the_demo_data_travels_in_the_binary() {
    let bench = Bench::new();
    let copy = bench.path("esker-copy");
    std::fs::copy(env!("CARGO_BIN_EXE_esker"), &copy).unwrap();
    let output = std::process::Command::new(&copy)
        .arg("demo")
        .current_dir(Path::new("/"))
        .env("TMPDIR", bench.temporary())
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    bench.assert_clean();
}
