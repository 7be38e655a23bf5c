//! Every storage call fails once, and for ever, in five ways; and real files do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: a broken assumption should stop it where it stands"
)]

use esker_tests::io_sweep::{Report, SweepOptions, sweep};

fn clean(report: &Report) {
    let Report {
        sites,
        indices,
        runs,
        of,
        verdicts,
        images,
        violations,
    } = report;
    println!(
        "{} sites, {indices} calls, {runs} runs of {of}, verdicts {verdicts:?}, {images} images",
        sites.len()
    );
    for (site, runs) in sites {
        println!("{site:?} {runs}");
    }
    for violation in violations.iter().take(20) {
        println!("\n{violation}");
    }
    assert!(violations.is_empty(), "{} violations", violations.len());
}

#[test]
fn every_call_in_every_way() {
    let report = sweep(&SweepOptions {
        stride: std::env::var("STRIDE").map_or(1, |s| s.parse().unwrap()),
        ..SweepOptions::default()
    });
    clean(&report);
}
