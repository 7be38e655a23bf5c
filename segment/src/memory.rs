//! What is held in memory, counted while it is held.
//!
//! Owns the meter that a job charges its large structures to. Invariant: what a
//! [`Held`] added is subtracted when it is dropped, whatever ended the job. Must not
//! know: what is held, or any limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes held now by whoever was given it. Clones are the same meter.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<AtomicUsize>);

impl Meter {
    /// A meter of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes held now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts `bytes` until the guard is dropped.
    #[must_use]
    pub fn hold(&self, bytes: usize) -> Held {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Held {
            meter: self.clone(),
            bytes,
        }
    }
}

/// Bytes that a [`Meter`] counts.
#[derive(Debug)]
pub struct Held {
    meter: Meter,
    bytes: usize,
}

impl Held {
    /// Changes what is counted.
    pub fn set(&mut self, bytes: usize) {
        self.meter.0.fetch_add(bytes, Ordering::Relaxed);
        self.meter.0.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.meter.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes of anonymous pages that this process holds for builds and hot copies, all
/// databases together: an allocator does not see them.
#[must_use]
pub fn anonymous_bytes() -> usize {
    crate::pages::live_bytes()
}

#[cfg(test)]
mod tests {
    use super::Meter;

    #[test]
    fn what_is_held_is_counted_exactly_as_long() {
        let meter = Meter::new();
        let a = meter.hold(5);
        let mut b = meter.clone().hold(7);
        assert_eq!(meter.bytes(), 12);
        b.set(3);
        assert_eq!(meter.bytes(), 8);
        drop(a);
        drop(b);
        assert_eq!(meter.bytes(), 0);
    }
}
