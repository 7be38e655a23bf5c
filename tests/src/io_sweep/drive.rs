//! A database on a stage, and the steps of a workload done to it.
//!
//! Owns what each step calls and what its answer means to the oracle. Invariant:
//! every storage call belongs to exactly one answer, the innermost one. Must not
//! know: which answers are right.

use std::sync::{Arc, Mutex, PoisonError};

use esker::{CollectionOptions, Db, Error, SearchOptions, Snapshot, WriteOptions};

use super::stage::Stage;
use super::steps::{Batch, COLLECTIONS, PERIOD, Step, Workload};
use super::table::{Phase, wrote_frames};
use crate::oracle::{Oracle, Outcome, State};
use crate::sim::{Call, CallKind, CallOutcome};

/// What one call of the engine's interface answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) phase: Phase,
    /// Numbers of the last storage call before it, and of its last one.
    pub(super) calls: (u64, u64),
    /// Calls in this range that belong to answers of their own.
    pub(super) inner: Option<(u64, u64)>,
    /// Several writers may get one answer each.
    pub(super) results: Vec<Result<(), Error>>,
}

impl Answer {
    pub(super) fn owns(&self, call: &Call) -> bool {
        let within = |(from, to): (u64, u64)| from < call.number && call.number <= to;
        within(self.calls) && !self.inner.is_some_and(within)
    }

    pub(super) fn error(&self) -> Option<&Error> {
        self.results.iter().find_map(|result| result.as_ref().err())
    }
}

/// One run of a workload.
pub(super) struct Driver<'a> {
    pub(super) workload: &'a Workload,
    pub(super) stage: Stage,
    pub(super) db: Option<Db>,
    pub(super) oracle: Oracle,
    pub(super) snapshots: Vec<(Snapshot, State)>,
    /// Whether a failing write leaves a part of its bytes.
    pub(super) leaves_a_part: bool,
}

impl<'a> Driver<'a> {
    pub(super) fn new(workload: &'a Workload, stage: Stage) -> Self {
        Self {
            workload,
            stage,
            db: None,
            oracle: Oracle::new(),
            snapshots: Vec::new(),
            leaves_a_part: false,
        }
    }

    pub(super) fn db(&self) -> Db {
        self.db.clone().expect("the workload opened it before")
    }

    /// Whether the collection is there.
    pub(super) fn has(&self, n: usize) -> bool {
        let names = self.db().collections();
        names.iter().any(|name| name == COLLECTIONS[n].0)
    }

    /// Does a step; the answers in the order in which they came.
    pub(super) fn perform(&mut self, step: &Step) -> Vec<Answer> {
        match step {
            Step::Open => vec![self.open()],
            Step::Create(n) => vec![self.create(*n)],
            Step::DropCollection(n) => vec![self.drop_collection(*n)],
            Step::Write(batch) => vec![self.write(batch)],
            Step::Submit(batches) => vec![self.submit(batches)],
            Step::Sync => vec![self.durable(Phase::Write, Db::sync)],
            Step::Flush => vec![self.durable(Phase::Flush, Db::flush)],
            Step::Compact => vec![self.durable(Phase::Compact, Db::compact)],
            Step::CompactAcross(batch) => self.compact_across(batch),
            Step::Background => self.background(),
            Step::Wait => {
                esker::env::Env::clock(&*self.stage.env()).sleep(PERIOD * 2);
                Vec::new()
            }
            Step::Snapshot => {
                let snapshot = self.db().snapshot().expect("memory is there");
                self.snapshots.push((snapshot, self.oracle.state()));
                Vec::new()
            }
            Step::Release => {
                self.snapshots.clear();
                Vec::new()
            }
            Step::Read => self.read(),
            Step::Verify => vec![self.verify()],
            Step::GrowManifest => self.grow_manifest(),
            Step::Close => vec![self.close()],
        }
    }

    fn answer<T>(
        &self,
        phase: Phase,
        call: impl FnOnce() -> Result<T, Error>,
    ) -> (Answer, Option<T>) {
        let before = self.stage.calls();
        let (result, value) = match call() {
            Ok(value) => (Ok(()), Some(value)),
            Err(error) => (Err(error), None),
        };
        let answer = Answer {
            phase,
            calls: (before, self.stage.calls()),
            inner: None,
            results: vec![result],
        };
        (answer, value)
    }

    fn open(&mut self) -> Answer {
        let (workload, env, dir) = (self.workload, self.stage.env(), self.stage.dir());
        let (answer, db) = self.answer(Phase::Open, || workload.open(env, dir));
        self.db = db;
        answer
    }

    fn create(&mut self, n: usize) -> Answer {
        let (db, (name, dimension, metric)) = (self.db(), COLLECTIONS[n]);
        let (answer, made) = self.answer(Phase::Collection, || {
            db.create_collection(name, CollectionOptions::new(dimension, metric))
        });
        let outcome = match made {
            Some(_) => Outcome::Acked,
            None => Outcome::Errored,
        };
        self.oracle.created(name, dimension, metric, outcome);
        answer
    }

    fn drop_collection(&mut self, n: usize) -> Answer {
        let (db, name) = (self.db(), COLLECTIONS[n].0);
        let (answer, gone) = self.answer(Phase::Collection, || db.drop_collection(name));
        let outcome = match gone {
            Some(()) => Outcome::Acked,
            None => Outcome::Errored,
        };
        for (_, state) in &mut self.snapshots {
            // The handle that reads it is gone.
            state.remove(name);
        }
        self.oracle.dropped(name, outcome);
        answer
    }

    pub(super) fn write(&mut self, batch: &Batch) -> Answer {
        let db = self.db();
        let (answer, done) = self.answer(Phase::Write, || {
            let options = WriteOptions::new().durability(batch.1);
            db.write_with(batch.batch(&db)?, options)
        });
        let outcome = self.outcome(&answer, done.is_some());
        self.oracle.record(batch.changes(), batch.1, outcome);
        answer
    }

    /// What became of a write. One whose frame cannot have reached the log was
    /// refused, and never shows.
    fn outcome(&self, answer: &Answer, done: bool) -> Outcome {
        if done {
            return Outcome::Acked;
        }
        let log = self.stage.log();
        let reached = |at: usize| {
            let call = &log[at];
            answer.owns(call)
                && wrote_frames(&log, at, answer.phase, answer.calls.0)
                && (call.outcome == Some(CallOutcome::Done) || self.leaves_a_part)
        };
        if (0..log.len()).any(reached) {
            Outcome::Errored
        } else {
            Outcome::Failed
        }
    }

    fn submit(&mut self, batches: &[Batch]) -> Answer {
        let db = self.db();
        let mut results = Vec::new();
        let (mut answer, _) = self.answer(Phase::Write, || {
            let tickets: Vec<_> = batches
                .iter()
                .map(|batch| {
                    let options = WriteOptions::new().durability(batch.1);
                    batch.batch(&db).and_then(|b| db.submit(b, options))
                })
                .collect();
            let waited = tickets
                .into_iter()
                .map(|t| t.and_then(|t| t.wait().map(drop)));
            results.extend(waited);
            Ok(())
        });
        for (batch, result) in batches.iter().zip(&results) {
            let outcome = self.outcome(&answer, result.is_ok());
            self.oracle.record(batch.changes(), batch.1, outcome);
        }
        answer.results = results;
        answer
    }

    /// A call after whose `Ok` everything acknowledged before is on the disk.
    fn durable(&mut self, phase: Phase, call: impl FnOnce(&Db) -> Result<(), Error>) -> Answer {
        let (db, last) = (self.db(), self.oracle.last_write());
        let (answer, done) = self.answer(phase, || call(&db));
        if let (Some(()), Some(last)) = (done, last) {
            self.oracle.durable_through(last);
        }
        answer
    }

    /// In the middle of a full merge a batch is written and flushed.
    fn compact_across(&mut self, batch: &Batch) -> Vec<Answer> {
        let flushed = self.durable(Phase::Flush, Db::flush);
        if flushed.error().is_some() {
            return vec![flushed];
        }
        let done = Arc::new(Mutex::new(Vec::new()));
        let (slot, db, calls, inner) = (
            Arc::clone(&done),
            self.db(),
            self.stage.counter(),
            batch.clone(),
        );
        self.stage.before(
            |call| {
                call.kind == CallKind::Sync && call.path.to_string_lossy().ends_with(".segment.tmp")
            },
            move || {
                let mut done = slot.lock().unwrap_or_else(PoisonError::into_inner);
                let options = WriteOptions::new().durability(inner.1);
                let answer = |phase, from, result| Answer {
                    phase,
                    calls: (from, calls()),
                    inner: None,
                    results: vec![result],
                };
                let from = calls();
                let written = inner.batch(&db).and_then(|b| db.write_with(b, options));
                done.push(answer(Phase::Write, from, written.map(drop)));
                let from = calls();
                let flushed = db.flush();
                done.push(answer(Phase::Flush, from, flushed));
            },
        );
        let db = self.db();
        let (mut outer, _) = self.answer(Phase::Compact, || db.compact());
        self.stage.clear_hooks();
        let mut answers = std::mem::take(&mut *done.lock().unwrap_or_else(PoisonError::into_inner));
        if let [written, flushed] = &answers[..] {
            outer.inner = Some((written.calls.0, flushed.calls.1));
            let outcome = self.outcome(written, written.error().is_none());
            let write = self.oracle.record(batch.changes(), batch.1, outcome);
            if flushed.error().is_none() {
                self.oracle.durable_through(write);
            }
        }
        answers.insert(0, flushed);
        answers.push(outer);
        answers
    }

    fn background(&mut self) -> Vec<Answer> {
        /// Steps after which there must be nothing left to do.
        const MANY: usize = 200;
        let mut answers = Vec::new();
        for _ in 0..MANY {
            let db = self.db();
            let (answer, worked) = self.answer(Phase::Background, || db.run_background_step());
            answers.push(answer);
            if worked != Some(true) {
                return answers;
            }
        }
        panic!("background work has no end");
    }

    fn read(&self) -> Vec<Answer> {
        let db = self.db();
        let mut answers = Vec::new();
        for name in db.collections() {
            let (answer, _) = self.answer(Phase::Read, || {
                let rows = db.collection(&name)?;
                for key in 0..12_u8 {
                    rows.get(&format!("key-{key}").into_bytes()[..])?;
                }
                let query = vec![1.5; rows.dimension() as usize];
                rows.search(&query, &SearchOptions::new(3))?;
                rows.scan(..)?.try_for_each(|row| row.map(drop))?;
                rows.len()
            });
            answers.push(answer);
        }
        answers
    }

    fn verify(&self) -> Answer {
        let db = self.db();
        let verify = || match db.verify()?.problems.first() {
            Some(problem) => Err(problem.clone()),
            None => Ok(()),
        };
        self.answer(Phase::Verify, verify).0
    }

    /// Collections come and go until the manifest is so long that the next edit
    /// begins a fresh one.
    fn grow_manifest(&self) -> Vec<Answer> {
        const LONG: u64 = 1 << 20;
        let (db, name) = (self.db(), "n".repeat(255));
        let end = || {
            let log = self.stage.log();
            let last = log.iter().rfind(|call| {
                call.kind == CallKind::Write
                    && call.path.extension().is_some_and(|e| e == "manifest")
            });
            last.map_or(0, |call| call.offset + call.len)
        };
        let made = CollectionOptions::new(1, esker::Metric::L2);
        let come_and_go = |times: u64| {
            for _ in 0..times {
                db.create_collection(&name, made).expect("made");
                db.drop_collection(&name).expect("dropped");
            }
            // Thousands of calls that nobody asks about.
            let last = end();
            self.stage.forget_log();
            last
        };
        let before = end();
        let after = come_and_go(20);
        let mut last = come_and_go((LONG - after) / ((after - before) / 20));
        while last <= LONG {
            last = come_and_go(1);
        }
        Vec::new()
    }

    fn close(&mut self) -> Answer {
        self.snapshots.clear();
        let db = self.db.take().expect("the workload opened it before");
        let (answer, closed) = self.answer(Phase::Close, || db.close());
        if closed.is_some() {
            self.oracle.all_durable();
        }
        drop(db);
        answer
    }

    /// What periodic writes were promised: time passed and the work was done.
    pub(super) fn periods_are_over(&mut self) {
        if let Some(last) = self.oracle.last_write() {
            self.oracle.durable_through(last);
        }
    }
}
