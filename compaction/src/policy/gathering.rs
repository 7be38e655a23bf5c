//! Which of the smallest segments become one.
//!
//! Owns the triggers of size and of count. Invariants: what is merged is always a run
//! from the smallest on, so no small segment is passed over; the largest of a run that
//! is due for its sizes is no larger than the rest of it; that of a run that is due
//! because there are more than K graphs is at most (N/f)^(1/K) - 1 times the rest, where
//! N rows lie in graphs and smaller segments and f in the smallest graph. Together with
//! the entropy that a merge adds, this bounds how often a row is written (decision 17).
//! A run beyond the row limit is cut where it has over half of it, and nothing that
//! large is gathered again.
//! Must not know: single segments that should be rewritten, and their reasons.

use std::cmp::Ordering;

use super::{GraphState, SegmentDescription};

/// Segments by size.
pub(super) struct Sizes<'a> {
    segments: Vec<&'a SegmentDescription>,
    max_rows: u64,
    /// Live rows of as many of the smallest; one more than there are segments.
    sums: Vec<u128>,
    /// How many have no live row.
    empty: usize,
    /// How many have at most half of the row limit.
    growing: usize,
    /// How many of the smallest are within the row limit together.
    fitting: usize,
}

/// Rows that a merge writes again for the sake of others, and these others.
#[derive(Clone, Copy)]
struct Price {
    again: u128,
    lifted: u128,
}

impl Price {
    /// By the rows written again for each that is lifted. Both are within the row limit,
    /// so the products are within their type.
    fn compare(&self, other: &Self) -> Ordering {
        let left = self.again.saturating_mul(other.lifted);
        left.cmp(&other.again.saturating_mul(self.lifted))
    }

    fn min(self, other: Self) -> Self {
        match self.compare(&other) {
            Ordering::Greater => other,
            _ => self,
        }
    }
}

impl<'a> Sizes<'a> {
    /// Of segments in order of their live rows.
    pub(super) fn new(segments: Vec<&'a SegmentDescription>, max_rows: u64) -> Self {
        let mut sums = vec![0];
        let mut sum = 0_u128;
        for segment in &segments {
            sum = sum.saturating_add(u128::from(segment.live_rows));
            sums.push(sum);
        }
        Self {
            empty: segments.partition_point(|s| s.live_rows == 0),
            growing: segments.partition_point(|s| s.live_rows <= max_rows / 2),
            // The first sum is of none.
            fitting: sums.partition_point(|&sum| sum <= u128::from(max_rows)) - 1,
            segments,
            max_rows,
            sums,
        }
    }

    /// As many of the smallest, and the others.
    pub(super) fn split(
        &self,
        count: usize,
    ) -> (&[&'a SegmentDescription], &[&'a SegmentDescription]) {
        self.segments.split_at(count.min(self.segments.len()))
    }

    /// How many of the smallest may become one.
    pub(super) fn fitting(&self) -> usize {
        self.fitting
    }

    /// Those without a live row, if there are any: they only have to go.
    pub(super) fn empty(&self) -> Option<usize> {
        (self.empty > 0).then_some(self.empty)
    }

    /// The run up to the largest segment that is, with `width - 1` neighbours below it, no
    /// larger than these together; and on while the next is no larger than the run.
    pub(super) fn tier(&self, width: usize) -> Option<usize> {
        let due = |&count: &usize| {
            let below = count.saturating_sub(1);
            let others = self.sum(below) - self.sum(count.saturating_sub(width));
            let largest = self.rows(below);
            largest <= others && largest + others <= u128::from(self.max_rows)
        };
        let mut count = (width..=self.growing).rev().find(due)?;
        while count < self.growing && self.rows(count) <= self.sum(count) {
            count += 1;
        }
        Some(count.min(self.fitting))
    }

    /// If there are more than `limit` segments of a size that graphs have, the run that
    /// takes at least one away and writes the fewest rows again for each that it lifts
    /// out of a smaller segment.
    pub(super) fn beyond(&self, limit: usize) -> Option<usize> {
        let growing = self.segments.iter().take(self.growing).enumerate();
        let graphs = growing
            .skip(self.empty)
            .filter(|(_, s)| s.graph != GraphState::Unwanted);
        graphs.clone().nth(limit.max(1))?;
        let (second, _) = graphs.clone().nth(1)?;
        let most = self.fitting.min(self.growing);
        let fewest = (second + 1).min(most);
        // The longest of equals.
        let counts = (fewest..=most).rev();
        counts.min_by(|&a, &b| self.price(a).compare(&self.price(b)))
    }

    fn price(&self, count: usize) -> Price {
        let of = |at: usize| Price {
            again: self.rows(at),
            lifted: self.sum(at),
        };
        let price = of(count.saturating_sub(1));
        // What is full is not gathered again: it is as good as the next one's taking part.
        if count == self.fitting && count < self.growing {
            return price.min(of(count));
        }
        price
    }

    /// Live rows of the smallest `count`.
    fn sum(&self, count: usize) -> u128 {
        self.sums.get(count).copied().unwrap_or(0)
    }

    /// Live rows of the segment at `at`.
    fn rows(&self, at: usize) -> u128 {
        self.segments.get(at).map_or(0, |s| u128::from(s.live_rows))
    }
}
