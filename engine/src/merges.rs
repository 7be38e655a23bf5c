//! Whether merges may run, and how fast.
//!
//! Owns pauses, cancellations and the rate of all merges together. Invariants: a merge
//! that is paused keeps what it has done, unless it gives way; one that nobody waits for
//! ends when it is cancelled, whether it is paused or not; nothing here delays a flush or
//! a write.
//! Must not know: what is merged.

use std::time::Duration;

use crate::env::Clock;
use crate::options::{CancelToken, Options};
use crate::rate::{NAP, Rate, sleep_until};
use crate::sync::counter::{AtomicU64, AtomicUsize};
use crate::sync::{Mutex, Ordering};

/// What concerns all merges of a database.
pub(crate) struct MergeControl {
    /// Living pauses.
    pauses: AtomicUsize,
    /// Times that running merges were told to end.
    cancellations: AtomicU64,
    /// Merges that were begun since the open.
    begun: AtomicU64,
    rate: Option<Mutex<Rate>>,
}

/// A merge that runs, as far as others may end it.
#[derive(Clone)]
pub(crate) struct Leave {
    /// Cancellations when it began; of no account for those that a caller waits for.
    since: Option<u64>,
    token: Option<CancelToken>,
}

impl MergeControl {
    pub(crate) fn new(options: &Options, now: Duration) -> Self {
        let rate = options.merge_bytes_per_second;
        Self {
            pauses: AtomicUsize::new(0),
            cancellations: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            rate: rate.map(|rate| Mutex::new(Rate::new(rate, now))),
        }
    }

    /// One more begins. Its number, from 1.
    pub(crate) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn pause(&self) {
        self.pauses.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn resume(&self) {
        self.pauses.fetch_sub(1, Ordering::AcqRel);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.pauses.load(Ordering::Acquire) > 0
    }

    /// Ends the background merges that run now.
    pub(crate) fn cancel(&self) {
        self.cancellations.fetch_add(1, Ordering::AcqRel);
    }

    /// For a merge in the background.
    pub(crate) fn in_background(&self) -> Leave {
        Leave {
            since: Some(self.cancellations.load(Ordering::Acquire)),
            token: None,
        }
    }

    /// For a merge that somebody waits for, until the token is cancelled.
    pub(crate) fn for_caller(token: Option<&CancelToken>) -> Leave {
        Leave {
            since: None,
            token: token.cloned(),
        }
    }

    pub(crate) fn is_cancelled(&self, leave: &Leave) -> bool {
        let since = leave.since;
        leave.token.as_ref().is_some_and(CancelToken::is_cancelled)
            || since.is_some_and(|since| since != self.cancellations.load(Ordering::Acquire))
    }

    /// Waits while merges are paused, unless somebody waits for this one or it is not
    /// wanted any more.
    pub(crate) fn wait_for_resume(
        &self,
        leave: &Leave,
        clock: &dyn Clock,
        is_unwanted: &dyn Fn() -> bool,
    ) {
        while leave.since.is_some() && self.is_paused() && !is_unwanted() {
            clock.sleep(NAP);
        }
    }

    /// Whether there is a limit of bytes.
    pub(crate) fn have_rate(&self) -> bool {
        self.rate.is_some()
    }

    /// Bytes of a merge were read or written: waits as long as the rate wants it.
    pub(crate) fn moved(&self, bytes: u64, clock: &dyn Clock, is_unwanted: &dyn Fn() -> bool) {
        let Some(rate) = &self.rate else { return };
        let due = rate.lock().after(bytes, clock.now());
        sleep_until(due, clock, is_unwanted);
    }
}
