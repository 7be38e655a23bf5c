//! A limit of bytes for each second.
//!
//! Owns the arithmetic. Invariant: after n bytes, n divided by the rate has passed since
//! the start, but for [`SLACK`]. Must not know: what the bytes are, who waits.

use std::time::Duration;

/// What a pause that lasted too long may be made up for.
const SLACK: Duration = Duration::from_millis(200);

/// When the next byte is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    bytes_per_second: u64,
    due: Duration,
}

impl Rate {
    pub(crate) fn new(bytes_per_second: u64, now: Duration) -> Self {
        Self {
            bytes_per_second,
            due: now,
        }
    }

    /// Takes bytes that were just moved into account; when to go on.
    pub(crate) fn after(&mut self, bytes: u64, now: Duration) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.due = self
            .due
            .max(now.saturating_sub(SLACK))
            .saturating_add(takes);
        self.due
    }
}
