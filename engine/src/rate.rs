//! A limit of bytes for each second.
//!
//! Owns the arithmetic and the waiting. Invariants: after n bytes, n divided by the rate has
//! passed since the start, but for [`SLACK`]; nobody sleeps longer than [`NAP`] without
//! looking at whether the work is still wanted. Must not know: what the bytes are, who
//! waits.

use std::time::Duration;

use crate::env::Clock;

/// Longest sleep before the next look at whether the work is still wanted.
pub(crate) const NAP: Duration = Duration::from_millis(20);

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

/// Sleeps until then, or until it is over; whether it is not.
pub(crate) fn sleep_until(due: Duration, clock: &dyn Clock, is_over: &dyn Fn() -> bool) -> bool {
    while !is_over() {
        let wait = due.saturating_sub(clock.now());
        if wait.is_zero() {
            return true;
        }
        clock.sleep(wait.min(NAP));
    }
    false
}
