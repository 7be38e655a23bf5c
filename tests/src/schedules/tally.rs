//! What many schedules did together.
//!
//! Owns the counters. Must not know: what is demanded of them.

use std::sync::atomic::{AtomicU64, Ordering};

/// What many schedules did together: a test that does nothing finds nothing.
#[derive(Debug, Default)]
pub struct Tally {
    pub writes: AtomicU64,
    pub errored: AtomicU64,
    pub flushes: AtomicU64,
    pub merges: AtomicU64,
    pub snapshots: AtomicU64,
    pub faults: AtomicU64,
    pub poisoned: AtomicU64,
    pub closes: AtomicU64,
    /// Power cuts in the middle; the others come at the end.
    pub cuts: AtomicU64,
    /// Writes that a power cut took.
    pub lost: AtomicU64,
}

impl Tally {
    /// Every counter by its name.
    #[must_use]
    pub fn counters(&self) -> [(&'static str, &AtomicU64); 10] {
        [
            ("writes", &self.writes),
            ("errored writes", &self.errored),
            ("flushes", &self.flushes),
            ("merges", &self.merges),
            ("snapshots", &self.snapshots),
            ("faults", &self.faults),
            ("poisonings", &self.poisoned),
            ("closes", &self.closes),
            ("power cuts in the middle", &self.cuts),
            ("lost writes", &self.lost),
        ]
    }
}

/// Counts `n` more.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
