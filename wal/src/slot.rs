//! Where one waiting thread learns what concerns it.
//!
//! | progress | set by | means |
//! |---|---|---|
//! | `Pending` | the start; a thread that takes leadership | nothing yet |
//! | `Leads` | the leader before, as it steps down | one thread parked here is the leader now |
//! | `Done` | the leader, once per slot | the outcome; final |
//!
//! Owns a lock and a condition variable per slot, so that waking one thread wakes
//! no other. Invariants: `Done` never changes again; only the leader changes
//! `Pending`, so `Leads` and `Done` cannot race.

use crate::sync::{Condvar, Mutex, lock, wait};

pub(crate) struct Slot<E> {
    progress: Mutex<Progress<E>>,
    changed: Condvar,
}

enum Progress<E> {
    Pending,
    Leads,
    Done(Result<(), E>),
}

/// Why a parked thread woke.
pub(crate) enum Woken<E> {
    Leads,
    Done(Result<(), E>),
}

impl<E: Clone> Slot<E> {
    pub(crate) fn new() -> Self {
        Self {
            progress: Mutex::new(Progress::Pending),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn outcome(&self) -> Option<Result<(), E>> {
        match &*lock(&self.progress) {
            Progress::Done(outcome) => Some(outcome.clone()),
            Progress::Pending | Progress::Leads => None,
        }
    }

    /// Sets the outcome and wakes everyone who waits for it.
    pub(crate) fn finish(&self, outcome: Result<(), E>) {
        *lock(&self.progress) = Progress::Done(outcome);
        self.changed.notify_all();
    }

    /// Makes a thread that is parked here, or about to park, the leader; false if
    /// its outcome is known and it needs no leadership.
    pub(crate) fn promote(&self) -> bool {
        let mut progress = lock(&self.progress);
        if matches!(*progress, Progress::Done(_)) {
            return false;
        }
        *progress = Progress::Leads;
        drop(progress);
        // Clones of a ticket share a slot; any one of their threads will do.
        self.changed.notify_one();
        true
    }

    /// Sleeps until there is an outcome or this thread leads.
    pub(crate) fn park(&self) -> Woken<E> {
        let mut progress = lock(&self.progress);
        loop {
            match &*progress {
                Progress::Pending => progress = wait(&self.changed, progress),
                Progress::Leads => {
                    *progress = Progress::Pending;
                    return Woken::Leads;
                }
                Progress::Done(outcome) => return Woken::Done(outcome.clone()),
            }
        }
    }
}
