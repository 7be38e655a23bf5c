//! The crash campaign: `cargo run --release -p esker-tests --bin campaign -- [--seconds N]`.
//!
//! Owns the command line, the workers and what is printed; the last line is one JSON
//! object. Exit code 1 on any violation, 2 on a wrong command line. Must not know:
//! how a workload is explored.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test program: it is the outside world itself"
)]

mod args;
mod crashes;
mod integrity;
mod ledger;

use std::process::ExitCode;
use std::time::Instant;

use args::Args;
use esker_tests::io_sweep::{Report, SweepOptions, sweep};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = esker_tests::mutants::command(&words) {
        return code;
    }
    if let Some(code) = integrity::command(&words) {
        return code;
    }
    let args = match Args::parse(words.into_iter()) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}\n\n{}\n\n{}", args::USAGE, integrity::USAGE);
            return ExitCode::from(2);
        }
    };
    let start = Instant::now();
    let sweep = failures(args.seed);
    let crashes = match crashes::run(&args, Instant::now()) {
        Ok(crashes) => crashes,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let violations = crashes.violations + sweep.violations.len() as u64;
    let line = serde_json::json!({
        "images": crashes.tally.images,
        "repeated": crashes.tally.repeated,
        "nested": crashes.tally.nested,
        "workloads": crashes.tally.workloads,
        "scenes": crashes.tally.scenes,
        "exhausted_scenes": crashes.tally.exhausted,
        "next_workload": crashes.next,
        "io_error_sites": sweep.sites.len(),
        "io_error_calls": sweep.indices,
        "io_errors": sweep.runs,
        "io_error_images": sweep.images,
        "violations": violations,
        "mutants": null,
        "mutants_killed": null,
        "seconds": start.elapsed().as_secs(),
        "seed": args.seed,
    });
    println!("{line}");
    ExitCode::from(u8::from(violations > 0))
}

/// Every storage call of a few workloads made to fail, before the crashes begin.
fn failures(seed: u64) -> Report {
    let report = sweep(&SweepOptions {
        seed,
        ..SweepOptions::default()
    });
    println!(
        "{} calls at {} sites made to fail {} times, {} images after it, {} violations",
        report.indices,
        report.sites.len(),
        report.runs,
        report.images,
        report.violations.len()
    );
    for violation in report.violations.iter().take(10) {
        println!("VIOLATION after a failure: {violation}");
    }
    report
}
