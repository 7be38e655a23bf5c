//! Workers that explore workloads until they are told to stop.
//!
//! Owns the counts of a run and the printing of violations. Invariant: workloads
//! are taken in order, so what was done is a range of numbers. Must not know: how
//! a workload is explored.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use esker_tests::campaign::workload::{all_exhaustive_before, workload};
use esker_tests::campaign::{Effort, Tally, explore, shrink};

use crate::args::Args;
use crate::ledger::{Ledger, Row};

/// Time between two lines of progress, and two writes of the ledger.
const REPORT: Duration = Duration::from_secs(10);
/// Violations that are shrunk and printed whole.
const SHOWN: u64 = 3;
/// Violations after which there is no point in going on.
const ENOUGH: u64 = 25;

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    pub tally: Tally,
    pub violations: u64,
    /// Number of the first workload that was not done.
    pub next: u64,
}

struct Run<'a> {
    args: &'a Args,
    start: Instant,
    next: AtomicU64,
    end: u64,
    stop: AtomicBool,
    outcome: Mutex<Outcome>,
}

/// Explores workloads as the arguments say.
///
/// # Errors
/// A ledger that cannot be read or written.
pub fn run(args: &Args, start: Instant) -> Result<Outcome, String> {
    let ledger = args.ledger.as_deref().map(Ledger::open).transpose()?;
    let from = args.from.unwrap_or_else(|| {
        let done = ledger.as_ref().and_then(|ledger| ledger.next(args.seed));
        done.unwrap_or(0)
    });
    println!(
        "seed {}, from workload {from} (all exhaustive ones come before {}), {} threads",
        args.seed,
        all_exhaustive_before(),
        args.threads
    );
    let run = Run {
        args,
        start,
        next: AtomicU64::new(from),
        end: from.saturating_add(args.workloads),
        stop: AtomicBool::new(false),
        outcome: Mutex::default(),
    };
    let write = |outcome: &Outcome| -> Result<(), String> {
        let Some(ledger) = &ledger else { return Ok(()) };
        ledger.write(&Row {
            seed: args.seed,
            from,
            next: outcome.next,
            images: outcome.tally.images,
            violations: outcome.violations,
            seconds: start.elapsed().as_secs(),
        })
    };
    std::thread::scope(|scope| -> Result<(), String> {
        let workers: Vec<_> = (0..args.threads)
            .map(|_| scope.spawn(|| run.work()))
            .collect();
        let mut reported = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(100));
            if reported.elapsed() >= REPORT {
                reported = Instant::now();
                let outcome = run.outcome(args.threads);
                run.report(&outcome);
                write(&outcome).inspect_err(|_| run.stop.store(true, Ordering::Relaxed))?;
            }
        }
        Ok(())
    })?;
    let outcome = run.outcome(0);
    run.report(&outcome);
    write(&outcome)?;
    Ok(outcome)
}

impl Run<'_> {
    /// What was done so far, `in_flight` workloads aside that workers are at: a run
    /// that resumes here does them again.
    fn outcome(&self, in_flight: usize) -> Outcome {
        let next = self.next.load(Ordering::Relaxed).min(self.end);
        Outcome {
            next: next.saturating_sub(in_flight as u64),
            ..*self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    fn report(&self, outcome: &Outcome) {
        let seconds = self.start.elapsed().as_secs_f64();
        println!(
            "{seconds:6.0} s: {} images ({:.0}/s), {} repeated, {} nested, {} workloads, \
             {} violations",
            outcome.tally.images,
            outcome.tally.images as f64 / seconds,
            outcome.tally.repeated,
            outcome.tally.nested,
            outcome.tally.workloads,
            outcome.violations
        );
    }

    fn work(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            if n >= self.end {
                break;
            }
            let workload = workload(self.args.seed, n);
            let explored = explore(&workload.case, workload.from, &Effort::default());
            let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            match explored {
                Ok(tally) => outcome.tally.add(&tally),
                Err(violation) => {
                    outcome.violations += 1;
                    let number = outcome.violations;
                    drop(outcome);
                    println!("VIOLATION in workload {n}");
                    if number >= ENOUGH {
                        self.stop.store(true, Ordering::Relaxed);
                    }
                    if number <= SHOWN {
                        let (repro, what) = shrink(&workload.case, &violation, &Effort::default());
                        println!(
                            "{}\n\nshrunk:\n{what}\n\n{}",
                            violation.what,
                            repro.as_test(&format!("seed_{}_workload_{n}", self.args.seed))
                        );
                    }
                    continue;
                }
            }
            let enough = outcome.tally.images >= self.args.images;
            if enough || self.start.elapsed() >= self.args.seconds {
                self.stop.store(true, Ordering::Relaxed);
            }
        }
    }
}
