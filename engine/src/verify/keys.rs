//! The central invariant: any two live rows of a collection have different keys.
//!
//! Invariants: segments are merged by key, one leaf of each in memory; a segment
//! whose keys or deletion vector are damaged is left out, since what it would add is
//! nonsense. Must not know: where segments come from.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Bound;
use std::path::Path;

use esker_segment::{DeletionVector, Key, KeyIter, Row, Segment, Source};

use super::Verifier;
use super::pace::Going;
use crate::error::Error;

/// A segment with its dead rows.
#[derive(Clone, Copy)]
pub(super) struct KeySource<'a> {
    pub(super) path: &'a Path,
    pub(super) segment: &'a Segment<Source>,
    pub(super) deleted: &'a DeletionVector,
}

/// Keys between two looks at the pace.
const KEYS: u64 = 4_096;

struct Stream<'a> {
    source: KeySource<'a>,
    keys: KeyIter<'a, Source>,
}

impl Stream<'_> {
    /// The next live row.
    fn next(&mut self) -> Option<Result<(Key, Row), Error>> {
        let deleted = self.source.deleted;
        let live = |next: &Result<(Key, Row), _>| {
            !next.as_ref().is_ok_and(|(_, row)| deleted.contains(*row))
        };
        let next = self.keys.find(live)?;
        Some(next.map_err(|error| Error::in_segment(self.source.path, error)))
    }
}

impl Verifier<'_> {
    /// Compares the live rows of one collection's segments.
    pub(super) fn live_keys(&mut self, sources: &[KeySource<'_>]) -> Going {
        let mut streams = Vec::with_capacity(sources.len());
        for source in sources {
            match source.segment.iter_from(Bound::Unbounded) {
                Ok(keys) => streams.push(Stream {
                    source: *source,
                    keys,
                }),
                Err(error) => self.problem(Error::in_segment(source.path, error)),
            }
        }
        let mut heads: BinaryHeap<Reverse<(Key, usize, Row)>> = BinaryHeap::new();
        for index in 0..streams.len() {
            self.advance(&mut streams, index, &mut heads);
        }
        let mut last: Option<(Key, usize)> = None;
        let (mut keys, mut bytes) = (0, 0);
        while let Some(Reverse((key, index, row))) = heads.pop() {
            if let Some((before, other)) = &last
                && *before == key
            {
                self.live_twice(&streams, (*other, index), row, &key);
            }
            (keys, bytes) = (keys + 1, bytes + key.len() as u64);
            self.report.live_rows += 1;
            self.advance(&mut streams, index, &mut heads);
            last = Some((key, index));
            if keys == KEYS {
                self.run.pace(bytes)?;
                (keys, bytes) = (0, 0);
            }
        }
        self.run.pace(bytes)
    }

    fn advance(
        &mut self,
        streams: &mut [Stream<'_>],
        index: usize,
        heads: &mut BinaryHeap<Reverse<(Key, usize, Row)>>,
    ) {
        match streams.get_mut(index).and_then(Stream::next) {
            Some(Ok((key, row))) => heads.push(Reverse((key, index, row))),
            Some(Err(error)) => self.problem(error),
            None => {}
        }
    }

    fn live_twice(
        &mut self,
        streams: &[Stream<'_>],
        (before, index): (usize, usize),
        row: Row,
        key: &Key,
    ) {
        let (Some(first), Some(second)) = (streams.get(before), streams.get(index)) else {
            return;
        };
        let offset = second.source.segment.key_offset(row).unwrap_or_default();
        let what = format!(
            "key {key} is live in segment {} too",
            first.source.segment.id()
        );
        self.problem(Error::corruption(second.source.path, offset, what));
    }
}
