//! What each operation does to the database and to the model.
//!
//! Owns the mapping from answers to outcomes. Must not know: crashes.

use std::io::ErrorKind;
use std::sync::{Arc, PoisonError};

use esker::{Db, Durability, Error, WriteBatch, WriteOptions};

use super::machine::Machine;
use super::ops::{COLLECTIONS, FaultCalls, FaultSpec, How, Op, WriteSpec};
use crate::oracle::{Change, Loss, Outcome, WriteId, batch_of};
use crate::sim::{CallKind, Fault, is_machine_gone};

/// The batch of a specification.
pub(super) fn batch(db: &Db, spec: &WriteSpec) -> Result<WriteBatch, Error> {
    batch_of(db, &changes(spec))
}

pub(super) fn changes(spec: &WriteSpec) -> Vec<Change> {
    spec.changes.iter().map(|change| change.change()).collect()
}

pub(super) fn options(spec: &WriteSpec) -> WriteOptions {
    WriteOptions::new().durability(spec.durability)
}

impl Machine<'_> {
    /// Carries out one operation.
    pub(super) fn perform(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Write(spec) if spec.how == How::Submit => self.submit(std::slice::from_ref(spec)),
            Op::Write(spec) => self.write(spec),
            Op::Bulk(bulk) => self.write(&bulk.write()),
            Op::Submit(specs) => self.submit(specs),
            Op::Sync => self.durable_call("sync", Db::sync),
            Op::Flush => self.durable_call("flush", Db::flush),
            Op::Compact => self.durable_call("compact", Db::compact),
            Op::Steps(n) => self.steps(*n),
            Op::Idle { millis } => self.let_time_pass(*millis),
            Op::Snapshot => self.snapshot(),
            Op::Release => {
                if !self.snapshots.is_empty() {
                    self.snapshots.remove(0);
                }
                Ok(())
            }
            Op::Pause => {
                self.pause();
                Ok(())
            }
            Op::DropCollection(n) => self.drop_collection(*n),
            Op::Cross(crossing) => self.cross(crossing),
            Op::Entangle(specs) => self.entangle(specs),
            Op::Verify => self.verify(),
            Op::Reopen => self.reopen(),
            Op::Crash(spec) => {
                self.plan_crash(spec);
                Ok(())
            }
            Op::Fail(spec) => {
                self.fail(spec);
                Ok(())
            }
        }
    }

    /// What an error says of the write that it answers.
    pub(super) fn outcome(&mut self, error: &Error) -> Result<Outcome, String> {
        match error {
            Error::Busy(_) => Ok(Outcome::Failed),
            _ if is_machine_gone(error) => Ok(Outcome::InFlight),
            _ if !self.tolerant() => Err(format!("a write failed: {error}")),
            Error::Poisoned { .. } if self.poisoned => Ok(Outcome::Failed),
            Error::Poisoned { .. } => {
                self.poisoned = true;
                self.summary.poisoned += 1;
                self.summary.errored += 1;
                Ok(Outcome::Errored)
            }
            Error::Io { .. } => {
                self.summary.errored += 1;
                Ok(Outcome::Errored)
            }
            other => Err(format!("a write failed with the wrong kind: {other}")),
        }
    }

    pub(super) fn record(&mut self, spec: &WriteSpec, outcome: Outcome) -> WriteId {
        self.summary.writes += 1;
        self.summary.acked += u64::from(outcome == Outcome::Acked);
        let write = self.oracle.record(changes(spec), spec.durability, outcome);
        if let (Durability::Periodic(period), Outcome::Acked) = (spec.durability, outcome) {
            let now = esker::env::Clock::now(&self.env);
            self.periodic.push((write, now + period));
        }
        write
    }

    pub(super) fn write(&mut self, spec: &WriteSpec) -> Result<(), String> {
        let db = self.db();
        let batch = match batch(&db, spec) {
            Ok(batch) => batch,
            Err(error) => return self.refused(&error),
        };
        let result = match spec.how {
            How::Try => db.try_write(batch, options(spec)),
            How::Write | How::Submit => db.write_with(batch, options(spec)),
        };
        let outcome = match &result {
            Ok(_) => Outcome::Acked,
            Err(error) => self.outcome(error)?,
        };
        self.record(spec, outcome);
        Ok(())
    }

    /// A batch could not even be made: legal only on a poisoned handle.
    pub(super) fn refused(&mut self, error: &Error) -> Result<(), String> {
        match error {
            Error::Poisoned { .. } if self.tolerant() => {
                self.poisoned = true;
                Ok(())
            }
            _ if self.env.is_stopped() => Ok(()),
            other => Err(format!("a batch was refused: {other}")),
        }
    }

    /// Queues all, then waits for each, the last first.
    fn submit(&mut self, specs: &[WriteSpec]) -> Result<(), String> {
        let db = self.db();
        let mut tickets = Vec::new();
        for spec in specs {
            let batch = match batch(&db, spec) {
                Ok(batch) => batch,
                Err(error) => return self.refused(&error),
            };
            match db.submit(batch, options(spec)) {
                Ok(ticket) => {
                    let write = self.record(spec, Outcome::InFlight);
                    let durable = Arc::clone(&self.durable);
                    ticket.on_durable(move |result| {
                        if result.is_ok() {
                            let mut durable =
                                durable.lock().unwrap_or_else(PoisonError::into_inner);
                            durable.push(write);
                        }
                    });
                    tickets.push((write, spec, ticket));
                }
                Err(error) => {
                    let outcome = match self.outcome(&error)? {
                        Outcome::InFlight => Outcome::InFlight,
                        _ => Outcome::Failed,
                    };
                    self.record(spec, outcome);
                }
            }
        }
        for (write, spec, ticket) in tickets.iter().rev() {
            match ticket.wait() {
                Ok(_) => {
                    self.summary.acked += 1;
                    self.oracle.resolve(*write, Outcome::Acked);
                    if let Durability::Periodic(period) = spec.durability {
                        let now = esker::env::Clock::now(&self.env);
                        self.periodic.push((*write, now + period));
                    }
                }
                Err(error) => {
                    let poisoned = self.poisoned;
                    let outcome = self.outcome(&error)?;
                    // It was logged before the poison, or not: it had its turn.
                    let outcome = match outcome {
                        Outcome::Failed if poisoned => Outcome::Errored,
                        other => other,
                    };
                    self.oracle.resolve(*write, outcome);
                }
            }
        }
        Ok(())
    }

    /// A call after whose `Ok` everything acknowledged before is on the disk.
    pub(super) fn durable_call(
        &mut self,
        what: &str,
        call: impl FnOnce(&Db) -> Result<(), Error>,
    ) -> Result<(), String> {
        let last = self.oracle.last_write();
        let db = self.db();
        match call(&db) {
            Ok(()) => {
                if let Some(last) = last {
                    self.oracle.durable_through(last);
                }
                Ok(())
            }
            Err(error) => self.tolerate(what, &error),
        }
    }

    /// Errors that a planned failure explains.
    pub(super) fn tolerate(&mut self, what: &str, error: &Error) -> Result<(), String> {
        if self.env.is_stopped() {
            return Ok(());
        }
        match error {
            Error::Io { .. } if self.tolerant() => Ok(()),
            Error::Busy(_) if self.tolerant() => Ok(()),
            Error::Poisoned { .. } if self.tolerant() => {
                self.poisoned = true;
                Ok(())
            }
            _ => Err(format!("{what} failed: {error}")),
        }
    }

    fn steps(&mut self, n: u8) -> Result<(), String> {
        self.try_steps(n)
            .or_else(|error| self.tolerate("a background step", &error))
    }

    pub(super) fn try_steps(&self, n: u8) -> Result<(), Error> {
        let db = self.db();
        for _ in 0..n {
            if !db.run_background_step()? {
                break;
            }
        }
        Ok(())
    }

    fn let_time_pass(&mut self, millis: u16) -> Result<(), String> {
        self.env
            .advance(std::time::Duration::from_millis(millis.into()));
        let injected = self.env.injected();
        self.idle()?;
        if self.env.is_stopped() || self.poisoned || self.env.injected() > injected {
            return Ok(());
        }
        let now = esker::env::Clock::now(&self.env);
        for (write, due) in &self.periodic {
            if *due <= now && !self.tolerant() {
                self.oracle.durable_through(*write);
            }
        }
        self.periodic.retain(|(_, due)| *due > now);
        Ok(())
    }

    fn snapshot(&mut self) -> Result<(), String> {
        match self.db().snapshot() {
            Ok(snapshot) => {
                self.summary.snapshots += 1;
                self.snapshots.push((snapshot, self.oracle.state()));
                if self.snapshots.len() > 3 {
                    self.snapshots.remove(0);
                }
                Ok(())
            }
            Err(Error::Busy(_)) => Ok(()),
            Err(error) => Err(format!("a snapshot failed: {error}")),
        }
    }

    fn pause(&mut self) {
        let was_paused = self.pause.take().is_some();
        if !was_paused {
            self.pause = Some(self.db().pause_merges());
            self.summary.pauses += 1;
        }
    }

    /// Drops a collection and makes it anew.
    fn drop_collection(&mut self, n: u8) -> Result<(), String> {
        let name = COLLECTIONS[usize::from(n) % COLLECTIONS.len()].0;
        // Its snapshots need the old handle, which the check does not have.
        for (_, state) in &mut self.snapshots {
            state.remove(name);
        }
        match self.db().drop_collection(name) {
            Ok(()) => {
                self.mark();
                self.oracle.dropped(name, Outcome::Acked);
                self.env.pause_faults(true);
                let created = self.create_collections();
                self.env.pause_faults(false);
                created.map(drop)
            }
            Err(_) if self.env.is_stopped() => {
                self.oracle.dropped(name, Outcome::InFlight);
                Ok(())
            }
            Err(error) => {
                self.oracle.dropped(name, Outcome::Errored);
                self.tolerate("dropping a collection", &error)?;
                self.env.clear_faults();
                if self.poisoned {
                    return Ok(());
                }
                // It is refused or in doubt; dropping again settles it.
                self.drop_collection(n)
            }
        }
    }

    pub(super) fn reopen(&mut self) -> Result<(), String> {
        self.snapshots.clear();
        let db = self.db();
        let closed = db.close();
        drop(db);
        if self.env.is_stopped() {
            if closed.is_ok() {
                self.oracle.all_durable();
            }
            return Ok(());
        }
        let loss = match closed {
            Ok(()) => {
                self.oracle.all_durable();
                Loss::Nothing
            }
            Err(error) => {
                self.tolerate("closing", &error)?;
                Loss::Process
            }
        };
        let tolerant = self.tolerant();
        self.let_go();
        if tolerant {
            // What is left of a fault is about the process that is gone.
            self.env.clear_faults();
            self.env.forget_injected();
        }
        self.open(loss, &[])
    }

    fn fail(&mut self, spec: &FaultSpec) {
        let kind = if spec.full_disk {
            ErrorKind::StorageFull
        } else {
            ErrorKind::Other
        };
        let calls = spec.calls;
        let mut fault = Fault::when(kind, move |call| match calls {
            FaultCalls::Effects => call.kind.is_effect(),
            FaultCalls::Writes => call.kind == CallKind::Write,
            FaultCalls::Syncs => matches!(call.kind, CallKind::Sync | CallKind::SyncDir),
            FaultCalls::LogFiles => {
                call.kind.is_effect() && call.path.extension().is_some_and(|e| e == "log")
            }
            FaultCalls::Reads => !call.kind.is_effect(),
        })
        .after(spec.after.into())
        .effect(spec.effect);
        if spec.once {
            fault = fault.once();
        }
        self.inject(fault);
    }
}
