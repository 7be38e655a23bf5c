//! What a caller holds of a write in flight.
//!
//! Owns [`Ticket`] and the callbacks that wait for durability. Invariants: a
//! callback runs exactly once, outside every lock; one that waits for a write
//! that fails, or whose handle is poisoned or closed first, gets the error.
//! Must not know: how durability comes about.

use std::sync::Arc;

use esker_segment::SeqNo;
use esker_wal::mutants::planted;

use crate::core::Core;
use crate::error::{Error, Result};
use crate::events::harmless;
use crate::sync::Mutex;

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
    /// keeps it from getting there: at once if that is known, else on a thread of
    /// the database's own (under `Background::Manual`, in `run_background_step`).
    /// It should be short; a panic in it is caught and dropped.
    pub fn on_durable(&self, callback: impl FnOnce(Result<SeqNo>) + Send + 'static) {
        self.core
            .waiters
            .add(self.ticket.clone(), Box::new(callback));
        // What was known before, or has become so meanwhile, is answered here.
        if let Err(error) = self.core.check_writable() {
            self.core.waiters.fail(&error);
        }
        self.core.waiters.settle(&self.core);
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("seqno", &self.seqno())
            .finish_non_exhaustive()
    }
}

/// Callbacks that were not called yet.
#[derive(Default)]
pub(crate) struct DurableWaiters(Mutex<Vec<(GroupTicket, Callback)>>);

impl DurableWaiters {
    fn add(&self, ticket: GroupTicket, callback: Callback) {
        self.0.lock().push((ticket, callback));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Calls those whose batch failed, or is in the log and synced.
    pub(crate) fn settle(&self, core: &Core) {
        if self.is_empty() {
            return;
        }
        let synced = core.log.synced_seqno();
        let mut settled = Vec::new();
        let mut waiting = self.0.lock();
        for (ticket, callback) in std::mem::take(&mut *waiting) {
            let seqno = ticket.last_seqno();
            match core.group.outcome(&ticket) {
                Some(Err(error)) => settled.push((callback, Err(error))),
                // A failed batch's outcome is set before anything later is logged.
                _ if seqno <= synced || planted("ticket.durable") => {
                    settled.push((callback, Ok(SeqNo(seqno))))
                }
                _ => waiting.push((ticket, callback)),
            }
        }
        drop(waiting);
        for (callback, result) in settled {
            run(callback, result);
        }
    }

    /// Nothing more becomes durable.
    pub(crate) fn fail(&self, error: &Error) {
        for (_, callback) in std::mem::take(&mut *self.0.lock()) {
            run(callback, Err(error.clone()));
        }
    }
}

fn run(callback: Callback, result: Result<SeqNo>) {
    harmless(move || callback(result));
}
