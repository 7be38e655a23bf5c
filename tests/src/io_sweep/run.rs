//! One run: a workload, one failure in it, and everything that must hold then.
//!
//! Owns the order of a run: steps until the failure, its verdict, reads while it
//! lasts, crash images, healing, the step again, the rest, a clean end.
//! Invariant: each assertion is exact, except where the engine's outcome is in
//! doubt by design, which is where the oracle says "may show". Must not know: which
//! call fails, of which workload.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use esker::Error;

use super::drive::{Answer, Driver};
use super::failure::Hit;
use super::steps::{RED, Step, Workload, probe};
use super::table::{Judged, Phase, Role};
use crate::oracle::{Loss, Queries, check_snapshot};
use crate::sim::Crash::{self, KeepAll, LoseAllUnsynced, Random};
use crate::sim::{Call, CallKind};

/// Draws of the queries. The same in all runs: reads of a checker have numbers, too.
const LOOK: u64 = 7;

/// What a run did.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// The call that was made to fail first; `None` if the workload ended before.
    pub(super) hit: Option<(Call, Phase, Judged)>,
    pub(super) poisoned: bool,
    pub(super) images: u64,
    /// Calls that the workload made, those of checks and preparations left out.
    pub(super) calls: Vec<(u64, CallKind)>,
}

pub(super) struct Run<'a> {
    pub(super) driver: Driver<'a>,
    pub(super) hit: Option<&'a Hit>,
    /// The cause, once a handle must be poisoned.
    pub(super) cause: Option<String>,
    seed: u64,
    pub(super) outcome: Outcome,
}

impl<'a> Run<'a> {
    pub(super) fn new(driver: Driver<'a>, hit: Option<&'a Hit>, seed: u64) -> Self {
        Self {
            driver,
            hit,
            cause: None,
            seed,
            outcome: Outcome::default(),
        }
    }

    /// Runs the workload to its end.
    pub(super) fn go(mut self, workload: &Workload) -> Result<Outcome, String> {
        if let Some(hit) = self.hit {
            self.driver.leaves_a_part = hit.failure.leaves_a_part();
            for fault in hit.faults(&Arc::new(AtomicU64::new(0))) {
                self.driver.stage.inject(fault);
            }
        }
        let (mut waited, mut ranges) = (false, Vec::new());
        for (i, step) in workload.steps.iter().enumerate() {
            let place = |error| format!("step {i}, {step:?}: {error}");
            let was_open = self.driver.db.is_some();
            let injected = self.driver.stage.injected();
            let answers = self.driver.perform(step);
            ranges.extend(answers.iter().map(|answer| answer.calls));
            if self.driver.stage.injected() > injected {
                self.after(step, &answers).map_err(place)?;
            } else {
                self.all_fine(&answers).map_err(place)?;
                if matches!(step, Step::Open) && !was_open {
                    self.recovered(self.loss_of_before(workload, i))
                        .map_err(place)?;
                }
                if waited && matches!(step, Step::Background) {
                    self.driver.periods_are_over();
                }
            }
            waited = matches!(step, Step::Wait);
            if matches!(step, Step::GrowManifest) {
                // What came before other workloads have, too.
                ranges.clear();
            }
        }
        if self.hit.is_none() {
            let owned = |call: &Call| {
                ranges
                    .iter()
                    .any(|&(from, to)| from < call.number && call.number <= to)
            };
            let calls = self.driver.stage.log().into_iter().filter(owned);
            self.outcome.calls = calls.map(|call| (call.number, call.kind)).collect();
        }
        self.driver.stage.heal();
        self.finish()
            .map_err(|error| format!("at the end: {error}"))?;
        Ok(self.outcome)
    }

    /// What the process before an open may have lost.
    fn loss_of_before(&self, workload: &Workload, step: usize) -> Loss {
        match step.checked_sub(1).map(|i| &workload.steps[i]) {
            None if workload.before.is_empty() => Loss::Nothing,
            None => Loss::Process,
            Some(_) => Loss::Nothing,
        }
    }

    fn all_fine(&self, answers: &[Answer]) -> Result<(), String> {
        match answers.iter().find_map(Answer::error) {
            None => Ok(()),
            Some(error) => Err(format!("failed although no call was made to: {error}")),
        }
    }

    /// The failure came: everything that must hold now.
    fn after(&mut self, step: &Step, answers: &[Answer]) -> Result<(), String> {
        self.judge_all(answers)?;
        let settled = !matches!(step, Step::Create(_) | Step::DropCollection(_))
            || answers.iter().all(|answer| answer.error().is_none());
        self.check_poison()?;
        if settled {
            self.reads_go_on()?;
        }
        let lasts = self.hit.is_some_and(|hit| !hit.once);
        if lasts && self.cause.is_none() && self.driver.db.is_some() {
            self.pester()?;
            if settled {
                self.reads_go_on()?;
            }
        }
        self.crash_now(&[
            KeepAll,
            LoseAllUnsynced,
            Random(self.seed),
            Random(!self.seed),
        ])?;
        self.driver.stage.heal();
        if self.cause.is_some() && self.driver.db.is_some() {
            if settled {
                self.check_live()?;
            }
            self.poisoned_to_the_end()?;
            self.reopen(Loss::Process)?;
        } else if self.driver.db.is_none() && !matches!(step, Step::Close) {
            self.reopen(Loss::Process)?;
            return Ok(());
        } else if matches!(step, Step::Close) {
            let closed = answers.iter().all(|answer| answer.error().is_none());
            let loss = if closed { Loss::Nothing } else { Loss::Process };
            self.cause = None;
            self.reopen(loss)?;
            let answers = self.driver.perform(&Step::Close);
            return self.all_fine(&answers);
        } else if settled {
            self.check_live()?;
        }
        self.again(step)
    }

    /// Whatever was being done works now.
    fn again(&mut self, step: &Step) -> Result<(), String> {
        if matches!(step, Step::Open) {
            return self.check_live();
        }
        if let Step::DropCollection(n) = step
            && !self.driver.has(*n)
        {
            return Ok(());
        }
        let answers = self.driver.perform(step);
        self.all_fine(&answers)
            .map_err(|error| format!("the same again {error}"))?;
        let answers = self.driver.perform(&Step::Background);
        self.all_fine(&answers)?;
        self.check_live()
    }

    // While the failure lasts.

    /// What needs no storage is read as before; the rest is right or a named error.
    fn reads_go_on(&mut self) -> Result<(), String> {
        if self.driver.db.is_none() {
            return Ok(());
        }
        if !self.driver.workload.pread {
            return self.check_live();
        }
        let (db, failure) = (self.driver.db(), self.hit.map(|hit| hit.failure));
        for (name, rows) in self.driver.oracle.state() {
            let collection = db.collection(&name).map_err(|error| error.to_string())?;
            for (key, row) in &rows {
                match collection.get(key.clone()) {
                    Ok(Some(record)) if record.vector == row.floats() => {}
                    Err(Error::Io {
                        file: Some(file),
                        source,
                        ..
                    }) if file.extension().is_some_and(|e| e == "segment")
                        && failure.is_some_and(|f| f.is(&source)) => {}
                    other => return Err(format!("reading {name}/{key} answers {other:?}")),
                }
            }
        }
        Ok(())
    }

    /// The failure goes on: each further try is judged like the first.
    fn pester(&mut self) -> Result<(), String> {
        let tries = [
            Step::Write(probe()),
            Step::Flush,
            Step::Write(probe()),
            Step::Compact,
            Step::Background,
            Step::Sync,
        ];
        let exists = self.driver.has(RED);
        for step in &tries {
            if !exists && matches!(step, Step::Write(_)) {
                continue;
            }
            let answers = self.driver.perform(step);
            self.judge_all(&answers)
                .and_then(|()| self.check_poison())
                .map_err(|error| format!("while it lasts, {step:?}: {error}"))?;
            if self.cause.is_some() {
                break;
            }
        }
        Ok(())
    }

    // Afterwards.

    /// Power cuts and a kill right now: each leaves a database that holds what it must.
    fn crash_now(&mut self, crashes: &[Crash]) -> Result<(), String> {
        for &crash in crashes {
            if crash != KeepAll && self.name_in_doubt() {
                continue;
            }
            let loss = match crash {
                KeepAll => Loss::Process,
                LoseAllUnsynced | Random(_) => Loss::Power,
            };
            let Some(stage) = self.driver.stage.image(crash) else {
                return Ok(());
            };
            let mut after = Driver::new(self.driver.workload, stage);
            after.oracle = self.driver.oracle.clone();
            let place = |error: String, after: &Driver<'_>| {
                format!(
                    "after {crash:?}: {error}\n{:#?}",
                    after.stage.image_report()
                )
            };
            opened(&mut after, loss, self.seed).map_err(|error| place(error, &after))?;
            self.outcome.images += 1;
            if self.name_in_doubt() {
                continue;
            }
            // What an open serves is on the disk, whatever the page cache held.
            let Some(stage) = after.stage.image(LoseAllUnsynced) else {
                continue;
            };
            let mut again = Driver::new(self.driver.workload, stage);
            again.oracle = after.oracle.clone();
            opened(&mut again, Loss::Nothing, self.seed)
                .map_err(|error| place(format!("and a power cut: {error}"), &after))?;
            self.outcome.images += 1;
        }
        Ok(())
    }

    /// Whether the sync failed that makes the database's own name durable. The host
    /// gave that name: it cannot be given up for another as an output's is, and no
    /// later sync proves anything. What the file system lost with it is lost.
    fn name_in_doubt(&self) -> bool {
        let hit = self.outcome.hit.as_ref();
        hit.is_some_and(|(call, _, judged)| {
            call.kind == CallKind::SyncDir && judged.role == Role::Directory
        })
    }

    /// A poisoned handle refuses everything but reads, for the first cause, and
    /// its close says so.
    fn poisoned_to_the_end(&mut self) -> Result<(), String> {
        let effects = self.effects();
        let steps = [
            Step::Write(probe()),
            Step::Flush,
            Step::Compact,
            Step::Sync,
            Step::Create(RED),
            Step::DropCollection(RED),
        ];
        let exists = self.driver.has(RED);
        let oracle = self.driver.oracle.clone();
        let refused = |answer: &Answer, cause: &Option<String>| match answer.error() {
            Some(Error::Poisoned { cause: said }) if Some(said) == cause.as_ref() => Ok(()),
            other => Err(format!("a poisoned handle answers {other:?}")),
        };
        for step in &steps {
            if !exists && matches!(step, Step::Write(_) | Step::DropCollection(_)) {
                continue;
            }
            for answer in self.driver.perform(step) {
                refused(&answer, &self.cause).map_err(|error| format!("{step:?}: {error}"))?;
            }
        }
        let answers = self.driver.perform(&Step::Background);
        self.all_fine(&answers)?;
        // None of these reached the log, so none may ever show.
        self.driver.oracle = oracle;
        if self.effects() != effects {
            return Err("a poisoned handle writes".to_owned());
        }
        for answer in self.driver.perform(&Step::Close) {
            refused(&answer, &self.cause).map_err(|error| format!("closing: {error}"))?;
        }
        self.cause = None;
        Ok(())
    }

    /// Calls that write, as far as the log reaches back.
    fn effects(&self) -> usize {
        let log = self.driver.stage.log();
        let writes = log
            .iter()
            .filter(|c| c.kind.is_effect() && c.kind != CallKind::Remove);
        writes.count()
    }

    fn reopen(&mut self, loss: Loss) -> Result<(), String> {
        let answers = self.driver.perform(&Step::Open);
        self.all_fine(&answers)
            .map_err(|error| format!("the next open {error}"))?;
        self.recovered(loss)
    }

    /// Compares what an open found with what it must.
    fn recovered(&mut self, loss: Loss) -> Result<(), String> {
        let db = self.driver.db();
        let report = db.recovery_report();
        if loss == Loss::Nothing && !report.clean && !report.created {
            return Err(format!(
                "a clean close left something to recover: {report:?}"
            ));
        }
        self.driver.oracle.check(&db, loss, &Queries::new(LOOK))?;
        Ok(())
    }

    fn check_live(&self) -> Result<(), String> {
        let (db, queries) = (self.driver.db(), Queries::new(LOOK));
        self.driver.oracle.check_live(&db, &queries)?;
        let mut snapshots = self.driver.snapshots.iter();
        snapshots.try_for_each(|(s, state)| check_snapshot(&db, s, state, &queries))
    }

    /// Everything works, nothing is left over, and the end is clean.
    fn finish(&mut self) -> Result<(), String> {
        if self.driver.db.is_none() {
            self.reopen(Loss::Nothing)?;
        }
        self.driver.snapshots.clear();
        for step in [
            Step::Write(probe()),
            Step::Compact,
            Step::Background,
            Step::Verify,
        ] {
            let answers = self.driver.perform(&step);
            self.all_fine(&answers)?;
        }
        self.check_live()?;
        self.check_abandoned()?;
        self.crash_now(&[LoseAllUnsynced])?;
        let stats = self.driver.db().stats();
        // Two log files, the manifest, and segments that are read call by call.
        let files = 3 + if self.driver.workload.pread {
            stats.segments
        } else {
            0
        };
        let open = self.driver.stage.open_files();
        if open > files {
            return Err(format!("{open} files are open, {files} are enough"));
        }
        let answers = self.driver.perform(&Step::Close);
        self.all_fine(&answers)?;
        let open = self.driver.stage.open_files();
        if open > 0 {
            return Err(format!("{open} files are open after the close"));
        }
        self.reopen(Loss::Nothing)?;
        self.check_directory()?;
        let answers = self.driver.perform(&Step::Close);
        self.all_fine(&answers)
    }

    /// No file is left that nothing needs.
    fn check_directory(&self) -> Result<(), String> {
        let names = self
            .driver
            .stage
            .names()
            .map_err(|error| error.to_string())?;
        let count = |end: &str| names.iter().filter(|name| name.ends_with(end)).count();
        let segments = self.driver.db().stats().segments;
        let left = count(".tmp") > 0
            || count(".segment") != segments
            || count(".deletions") > segments
            || count(".manifest") != 1
            || count(".log") != 1;
        if left {
            return Err(format!(
                "{segments} segments, but files are left over: {names:?}"
            ));
        }
        Ok(())
    }
}

/// An open after a crash, compared with what is legal.
fn opened(after: &mut Driver<'_>, loss: Loss, seed: u64) -> Result<(), String> {
    let answers = after.perform(&Step::Open);
    if let Some(error) = answers.iter().find_map(Answer::error) {
        return Err(format!("it does not open: {error}"));
    }
    let db = after.db();
    after.oracle.check(&db, loss, &Queries::new(seed)).map(drop)
}

/// Counts the calls that one failure hits: an engine that tries again for ever
/// would never end.
pub(super) fn count(hits: &AtomicU64) {
    const ENOUGH: u64 = 2_000;
    let before = hits.fetch_add(1, Ordering::Relaxed);
    assert!(before < ENOUGH, "a failing call is tried again for ever");
}
