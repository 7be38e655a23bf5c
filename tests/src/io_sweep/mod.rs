//! Every storage call of a few workloads made to fail, in every way, and what follows
//! held against the design's table of errors.
//!
//! Owns [`sweep()`] and its [`Report`]. Reading order: `table` says what must follow
//! from which call; `steps` what is done; `drive` does it; `run` is one run with one
//! failure in it, and everything that is asserted; `verdict` holds answers against the
//! table. Invariants: a run is a function of workload, call, failure and seed; a call
//! that the table does not know is a violation. Must not know: how the engine is built.

mod drive;
mod failure;
mod run;
mod stage;
mod steps;
mod table;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use drive::Driver;
use failure::Hit;
use run::{Outcome, Run};
use stage::Stage;
use steps::{Workload, workloads};

pub use failure::Failure;
pub use stage::Host;
pub use table::{Phase, Role, Verdict};

use crate::oracle::Oracle;
use crate::sim::{CallKind, Crash, Fault};

/// How much is swept.
#[derive(Clone, Copy, Debug)]
pub struct SweepOptions {
    pub seed: u64,
    /// Every so many-th run of all that there are; 1 leaves nothing out.
    pub stride: usize,
    /// Runs at a time; 0 for as many as the machine has processors.
    pub threads: usize,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            stride: 1,
            threads: 0,
        }
    }
}

/// A call site, as the engine's interface and its files show it.
pub type Site = (CallKind, Role, Phase);

/// What a sweep did and found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Runs at each site.
    pub sites: BTreeMap<Site, u64>,
    /// Calls of all workloads together that were made to fail.
    pub indices: u64,
    /// Sites and indices together with failures: runs in which a call failed.
    pub runs: u64,
    /// Runs by verdict: swallowed, answered, poisoned.
    pub verdicts: [u64; 3],
    /// Crash images that were opened and compared.
    pub images: u64,
    /// Runs that there are.
    pub of: u64,
    /// What is wrong, one text each.
    pub violations: Vec<String>,
}

impl Report {
    fn add(&mut self, outcome: &Outcome) {
        self.images += outcome.images;
        let Some((call, phase, judged)) = &outcome.hit else {
            return;
        };
        self.runs += 1;
        *self
            .sites
            .entry((call.kind, judged.role, *phase))
            .or_default() += 1;
        self.verdicts[match judged.verdict {
            Verdict::Swallowed => 0,
            Verdict::Answered => 1,
            Verdict::Poisons => 2,
        }] += 1;
    }
}

/// Where each run is made.
enum Place<'a> {
    Simulated(u64),
    Host(&'a (dyn Fn() -> Host + Sync)),
}

/// One run to make.
#[derive(Clone, Copy)]
struct Job {
    workload: usize,
    hit: Hit,
}

/// Sweeps on simulated machines, with crash images after each failure.
#[must_use]
pub fn sweep(options: &SweepOptions) -> Report {
    sweep_at(options, &Place::Simulated(options.seed))
}

/// Sweeps around an environment of the host's, a fresh one for each run. There are
/// no crash images: what a power cut leaves cannot be known there.
#[must_use]
pub fn sweep_around(options: &SweepOptions, host: &(dyn Fn() -> Host + Sync)) -> Report {
    sweep_at(options, &Place::Host(host))
}

fn sweep_at(options: &SweepOptions, place: &Place<'_>) -> Report {
    let workloads = workloads();
    let mut report = Report::default();
    let mut jobs = Vec::new();
    for (n, workload) in workloads.iter().enumerate() {
        match one(workload, place, None, options.seed) {
            Ok(outcome) => jobs.extend(all_jobs(n, &outcome.calls)),
            Err(error) => report
                .violations
                .push(format!("{}: {error}", workload.name)),
        }
    }
    report.of = jobs.len() as u64;
    let jobs: Vec<_> = jobs.into_iter().step_by(options.stride.max(1)).collect();
    let indices: BTreeSet<_> = jobs.iter().map(|j| (j.workload, j.hit.number)).collect();
    report.indices = indices.len() as u64;
    let (next, report) = (AtomicUsize::new(0), Mutex::new(report));
    let work = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let workload = &workloads[job.workload];
            let done = one(workload, place, Some(&job.hit), options.seed);
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            match done {
                Ok(outcome) => report.add(&outcome),
                Err(error) => {
                    let text = format!("{} with {:?}: {error}", workload.name, job.hit);
                    report.violations.push(text);
                }
            }
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = match options.threads {
        0 => processors,
        n => n,
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    report.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Every call with every failure, once and for ever.
fn all_jobs(workload: usize, calls: &[(u64, CallKind)]) -> Vec<Job> {
    let mut jobs = Vec::new();
    for &(number, kind) in calls {
        for failure in Failure::ALL.into_iter().filter(|f| f.applies_to(kind)) {
            for once in [true, false] {
                let hit = Hit {
                    number,
                    failure,
                    once,
                };
                jobs.push(Job { workload, hit });
            }
        }
    }
    jobs
}

/// One run; a panic in it is a violation like any other.
fn one(
    workload: &Workload,
    place: &Place<'_>,
    hit: Option<&Hit>,
    seed: u64,
) -> Result<Outcome, String> {
    let run = || {
        let (stage, oracle) = prepared(workload, place)?;
        let mut driver = Driver::new(workload, stage);
        driver.oracle = oracle;
        let seed = seed ^ hit.map_or(0, |hit| hit.number << 8);
        Run::new(driver, hit, seed).go(workload)
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&s| s.to_owned()));
        Err(format!("a panic: {}", text.unwrap_or_default()))
    })
}

/// The stage after what comes before the workload, when the process was killed.
fn prepared(workload: &Workload, place: &Place<'_>) -> Result<(Stage, Oracle), String> {
    let stage = match place {
        Place::Simulated(seed) => Stage::simulated(*seed),
        Place::Host(host) => Stage::around(host()),
    };
    let mut driver = Driver::new(workload, stage);
    for step in &workload.before {
        for answer in driver.perform(step) {
            if let Some(error) = answer.error() {
                return Err(format!("before, {step:?}: {error}"));
            }
        }
    }
    if let Some(killed) = driver.stage.image(Crash::KeepAll) {
        return Ok((killed, driver.oracle));
    }
    // Nothing that the process does on its way out has an effect.
    driver
        .stage
        .inject(Fault::when(std::io::ErrorKind::Other, |_| true));
    driver.db = None;
    driver.stage.heal();
    Ok((driver.stage, driver.oracle))
}
