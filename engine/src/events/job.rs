//! One flush or merge, as far as it is counted.
//!
//! Owns the bytes and the time of one piece of work. Invariants: every byte is counted in
//! the job and in the database's counters at once, so what jobs report adds up to these;
//! time is the environment's. Must not know: what the work is.

use std::time::Duration;

use crate::env::Clock;
use crate::stats::Counters;
use crate::sync::Ordering;
use crate::sync::counter::AtomicU64;

/// What a job is counted as.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Flush,
    Merge,
}

pub(crate) struct Job<'a> {
    kind: Kind,
    counters: &'a Counters,
    clock: &'a dyn Clock,
    began: Duration,
    read: AtomicU64,
    written: AtomicU64,
}

impl<'a> Job<'a> {
    pub(crate) fn begin(kind: Kind, counters: &'a Counters, clock: &'a dyn Clock) -> Self {
        Self {
            kind,
            counters,
            clock,
            began: clock.now(),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    pub(crate) fn read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
        self.counters.read(self.kind, bytes);
    }

    pub(crate) fn wrote(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
        self.counters.wrote(self.kind, bytes);
    }

    pub(crate) fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes_written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// It is over. How long it took.
    pub(crate) fn end(&self) -> Duration {
        let took = self.clock.now().saturating_sub(self.began);
        self.counters.took(self.kind, took);
        took
    }
}
