//! What a caller lets one search cost.
//!
//! Owns the deadline and the bound on visited nodes. Invariant: once reached, a
//! limit stays reached. Must not know: what is searched.

use std::time::Duration;

use crate::env::Clock;
use crate::options::SearchOptions;

/// Visited nodes between looks at the clock.
const CLOCK_EVERY: u64 = 16;

pub(super) struct Limits<'a> {
    clock: &'a dyn Clock,
    deadline: Option<Duration>,
    max_visited: Option<u64>,
    /// Nodes visited by walks that have ended.
    visited: u64,
    reached: bool,
}

impl<'a> Limits<'a> {
    pub(super) fn new(clock: &'a dyn Clock, options: &SearchOptions) -> Self {
        let deadline = options
            .deadline
            .map(|after| clock.now().saturating_add(after));
        Self {
            clock,
            deadline,
            max_visited: options.max_visited,
            visited: 0,
            reached: false,
        }
    }

    /// Whether nothing can end the search early.
    pub(super) fn are_none(&self) -> bool {
        self.deadline.is_none() && self.max_visited.is_none()
    }

    /// Whether a limit has ended something.
    pub(super) fn reached(&self) -> bool {
        self.reached
    }

    /// Whether the search is to end, by the clock or by what was reached before.
    pub(super) fn time_is_up(&mut self) -> bool {
        if !self.reached
            && let Some(deadline) = self.deadline
        {
            self.reached = self.clock.now() >= deadline;
        }
        self.reached
    }

    /// Whether the clock allows no more, whatever else ended something.
    pub(super) fn is_late(&mut self) -> bool {
        let late = self
            .deadline
            .is_some_and(|deadline| self.clock.now() >= deadline);
        self.reached |= late;
        late
    }

    /// Whether the running walk, which has visited this many nodes, may go on.
    #[inline]
    pub(super) fn allow(&mut self, visited: u64) -> bool {
        if self
            .max_visited
            .is_some_and(|max| self.visited + visited >= max)
        {
            self.reached = true;
        }
        if self.deadline.is_some() && visited.is_multiple_of(CLOCK_EVERY) {
            self.time_is_up();
        }
        !self.reached
    }

    /// A walk has ended.
    pub(super) fn used(&mut self, visited: u64) {
        self.visited += visited;
    }
}
