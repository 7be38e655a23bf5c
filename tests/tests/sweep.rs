//! One workload that does everything once, stopped at each of its storage calls,
//! stopped again at each call of the recovery, and with each call made to fail.
//!
//! The property test draws; this one leaves nothing out. A failure prints the case.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: a broken assumption should stop it where it stands"
)]

use std::convert::Infallible;

use esker_tests::run::run;
use esker_tests::run::sweep::Sweep;

/// Runs the sweep, which must have more cases than that.
fn sweep(sweep: Sweep, more_than: u64) {
    let Ok(runs) = sweep.each(&mut |case| match run(case) {
        Ok(summary) => Ok::<_, Infallible>(summary),
        Err(error) => panic!("{error}\n\nthe case:\n{case:?}"),
    });
    println!("{runs} runs");
    assert!(
        runs > more_than,
        "the workload has become too short: {runs}"
    );
}

#[test]
fn a_crash_at_any_call_loses_nothing_that_was_durable() {
    sweep(Sweep::Crash, 100 * 12);
}

#[test]
fn a_crash_at_any_call_of_a_creation_leaves_nothing_or_a_database() {
    sweep(Sweep::Birth, 15 * 12);
}

#[test]
fn a_crash_at_any_call_of_a_recovery_and_of_the_next_changes_nothing() {
    sweep(Sweep::Recovery, 9 * 15 * 4);
}

#[test]
fn a_failure_of_any_call_is_an_error_that_loses_nothing() {
    sweep(Sweep::Failure, 100 * 12);
}

#[test]
fn a_power_cut_soon_after_a_failure_of_any_call_loses_nothing_that_was_durable() {
    sweep(Sweep::FailureThenCrash, 100 * 12);
}

#[test]
fn a_failure_of_any_read_is_an_error_that_spoils_nothing() {
    sweep(Sweep::Read, 20 * 2);
}
