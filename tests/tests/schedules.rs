//! The engine's steps under seeded schedules, compared with the oracle.
//!
//! Two writers, flushes, merges, snapshots, now and then a failing call, a power cut
//! in the middle or a close: tasks of one thread that take turns at every lock,
//! atomic and storage call. Run with
//! `RUSTFLAGS="--cfg shuttle" cargo test --release -p esker-tests --test schedules`;
//! `ESKER_SCHEDULES` says how many, `ESKER_SCHEDULE` runs the one of that seed.
#![cfg(shuttle)]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that fails should say so"
)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use esker_tests::schedules::tally::Tally;
use esker_tests::schedules::tasks;
use esker_tests::schedules::turns;

const DEFAULT_SCHEDULES: u64 = 2_000;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().expect("a number"))
}

#[test]
fn the_engine_is_the_oracle_in_every_schedule() {
    let tally = Arc::new(Tally::default());
    let one = |tally: &Arc<Tally>| {
        let tally = Arc::clone(tally);
        move |seed| tasks::run(seed, &tally)
    };
    if let Some(seed) = number("ESKER_SCHEDULE") {
        turns::explore(std::iter::once(seed), one(&tally));
        return;
    }
    let schedules = number("ESKER_SCHEDULES").unwrap_or(DEFAULT_SCHEDULES);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let began = Instant::now();
    let run: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|first| {
                let seeds = (first..schedules).step_by(threads as usize);
                let schedule = one(&tally);
                scope.spawn(move || turns::explore(seeds, schedule))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{run} schedules in {seconds:.1} s, {:.0} a second",
        run as f64 / seconds
    );
    println!("{tally:?}");
    assert_eq!(run as u64, schedules);
    for (what, n) in tally.counters() {
        let n = n.load(Ordering::Relaxed);
        assert!(
            n > 0 || schedules < 1_000,
            "no {what} in {schedules} schedules"
        );
    }
}
