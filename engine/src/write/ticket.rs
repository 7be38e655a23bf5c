//! What a caller holds of a write in flight.
//!
//! Owns [`Ticket`] and the callbacks that wait for durability. Invariants: a
//! callback runs exactly once, outside every lock; one that waits for a write
//! that fails, or whose handle is poisoned or closed first, gets the error.
//! Must not know: how durability comes about.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use esker_segment::SeqNo;
use parking_lot::Mutex;

use crate::core::Core;
use crate::error::{Error, Result};

type Callback = Box<dyn FnOnce(Result<SeqNo>) + Send>;
type GroupTicket = esker_wal::Ticket<Core>;

/// A submitted batch. Dropping it does not take the batch back.
pub struct Ticket {
    pub(crate) core: Arc<Core>,
    pub(crate) ticket: GroupTicket,
}

impl Ticket {
    /// The SeqNo that the batch's last operation has if it succeeds.
    #[must_use]
    pub fn seqno(&self) -> SeqNo {
        SeqNo(self.ticket.last_seqno())
    }

    /// Waits until the batch is visible with the durability that it asked for.
    ///
    /// # Errors
    /// As `Db::write`.
    pub fn wait(&self) -> Result<SeqNo> {
        self.core.group.wait(&*self.core, &self.ticket).map(SeqNo)
    }

    /// Calls `callback` once the batch is on the disk, or with the error that
    /// keeps it from getting there; at once if that is known. It runs on whatever
    /// thread made the batch durable, so it must be short and must not write to
    /// this database; a panic in it is caught and dropped.
    pub fn on_durable(&self, callback: impl FnOnce(Result<SeqNo>) + Send + 'static) {
        let seqno = self.seqno();
        let callback: Callback = Box::new(callback);
        if let Some(Err(error)) = self.core.group.outcome(&self.ticket) {
            return run(callback, Err(error));
        }
        self.core.waiters.add(seqno, self.ticket.clone(), callback);
        // What became durable, failed or was poisoned meanwhile is answered here.
        if let Err(error) = self.core.check_writable() {
            self.core.waiters.fail(&error);
        }
        self.core
            .waiters
            .durable(SeqNo(self.core.log.synced_seqno()), &self.core);
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("seqno", &self.seqno())
            .finish_non_exhaustive()
    }
}

/// Callbacks by the SeqNo that must be durable first.
#[derive(Default)]
pub(crate) struct DurableWaiters(Mutex<BTreeMap<SeqNo, Vec<(GroupTicket, Callback)>>>);

impl DurableWaiters {
    fn add(&self, seqno: SeqNo, ticket: GroupTicket, callback: Callback) {
        self.0
            .lock()
            .entry(seqno)
            .or_default()
            .push((ticket, callback));
    }

    /// Everything that was logged up to `seqno` is on the disk. A batch whose
    /// append failed has a SeqNo below it all the same.
    pub(crate) fn durable(&self, seqno: SeqNo, core: &Core) {
        let ready = {
            let mut waiting = self.0.lock();
            if waiting.is_empty() {
                return;
            }
            let later = waiting.split_off(&SeqNo(seqno.0.saturating_add(1)));
            std::mem::replace(&mut *waiting, later)
        };
        for (seqno, waiters) in ready {
            for (ticket, callback) in waiters {
                let failed = core.group.outcome(&ticket).and_then(Result::err);
                run(callback, failed.map_or(Ok(seqno), Err));
            }
        }
    }

    /// Nothing more becomes durable.
    pub(crate) fn fail(&self, error: &Error) {
        for (_, callback) in std::mem::take(&mut *self.0.lock()).into_values().flatten() {
            run(callback, Err(error.clone()));
        }
    }
}

fn run(callback: Callback, result: Result<SeqNo>) {
    // A host's panic must not poison the database.
    let _ = catch_unwind(AssertUnwindSafe(move || callback(result)));
}
