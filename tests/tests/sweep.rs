//! One workload that does everything once, stopped at each of its storage calls,
//! stopped again at each call of the recovery, and stopped a few calls after each
//! call failed. What follows a failure without a crash in the middle of what comes
//! next: `io_errors`.
//!
//! The property test draws; this one leaves nothing out. A failure prints the case.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: a broken assumption should stop it where it stands"
)]

use std::convert::Infallible;
use std::io;

use esker::{Background, CollectionOptions, Db, Metric, Options};
use esker_tests::run::run;
use esker_tests::run::sweep::Sweep;
use esker_tests::sim::{Call, CallKind, Crash, Fault, SimEnv};

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
fn a_power_cut_soon_after_a_failure_of_any_call_loses_nothing_that_was_durable() {
    sweep(Sweep::FailureThenCrash, 100 * 12);
}

/// A log file's header may have reached the disk although its sync failed, and its
/// removal may not have: it would end its predecessor where it was begun, so
/// nothing may be appended there any more. Too rare a meeting for the sweeps.
#[test]
fn a_log_file_that_failed_to_begin_takes_no_later_write_with_it() {
    let options = |env: &SimEnv| {
        Options::new()
            .background(Background::Manual)
            .log_file_bytes(4 << 10)
            .env(env.env())
    };
    let env = SimEnv::new(1);
    let db = Db::open("/db", options(&env)).unwrap();
    let rows = db
        .create_collection("rows", CollectionOptions::new(1, Metric::L2))
        .unwrap();
    rows.put_with_payload("fills", &[1.0], &[1; 3000]).unwrap();
    let first = env.log().into_iter().rfind(|c| c.kind == CallKind::Write);
    let first = first.unwrap().path;
    let next_log = move |call: &Call| {
        let log = call.path.extension().is_some_and(|e| e == "log");
        call.kind == CallKind::Sync && log && call.path != first
    };
    env.inject(Fault::when(io::ErrorKind::Other, next_log).once());
    assert!(rows.put_with_payload("large", &[1.0], &[1; 2000]).is_err());
    rows.put("small", &[2.0]).unwrap();
    env.stop();
    drop((rows, db));
    for seed in 0..200 {
        let env = env.crash_image(Crash::Random(seed));
        let db = Db::open("/db", options(&env)).unwrap();
        let rows = db.collection("rows").unwrap();
        let there = rows.contains("fills").unwrap() && rows.contains("small").unwrap();
        assert!(there, "{:#?}", env.image_report());
    }
}
