//! The engine against the oracle: random operations, crashes at random storage
//! calls, crashes during recovery, failing calls, and interleavings of flushes and
//! merges, all on a simulated machine that forgets what was not synced.
//!
//! `ESKER_MODEL_CASES` and `ESKER_MODEL_SEED` change how many cases run and which.
//! A failure shrinks, and prints the operations that are left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test: a broken assumption should stop it where it stands"
)]

use std::sync::Mutex;
use std::time::Instant;

use esker_tests::run::draw::{case, graph_case, merging_case};
use esker_tests::run::{Case, Summary, run};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

/// Whether the cases together did everything that they are about.
fn covered(did: &Summary, faults: bool) -> bool {
    let crashes = did.crashes > 2_000 && did.crashes_in_recovery > 500 && did.torn_tails > 50;
    let work = did.flushes > 5_000 && did.merges > 2_000 && did.crossings > 500;
    let failed = did.faults > 1_000 && did.poisoned > 50 && did.errored > 200;
    let searched = did.walks > 5_000 && did.fallbacks > 1_000;
    let work = work && did.recovery_segments > 1_000;
    let steered = did.merges_cancelled > 100 && did.pauses > 300;
    crashes
        && work
        && steered
        && searched
        && did.lost > 300
        && did.snapshots > 300
        && failed == faults
}

/// The same of the cases with larger graphs, whose searches must be good.
fn graphs_covered(did: &Summary) -> bool {
    let work = did.crashes > 100 && did.flushes > 1_000 && did.merges > 500;
    let work = work && did.merges_cancelled > 5;
    let searched = did.walks > 5_000 && did.fallbacks > 500 && did.neighbors > 20_000;
    work && searched && did.neighbors_found * 100 >= did.neighbors * 98
}

/// The same of the cases whose merges overlap.
fn merges_covered(did: &Summary) -> bool {
    let work = did.merges > 4_000 && did.merges_at_once > 500 && did.crossings > 700;
    work && did.crashes > 1_500 && did.faults > 500 && did.lost > 300
}

/// Runs the property and says what the cases did.
fn check(strategy: impl Strategy<Value = Case>, covered: fn(&Summary) -> bool, cases: u32) {
    let cases = number("ESKER_MODEL_CASES").map_or(cases, |n| n as u32);
    let config = Config {
        cases,
        max_shrink_iters: 4_000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(number("ESKER_MODEL_SEED").unwrap_or(20_250_101)),
        ..Config::default()
    };
    let total = Mutex::new(Summary::default());
    let start = Instant::now();
    let result = TestRunner::new(config).run(&strategy, |case| {
        let summary = run(&case).map_err(TestCaseError::fail)?;
        total.lock().unwrap().add(&summary);
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, case)) => panic!("{reason}\n\nthe case:\n{case:?}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
    let total = total.into_inner().unwrap();
    if number("ESKER_MODEL_CASES").is_none() {
        // A run that never got anywhere proves nothing.
        assert!(covered(&total), "{total:?}");
    }
    println!("{cases} cases in {:.1?}: {total:#?}", start.elapsed());
}

#[test]
fn the_engine_agrees_with_the_model_through_crashes() {
    check(case(false), |did| covered(did, false), 1_500);
}

#[test]
fn the_engine_agrees_with_the_model_through_crashes_and_failing_calls() {
    check(case(true), |did| covered(did, true), 1_500);
}

#[test]
fn searches_by_graphs_agree_with_the_model() {
    check(graph_case(), graphs_covered, 200);
}

#[test]
fn merges_that_run_at_once_agree_with_the_model() {
    check(merging_case(), merges_covered, 1_500);
}
