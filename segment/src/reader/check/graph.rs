//! The graph of a check: each row's edges, then that they lead to every row.
//!
//! Invariant: takes a byte for each row, and no more. Whether rows can be reached is
//! asked only where every list could be read. Must not know: distances.

use super::bad::Table;
use super::{Phase, STEP, Step};
use crate::error::SegmentError;
use crate::graph::{NO_ROW, until_end};
use crate::source::{Scratch, Section, SectionSource};
use crate::stats::GraphStats;
use crate::wire::u32_at;

/// The lists of edges so far.
#[derive(Debug)]
pub(super) struct ListsPass {
    next: u64,
    counted: GraphStats,
    /// Every list could be read.
    complete: bool,
    /// And was sound.
    sound: bool,
}

/// The rows that edges led to so far.
#[derive(Debug)]
pub(super) struct ReachPass {
    reached: Vec<bool>,
    waiting: Vec<u32>,
    left: u64,
}

impl<S: SectionSource> Step<'_, S> {
    pub(super) fn begin_lists(&mut self) -> Phase {
        let segment = self.segment;
        let Some(stats) = &segment.stats.graph else {
            return Phase::Done;
        };
        if !(0.0..=1.0).contains(&stats.sampled_recall) {
            let what = "a recall that is not from 0 to 1";
            self.found.add(segment.sections.stats.corruption(60, what));
        }
        Phase::Lists(ListsPass {
            next: 0,
            counted: GraphStats {
                max_degree: stats.max_degree,
                ..GraphStats::default()
            },
            complete: true,
            sound: true,
        })
    }

    pub(super) fn lists(&mut self, mut pass: ListsPass) -> Phase {
        let segment = self.segment;
        let (Some(section), Some(stats)) = (&segment.sections.graph, &segment.stats.graph) else {
            return Phase::Done;
        };
        let rows = u64::from(segment.rows());
        let stride = u64::from(stats.max_degree) * 4;
        if pass.next == rows {
            let counted = (pass.counted.edges, pass.counted.degrees);
            if pass.complete && pass.sound && counted != (stats.edges, stats.degrees) {
                let what = "another number of edges";
                self.found.add(segment.sections.stats.corruption(64, what));
            }
            return match pass.complete {
                true => self.begin_reach(stats.start),
                false => Phase::Done,
            };
        }
        let piece = pass.next..rows.min(pass.next + (STEP / stride).max(1));
        self.read += (piece.end - piece.start) * stride;
        pass.next = piece.end;
        let mut unread = piece.end - piece.start;
        let table = Table {
            section,
            stride,
            len: stride,
        };
        let (mut scratch, mut edges) = (Scratch::default(), Vec::new());
        for rows in self.bad.sound(piece, &[table]) {
            let bytes = rows.start * stride..rows.end * stride;
            let places = match segment.source.stream(section, bytes, &mut scratch) {
                Ok(places) => places,
                Err(error) => {
                    self.found.add(error);
                    continue;
                }
            };
            unread -= rows.end - rows.start;
            for (row, places) in rows.zip(places.chunks_exact(stride as usize)) {
                match degree(places, row, segment.rows(), &mut edges) {
                    Ok(degree) => pass.counted.count(degree),
                    Err(what) => {
                        pass.sound = false;
                        self.found.add(section.corruption(row * stride, what));
                    }
                }
            }
        }
        pass.complete &= unread == 0;
        Phase::Lists(pass)
    }

    fn begin_reach(&mut self, start: u32) -> Phase {
        let rows = self.segment.rows();
        let mut reached = vec![false; rows as usize];
        if let Some(start) = reached.get_mut(start as usize) {
            *start = true;
        }
        Phase::Reach(ReachPass {
            reached,
            waiting: vec![start],
            left: u64::from(rows),
        })
    }

    pub(super) fn reach(&mut self, mut pass: ReachPass) -> Phase {
        let segment = self.segment;
        let (Some(section), Some(stats)) = (&segment.sections.graph, &segment.stats.graph) else {
            return Phase::Done;
        };
        let stride = u64::from(stats.max_degree) * 4;
        while self.read < STEP
            && let Some(row) = pass.waiting.pop()
        {
            self.read += stride;
            if let Err(error) = self.follow(section, stride, row, &mut pass) {
                self.found.add(error);
                return Phase::Done;
            }
        }
        if !pass.waiting.is_empty() {
            return Phase::Reach(pass);
        }
        if pass.left > 0 {
            let first = pass.reached.iter().position(|reached| !reached);
            let at = first.unwrap_or(0) as u64 * stride;
            let what = format!("{} rows that no edges lead to", pass.left);
            self.found.add(section.corruption(at, what));
        }
        Phase::Done
    }

    fn follow(
        &self,
        section: &Section,
        stride: u64,
        row: u32,
        pass: &mut ReachPass,
    ) -> Result<(), SegmentError> {
        pass.left = pass.left.saturating_sub(1);
        let start = u64::from(row) * stride;
        let bytes = self.segment.source.get(section, start..start + stride)?;
        let places = (0..stride as usize / 4).map_while(|n| u32_at(&bytes, n));
        for to in places.take_while(|to| *to != NO_ROW) {
            // Each row waits once at most.
            if let Some(seen) = pass.reached.get_mut(to as usize).filter(|seen| !**seen) {
                *seen = true;
                pass.waiting.push(to);
            }
        }
        Ok(())
    }
}

/// The degree of a row, or what is wrong with its list.
fn degree(places: &[u8], row: u64, rows: u32, list: &mut Vec<u32>) -> Result<usize, &'static str> {
    list.clear();
    list.extend((0..places.len() / 4).map_while(|n| u32_at(places, n)));
    let degree = until_end(list).len();
    if list.iter().skip(degree).any(|place| *place != NO_ROW) {
        return Err("an edge behind the end of its list");
    }
    list.truncate(degree);
    if list.iter().any(|to| *to >= rows || u64::from(*to) == row) {
        return Err("an edge to its own row or to none");
    }
    list.sort_unstable();
    list.dedup();
    if list.len() != degree {
        return Err("two edges to one row");
    }
    Ok(degree)
}
