//! The parts of a run, how it goes down and how it comes back.
//!
//! Owns crashes, reopening, and what is compared when. Must not know: what each
//! operation does.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use esker::{CollectionOptions, Db, MergePause, Snapshot};

use super::ops::{COLLECTIONS, Case, CrashSpec, Op};
use super::record::Recorder;
use super::summary::Summary;
use super::told::Told;
use crate::oracle::{Loss, Oracle, Outcome, Queries, Seen, State, WriteId, check_snapshot};
use crate::sim::{At, Crash, Fault, Moment, SimEnv};

pub(super) const DIR: &str = "/db";

/// Background steps after which there must be nothing left to do.
const MANY_STEPS: usize = 2_000;

/// Percent of the true neighbours that the searches by graphs of one run must
/// find, once there were this many.
const LEAST_RECALL: u64 = 90;
const ENOUGH: u64 = 200;

/// A machine, the database on it, and what is known of both.
pub(super) struct Machine<'a> {
    pub(super) case: &'a Case,
    pub(super) env: SimEnv,
    pub(super) db: Option<Db>,
    pub(super) oracle: Oracle,
    pub(super) snapshots: Vec<(Snapshot, State)>,
    /// Keeps background merges waiting, if they are to wait.
    pub(super) pause: Option<MergePause>,
    /// The crash that is planned, if one is.
    plan: Option<CrashSpec>,
    opens: usize,
    /// Calls that faults had hit when the database was opened.
    pub(super) poisoned: bool,
    pub(super) periodic: Vec<(WriteId, Duration)>,
    /// Submitted writes whose callback said that they are on the disk.
    pub(super) durable: Arc<Mutex<Vec<WriteId>>>,
    pub(super) checks: u64,
    seen: Arc<Seen>,
    /// The last calls of the machine before this one.
    past: String,
    /// Keeps what a crash could leave, if that is asked for.
    pub(super) recorder: Option<Recorder>,
    pub(super) summary: Summary,
    told: Told,
}

/// Runs a case. The error says what went wrong, and what the machine did.
///
/// # Errors
/// The first difference between the database and its model.
pub fn run(case: &Case) -> Result<Summary, String> {
    let mut machine = Machine::new(case);
    match machine.run() {
        Ok(()) => machine.judge(),
        Err(error) => Err(machine.explain(&error)),
    }
}

impl<'a> Machine<'a> {
    pub(super) fn new(case: &'a Case) -> Self {
        Self {
            case,
            env: SimEnv::new(case.seed),
            db: None,
            oracle: Oracle::new(),
            snapshots: Vec::new(),
            pause: None,
            plan: None,
            opens: 0,
            poisoned: false,
            periodic: Vec::new(),
            durable: Arc::default(),
            checks: 0,
            seen: Arc::default(),
            past: String::new(),
            recorder: None,
            summary: Summary::default(),
            told: Told::default(),
        }
    }
}

impl Machine<'_> {
    fn run(&mut self) -> Result<(), String> {
        self.open(Loss::Nothing, &self.case.birth)?;
        for (i, op) in self.case.ops.iter().enumerate() {
            self.step(op)
                .map_err(|error| format!("operation {i}, {op:?}:\n{error}"))?;
        }
        self.finish()
            .map_err(|error| format!("at the end:\n{error}"))
    }

    /// The summary of a run that ended, if its searches found enough.
    fn judge(&mut self) -> Result<Summary, String> {
        let (found, of) = self.seen.recall();
        if of >= ENOUGH && found * 100 < of * LEAST_RECALL {
            return Err(format!(
                "searches by graphs found {found} of {of} true neighbours"
            ));
        }
        (self.summary.neighbors_found, self.summary.neighbors) = (found, of);
        self.summary.walks = self.seen.walks.load(Ordering::Relaxed);
        self.summary.fallbacks = self.seen.fallbacks.load(Ordering::Relaxed);
        Ok(self.summary)
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        self.perform(op)?;
        if self.env.is_stopped() {
            return self.recover();
        }
        self.note_callbacks();
        // A fault that goes on for ever has been seen often enough.
        if self.summary.errored >= 6 {
            self.env.clear_faults();
        }
        self.check(false)
    }

    pub(super) fn explain(&self, error: &str) -> String {
        format!(
            "{error}\n\nthe last calls before the last crash:\n{}\n\nits image: {:#?}\n\n\
             the last calls:\n{}",
            self.past,
            self.env.image_report(),
            last_calls(&self.env)
        )
    }

    pub(super) fn db(&self) -> Db {
        self.db
            .clone()
            .expect("a database is open between operations")
    }

    /// Whether an error may come from a planned failure.
    pub(super) fn tolerant(&self) -> bool {
        self.env.injected() > 0
    }

    /// Compares what is visible with the model. Faults of reads are lifted: an
    /// answer may fail, but that is not what is asked here.
    pub(super) fn check(&mut self, thorough: bool) -> Result<(), String> {
        self.checks += 1;
        let queries = Queries {
            seed: self.case.seed ^ self.checks,
            count: 1,
            every_key: thorough || self.checks.is_multiple_of(8),
            seen: Arc::clone(&self.seen),
        };
        let db = self.db();
        self.env.pause_faults(true);
        let mut result = self.oracle.check_live(&db, &queries);
        for (snapshot, state) in &self.snapshots {
            result = result.and_then(|()| check_snapshot(&db, snapshot, state, &queries));
        }
        self.env.pause_faults(false);
        result?;
        self.told.check(&db.stats())
    }

    /// Learns what callbacks said to be on the disk.
    pub(super) fn note_callbacks(&mut self) {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        for write in durable.drain(..) {
            self.oracle.durable_through(write);
        }
    }

    // Going down.

    /// Plans a crash, or makes it now.
    pub(super) fn plan_crash(&mut self, spec: &CrashSpec) {
        self.plan = Some(spec.clone());
        if spec.after == 0 {
            self.env.stop();
        } else {
            let at = At::Effect(self.env.effects() + u64::from(spec.after));
            self.env.crash_at(at, spec.moment);
        }
    }

    /// The machine has stopped: comes back from what is left.
    fn recover(&mut self) -> Result<(), String> {
        let spec = self
            .plan
            .take()
            .expect("it stops only where it was planned");
        self.note_callbacks();
        self.told.check(&self.db().stats())?;
        self.let_go();
        self.summary.crashes += 1;
        let loss = self.replace(spec.crash);
        self.open(loss, &spec.again)
    }

    /// Drops everything that a process has.
    pub(super) fn let_go(&mut self) {
        self.env.clear_hooks();
        self.count();
        self.snapshots.clear();
        self.pause = None;
        self.db = None;
        self.durable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.periodic.clear();
        self.poisoned = false;
    }

    fn count(&mut self) {
        self.summary.faults += self.env.injected();
        if let Some(db) = &self.db {
            let stats = db.stats();
            self.summary.flushes += stats.flushes;
            self.summary.merges += stats.merges;
            self.summary.merges_cancelled += stats.merges_cancelled;
        }
    }

    /// The machine after a crash takes the place of the one before.
    fn replace(&mut self, crash: Crash) -> Loss {
        self.past = last_calls(&self.env);
        self.env = self.env.crash_image(crash);
        match crash {
            Crash::KeepAll => Loss::Process,
            Crash::LoseAllUnsynced | Crash::Random(_) => Loss::Power,
        }
    }

    // Coming back.

    /// Opens the database, through as many crashes as are planned, and compares it
    /// with what is legal after such losses.
    pub(super) fn open(&mut self, mut loss: Loss, crashes: &[CrashSpec]) -> Result<(), String> {
        // After a clean close, an earlier plan may still be to come.
        if self.plan.is_some() {
            if self.try_open(loss)? {
                return Ok(());
            }
            let spec = self.plan.take().expect("it was there");
            self.summary.crashes += 1;
            loss = worse(loss, self.replace(spec.crash));
            return self.open(loss, &spec.again);
        }
        for spec in crashes {
            let after = u64::from(spec.after.max(1));
            let at = At::Effect(self.env.effects() + after);
            self.env.crash_at(at, spec.moment);
            if self.try_open(loss)? {
                self.env.cancel_crash();
                return Ok(());
            }
            self.summary.crashes_in_recovery += 1;
            loss = worse(loss, self.replace(spec.crash));
        }
        if self.try_open(loss)? {
            return Ok(());
        }
        Err("the machine stopped although nothing was planned".to_owned())
    }

    /// False when the machine stopped.
    fn try_open(&mut self, mut loss: Loss) -> Result<bool, String> {
        let settings = self.case.settings[self.opens % self.case.settings.len()];
        self.opens += 1;
        self.expect(self.oracle.clone());
        let mut opened = Db::open(DIR, self.told.listen(settings.options(&self.env)));
        if let Err(error) = &opened
            && self.tolerant()
            && !self.env.is_stopped()
        {
            // An open may fail, but it must not have spoiled anything.
            self.tolerate("an open", error)?;
            self.env.clear_faults();
            loss = worse(loss, Loss::Process);
            opened = Db::open(DIR, self.told.listen(settings.options(&self.env)));
        }
        let db = match opened {
            // It may not even notice, while it only tidies up.
            Ok(_) | Err(_) if self.env.is_stopped() => return Ok(false),
            Ok(db) => db,
            Err(error) => return Err(format!("the database does not open: {error}")),
        };
        self.told.opened(&db.stats());
        self.mark();
        let report = db.recovery_report();
        self.summary.torn_tails += u64::from(report.torn_tail.is_some());
        self.summary.recovery_segments += report.flushed_segments as u64;
        if loss == Loss::Nothing && !report.clean && !report.created {
            return Err(format!(
                "a clean close left something to recover: {report:?}"
            ));
        }
        let queries = Queries {
            seen: Arc::clone(&self.seen),
            ..Queries::new(self.case.seed ^ self.opens as u64)
        };
        self.env.pause_faults(true);
        let recovered = self
            .oracle
            .check(&db, loss, &queries)
            .map_err(|error| format!("after an open with {report:?}:\n{error}"))?;
        self.summary.lost += (recovered.of - recovered.prefix) as u64;
        self.db = Some(db);
        let created = self.create_collections()?;
        self.env.pause_faults(false);
        if !created {
            self.let_go();
        }
        Ok(created)
    }

    /// Makes the collections that are missing. False when the machine stopped.
    pub(super) fn create_collections(&mut self) -> Result<bool, String> {
        let db = self.db();
        let existing = db.collections();
        for (name, dimension, metric) in COLLECTIONS {
            if existing.iter().any(|other| other == name) {
                continue;
            }
            let mut during = self.oracle.clone();
            during.created(name, dimension, metric, Outcome::InFlight);
            self.expect(during);
            let result = db.create_collection(name, CollectionOptions::new(dimension, metric));
            let outcome = match result {
                Ok(_) => Outcome::Acked,
                Err(_) if self.env.is_stopped() => Outcome::InFlight,
                Err(error) => return Err(format!("creating {name:?}: {error}")),
            };
            self.mark();
            self.oracle.created(name, dimension, metric, outcome);
            if outcome == Outcome::InFlight {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Everything that must hold at the end of any run.
    fn finish(&mut self) -> Result<(), String> {
        self.env.clear_faults();
        self.check(true)?;
        // Whatever was planned is off; the run ends with a power cut.
        let crash = match self.case.seed % 2 {
            0 => Crash::LoseAllUnsynced,
            _ => Crash::Random(self.case.seed),
        };
        self.plan_crash(&CrashSpec {
            after: 0,
            moment: Moment::Before,
            crash,
            again: Vec::new(),
        });
        self.recover()?;
        self.idle()?;
        self.verify()?;
        self.check(true)?;
        let db = self.db();
        db.compact()
            .map_err(|error| format!("compacting: {error}"))?;
        self.check(true)?;
        drop(db);
        self.reopen()?;
        self.idle()?;
        self.verify()?;
        self.check_directory()?;
        self.check(true)?;
        self.let_go();
        Ok(())
    }

    /// Background steps until there is nothing to do.
    pub(super) fn idle(&mut self) -> Result<(), String> {
        let db = self.db();
        for _ in 0..MANY_STEPS {
            match db.run_background_step() {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(_) if self.env.is_stopped() || self.tolerant() => return Ok(()),
                Err(error) => return Err(format!("a background step: {error}")),
            }
        }
        Err(format!("background work has no end: {:?}", db.stats()))
    }

    pub(super) fn verify(&mut self) -> Result<(), String> {
        if self.tolerant() {
            // A failed append may have left bytes at the end of the live manifest.
            return Ok(());
        }
        self.env.pause_faults(true);
        let report = self.db().verify();
        self.env.pause_faults(false);
        match report {
            Ok(report) if report.is_ok() => Ok(()),
            Ok(report) => Err(format!("verification found {:#?}", report.problems)),
            Err(error) => Err(format!("verification failed: {error}")),
        }
    }

    /// No file is left that nothing needs.
    fn check_directory(&self) -> Result<(), String> {
        let names = self.env.names(DIR).map_err(|error| error.to_string())?;
        let count = |end: &str| names.iter().filter(|name| name.ends_with(end)).count();
        let segments = self.db().stats().segments;
        if count(".tmp") > 0 || count(".segment") != segments || count(".manifest") != 1 {
            return Err(format!(
                "{segments} segments, but files are left over: {names:?}"
            ));
        }
        Ok(())
    }

    /// A fault of these calls.
    pub(super) fn inject(&mut self, fault: Fault) {
        self.env.inject(fault);
    }
}

fn last_calls(env: &SimEnv) -> String {
    let log = env.log_text();
    let from = log.lines().count().saturating_sub(80);
    log.lines().skip(from).collect::<Vec<_>>().join("\n")
}

/// What is left after one loss and another.
fn worse(one: Loss, other: Loss) -> Loss {
    match (one, other) {
        (Loss::Power, _) | (_, Loss::Power) => Loss::Power,
        (Loss::Process, _) | (_, Loss::Process) => Loss::Process,
        (Loss::Nothing, Loss::Nothing) => Loss::Nothing,
    }
}
