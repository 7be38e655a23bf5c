//! Operations that something happens in the middle of.
//!
//! Owns the way of what came in between into the model. Must not know: what hooks do.

use std::sync::{Arc, Mutex, PoisonError};

use esker::Db;

use super::inside::{Crossed, Merge, is_segment};
use super::machine::Machine;
use super::ops::{Crossing, Op, WriteSpec};
use super::steps::{batch, options};
use crate::oracle::Outcome;
use crate::sim::CallKind;

impl Machine<'_> {
    pub(super) fn cross(&mut self, crossing: &Crossing) -> Result<(), String> {
        if matches!(*crossing.outer, Op::Compact | Op::Steps(_)) {
            // Else the flush that comes first would be what is interrupted.
            self.durable_call("flush", Db::flush)?;
            if self.env.is_stopped() || self.tolerant() {
                return Ok(());
            }
        }
        let crossed = Crossed::plan(&self.env, self.db(), crossing, self.oracle.clone());
        let result = match &*crossing.outer {
            Op::Flush => self.db().flush(),
            Op::Compact => self.db().compact(),
            Op::Steps(n) => return self.cross_steps(*n, &crossed),
            Op::Write(spec) => return self.cross_write(spec, &crossed),
            _ => {
                self.env.clear_hooks();
                return Ok(());
            }
        };
        self.env.clear_hooks();
        let last = self.oracle.last_write();
        self.take_in(&crossed)?;
        match result {
            Ok(()) => {
                if let Some(last) = last {
                    self.oracle.durable_through(last);
                }
                Ok(())
            }
            Err(error) => self.tolerate("a crossed call", &error),
        }
    }

    fn cross_steps(&mut self, n: u8, crossed: &Crossed) -> Result<(), String> {
        let result = self.try_steps(n);
        self.env.clear_hooks();
        // What came in between was told first what failed.
        self.take_in(crossed)?;
        result.or_else(|error| self.tolerate("a crossed background step", &error))
    }

    fn cross_write(&mut self, spec: &WriteSpec, crossed: &Crossed) -> Result<(), String> {
        let db = self.db();
        let batch = match batch(&db, spec) {
            Ok(batch) => batch,
            Err(error) => {
                self.env.clear_hooks();
                return self.refused(&error);
            }
        };
        let result = db.write_with(batch, options(spec));
        self.env.clear_hooks();
        // What came in between was queued before.
        self.take_in(crossed)?;
        let outcome = match &result {
            Ok(_) => Outcome::Acked,
            Err(error) => self.outcome(error)?,
        };
        self.record(spec, outcome);
        Ok(())
    }

    /// A merge is planned; rows are written and their flush is planned; the merge
    /// commits; the flush commits.
    pub(super) fn entangle(&mut self, specs: &[WriteSpec]) -> Result<(), String> {
        self.durable_call("flush", Db::flush)?;
        if self.env.is_stopped() || self.tolerant() {
            return Ok(());
        }
        let merge = match Merge::begin(&self.env, self.db()) {
            Ok(merge) => merge,
            Err(Ok(())) => return Ok(()),
            Err(Err(error)) => return self.tolerate("a merge", &error),
        };
        self.summary.crossings += 1;
        let merged = Arc::new(Mutex::new(None));
        let waiting = Arc::new(Mutex::new(Some(merge)));
        let (slot, inside) = (Arc::clone(&merged), Arc::clone(&waiting));
        self.env.before(
            |call| call.kind == CallKind::Write && is_segment(&call.path),
            move || {
                let merge = inside.lock().unwrap_or_else(PoisonError::into_inner).take();
                let result = merge.map(Merge::finish);
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = result;
            },
        );
        let mut result = Ok(());
        for spec in specs {
            result = result.and_then(|()| self.write(spec));
        }
        result = result.and_then(|()| self.durable_call("flush", Db::flush));
        self.env.clear_hooks();
        let left = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let merged = match left {
            Some(merge) => Some(merge.finish()),
            None => merged.lock().unwrap_or_else(PoisonError::into_inner).take(),
        };
        result?;
        match merged {
            Some(Err(error)) => self.tolerate("an entangled merge", &error),
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// Takes what happened in the middle into the model.
    fn take_in(&mut self, crossed: &Crossed) -> Result<(), String> {
        let done = crossed.take();
        self.summary.crossings += u64::from(done.ran);
        self.summary.merges_at_once += done.merges_at_once;
        if let Some(failure) = done.failure {
            return Err(failure);
        }
        for (spec, result) in done.writes {
            let outcome = match result {
                Ok(()) => Outcome::Acked,
                Err(error) => self.outcome(&error)?,
            };
            self.record(&spec, outcome);
        }
        Ok(())
    }
}
