//! Builds that are allowed little memory.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::{CANDIDATE_BYTES, MOST_PARTS, Room, build_bytes, least_bytes};
use crate::error::SegmentError;
use crate::graph::in_place::Reads;
use crate::graph::tests::{METRICS, Threads, Vectors, check, clustered, params};
use crate::graph::vectors::BuildVectors;
use crate::graph::{Built, Inline, LEAST_LEAF_ROWS, build};
use crate::id::{Row, SeqNo};
use crate::memory::Meter;
use crate::metric::Metric;
use crate::writer::RowSource;

/// Rows of which a build may hold so much.
struct Limited {
    rows: Vectors,
    limit: u64,
    meter: Meter,
    /// The most that was counted when it was asked whether to go on.
    peak: AtomicUsize,
    reads: AtomicUsize,
    /// This read and all after it fail.
    fails_at: usize,
    /// They do not fail, but hand out a row that is too short.
    shortens: bool,
}

impl Limited {
    fn new(rows: Vec<Vec<f32>>, limit: u64) -> Self {
        Self {
            rows: Vectors::new(rows),
            limit,
            meter: Meter::new(),
            peak: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            fails_at: usize::MAX,
            shortens: false,
        }
    }

    fn build(&self, metric: Metric, dimension: u32) -> Result<Built, SegmentError> {
        build(self, (metric, dimension), &params(16), &Threads)
    }

    fn room(&self, dimension: u32) -> Room {
        Room::of(self.rows(), dimension, &params(16), self.limit)
    }
}

impl RowSource for Limited {
    fn rows(&self) -> u32 {
        self.rows.rows()
    }
    fn key_order(&self) -> Option<&[u32]> {
        None
    }
    fn vector(&self, row: Row) -> Result<Cow<'_, [f32]>, SegmentError> {
        let vector = self.rows.vector(row)?;
        match self.reads.fetch_add(1, Ordering::Relaxed) {
            read if read < self.fails_at => Ok(vector),
            _ if self.shortens => Ok(Cow::Owned(vector[1..].to_vec())),
            _ => Err(SegmentError::corruption(77, "a vector")),
        }
    }
    fn key(&self, row: Row) -> Result<Cow<'_, [u8]>, SegmentError> {
        self.rows.key(row)
    }
    fn seqno(&self, row: Row) -> Result<SeqNo, SegmentError> {
        self.rows.seqno(row)
    }
    fn payload(&self, row: Row) -> Result<Option<Cow<'_, [u8]>>, SegmentError> {
        self.rows.payload(row)
    }
    fn memory_limit(&self) -> u64 {
        self.limit
    }
    fn meter(&self) -> Option<&Meter> {
        Some(&self.meter)
    }
    fn check_cancelled(&self) -> Result<(), SegmentError> {
        self.peak.fetch_max(self.meter.bytes(), Ordering::Relaxed);
        Ok(())
    }
}

const ROWS: usize = 7_000;
const DIMENSION: u32 = 24;
/// What makes a build of so many rows go through its leaves twice; what makes it begin with
/// a seventh of them; and what makes it insert all.
const PARTS: u64 = 2_000_000;
const SEED: u64 = 820_000;
const INSERT: u64 = 150_000;

/// Bytes of a row that no limit is for: edges and code, and what else a row has for a time.
const A_ROW: u64 = 115 + 150;
/// The same of all rows together: offers of a cluster, blocks of a thread.
const FIXED: u64 = 4 << 20;

fn rooms() -> [(u64, &'static str); 3] {
    [(PARTS, "parts"), (SEED, "a seed"), (INSERT, "insertion")]
}

#[test]
fn builds_in_little_memory_find_as_much_and_hold_what_is_allowed() {
    for metric in [Metric::L2, Metric::InnerProduct] {
        let rows = clustered(ROWS, DIMENSION as usize, 3);
        let held = Limited::new(rows.clone(), u64::MAX);
        assert_eq!(held.room(DIMENSION), Room::Held);
        let all = held.build(metric, DIMENSION).unwrap();
        for (limit, name) in rooms() {
            let limited = Limited::new(rows.clone(), limit);
            let room = limited.room(DIMENSION);
            assert_eq!(matches!(room, Room::Parts(_)), limit == PARTS, "{room:?}");
            assert_eq!(matches!(room, Room::Seed(_)), limit == SEED, "{room:?}");
            assert_eq!(room == Room::Insert, limit == INSERT, "{room:?}");
            let built = limited.build(metric, DIMENSION).unwrap();
            check(&built, ROWS, 16);
            let (found, most) = (built.sample.recall, all.sample.recall);
            // The tests' lists are short for insertions.
            let loss = if limit == INSERT { 0.1 } else { 0.02 };
            assert!(found > most - loss, "{metric}, {name}: {found} of {most}");
            if let Some(layout) = &built.layout {
                let mut places = layout.order.places().to_vec();
                places.sort_unstable();
                assert!(places.into_iter().eq(0..ROWS as u32), "{name}");
            }
            assert_eq!(built.layout.is_some(), room != Room::Insert, "{name}");
            drop(built);
            let peak = limited.peak.load(Ordering::Relaxed) as u64;
            let most = limit + ROWS as u64 * A_ROW + FIXED;
            assert!(peak <= most, "{metric}, {name}: {peak} of {most}");
            assert_eq!(limited.meter.bytes(), 0, "{name}");
        }
    }
}

#[test]
fn vectors_in_place_are_those_that_would_be_held() {
    for metric in METRICS {
        let rows = Limited::new(clustered(300, 24, 6), 0);
        let held = BuildVectors::read(&rows, metric, DIMENSION).unwrap();
        let reads = Reads::of(&rows);
        let in_place = BuildVectors::in_place(&reads, (metric, DIMENSION, 300), None).unwrap();
        for row in 0..300 {
            assert_eq!(held.row(row), in_place.row(row), "{metric}");
            let distances = (held.between(0, row), in_place.between(0, row));
            assert_eq!(distances.0.to_bits(), distances.1.to_bits(), "{metric}");
        }
        assert_eq!(held.medoid(), in_place.medoid());
        let part = in_place.part(&[7, 8, 299]).unwrap();
        assert_eq!(part.row(2), held.row(299));
        reads.outcome(Ok(())).unwrap();
    }
}

#[test]
fn any_number_of_threads_builds_the_same_in_little_memory() {
    let rows = clustered(ROWS, DIMENSION as usize, 8);
    for (limit, name) in rooms() {
        let limited = Limited::new(rows.clone(), limit);
        let together = limited.build(Metric::L2, DIMENSION).unwrap();
        let alone = build(&limited, (Metric::L2, DIMENSION), &params(16), &Inline).unwrap();
        let [alone, together] = [alone, together].map(|built| built.adjacency.places().to_vec());
        assert_eq!(alone, together, "{name}");
    }
}

#[test]
fn the_first_error_of_a_source_ends_a_build_wherever_it_comes() {
    let rows = clustered(ROWS, DIMENSION as usize, 4);
    for (limit, name) in rooms() {
        let sound = Limited::new(rows.clone(), limit);
        sound.build(Metric::Cosine, DIMENSION).unwrap();
        let reads = sound.reads.load(Ordering::Relaxed);
        assert!(reads > 3 * ROWS, "{name} reads rows in place: {reads}");
        for n in 0..3 {
            for shortens in [false, true] {
                let failing = Limited {
                    fails_at: reads * n / 3,
                    shortens,
                    ..Limited::new(rows.clone(), limit)
                };
                let error = failing.build(Metric::Cosine, DIMENSION);
                let is_right = match error.map(|_| ()) {
                    Err(SegmentError::Corruption { offset: 77, .. }) => !shortens,
                    Err(SegmentError::Invalid(_)) => shortens,
                    _ => false,
                };
                assert!(is_right, "{name}, read {} of {reads}", failing.fails_at);
                assert_eq!(failing.meter.bytes(), 0);
            }
        }
    }
}

#[test]
fn rows_that_codes_do_not_tell_apart_are_compared_in_place() {
    // Eight heaps, each a thousandth as wide as they lie apart.
    let centres = clustered(8, 16, 2);
    let offsets = clustered(2_000, 16, 3);
    let rows: Vec<Vec<f32>> = offsets
        .iter()
        .zip(0..)
        .map(|(offset, row)| {
            let pairs = centres[row % 8].iter().zip(offset);
            pairs.map(|(x, o)| x * 100.0 + o / 1000.0).collect()
        })
        .collect();
    let all = Limited::new(rows.clone(), u64::MAX);
    let all = all.build(Metric::L2, 16).unwrap().sample.recall;
    for limit in [600_000, INSERT] {
        let limited = Limited::new(rows.clone(), limit);
        assert_ne!(limited.room(16), Room::Held);
        let found = limited.build(Metric::L2, 16).unwrap().sample.recall;
        assert!(found > all - 0.05, "{found} of {all}");
    }
}

proptest! {
    #[test]
    fn what_is_held_at_once_is_what_is_allowed(
        rows in 1u32..=u32::MAX >> 4,
        dimension in 1u32..=65_536,
        allowed: u64,
    ) {
        let all = build_bytes(u64::from(rows), dimension, &params(32));
        // Sizes about those that matter are drawn as often as others.
        let allowed = if allowed % 2 == 0 { allowed } else { allowed % all.saturating_mul(2) };
        let left = allowed.saturating_sub(u64::from(rows) * least_bytes(dimension, &params(32)));
        let left = left.max(allowed / 4 * 3);
        match Room::of(rows, dimension, &params(32), allowed) {
            Room::Held => prop_assert!(all <= allowed),
            Room::Parts(at_once) => {
                prop_assert!(all > allowed && at_once > 0);
                prop_assert!(u64::from(at_once) * CANDIDATE_BYTES <= left);
                prop_assert!(u64::from(at_once) * MOST_PARTS >= u64::from(rows));
            }
            Room::Seed(seed) => {
                prop_assert!(all > allowed && seed >= LEAST_LEAF_ROWS);
                prop_assert!(build_bytes(u64::from(seed), dimension, &params(32)) <= left);
            }
            Room::Insert => prop_assert!(all > allowed),
        }
    }
}
