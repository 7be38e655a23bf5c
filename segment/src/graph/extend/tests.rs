//! What a graph made out of another must be.

use std::borrow::Cow;
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::KeptGraph;
use crate::error::SegmentError;
use crate::graph::build::FromRow;
use crate::graph::random::SplitMix;
use crate::graph::tests::{METRICS, Threads, Vectors, check, clustered, params};
use crate::graph::vectors::BuildVectors;
use crate::graph::walk::{WalkScratch, walk};
use crate::graph::{Built, Inline, build};
use crate::id::{Row, SeqNo};
use crate::metric::Metric;
use crate::writer::RowSource;

/// Rows of a source, the first of which had a graph together with rows that are gone.
struct Source {
    vectors: Vectors,
    old: Vec<Vec<f32>>,
    /// Of each row that had the graph.
    numbers: Vec<Option<u32>>,
    edges: Vec<Vec<u32>>,
    start: u32,
    generation: u32,
    least_recall: f32,
    /// Reading the edges of this one fails.
    damaged: Option<u32>,
}

impl Source {
    /// A graph of `old` rows, of which `is_gone` are, and `new` rows.
    fn new(
        (metric, rows): (Metric, Vec<Vec<f32>>),
        old: usize,
        degree: u32,
        is_gone: impl Fn(usize) -> bool,
    ) -> Self {
        let (old, new) = rows.split_at(old);
        let dimension = old[0].len() as u32;
        let built = build(
            &Vectors::new(old.to_vec()),
            (metric, dimension),
            &params(degree),
            &Inline,
        );
        let built = built.unwrap();
        let graph = &built.adjacency;
        // Rows lie as the graph has them.
        let mut old = old.to_vec();
        if let Some(layout) = &built.layout {
            let from = old.clone();
            for (row, place) in from.into_iter().zip(layout.order.places()) {
                old[*place as usize] = row;
            }
        }
        let mut left = Vec::new();
        let numbers = (0..old.len()).map(|row| {
            (!is_gone(row)).then(|| {
                left.push(old[row].clone());
                left.len() as u32 - 1
            })
        });
        let numbers = numbers.collect();
        left.extend_from_slice(new);
        Self {
            vectors: Vectors::new(left),
            numbers,
            edges: (0..old.len())
                .map(|row| graph.neighbors(row as u32).to_vec())
                .collect(),
            start: graph.start(),
            old,
            generation: 2,
            least_recall: 0.0,
            damaged: None,
        }
    }

    fn build(&self, metric: Metric, degree: u32) -> Result<Built, SegmentError> {
        let dimension = self.old[0].len() as u32;
        build(self, (metric, dimension), &params(degree), &Inline)
    }

    fn rows(&self) -> usize {
        self.vectors.rows() as usize
    }
}

impl KeptGraph for Source {
    fn rows(&self) -> u32 {
        self.numbers.len() as u32
    }
    fn start(&self) -> Row {
        Row(self.start)
    }
    fn generation(&self) -> u32 {
        self.generation
    }
    fn built_recall(&self) -> f32 {
        0.75
    }
    fn least_recall(&self, _: u32) -> f32 {
        self.least_recall
    }
    fn number(&self, row: Row) -> Option<Row> {
        self.numbers[row.0 as usize].map(Row)
    }
    fn neighbors(&self, row: Row, out: &mut Vec<Row>) -> Result<(), SegmentError> {
        if self.damaged == Some(row.0) {
            return Err(SegmentError::corruption(7, "an edge"));
        }
        out.clear();
        out.extend(self.edges[row.0 as usize].iter().copied().map(Row));
        Ok(())
    }
    fn vector(&self, row: Row) -> Result<Cow<'_, [f32]>, SegmentError> {
        Ok(Cow::Borrowed(&self.old[row.0 as usize]))
    }
}

impl RowSource for Source {
    fn rows(&self) -> u32 {
        self.vectors.rows()
    }
    fn key_order(&self) -> Option<&[u32]> {
        None
    }
    fn vector(&self, row: Row) -> Result<Cow<'_, [f32]>, SegmentError> {
        self.vectors.vector(row)
    }
    fn key(&self, row: Row) -> Result<Cow<'_, [u8]>, SegmentError> {
        self.vectors.key(row)
    }
    fn seqno(&self, row: Row) -> Result<SeqNo, SegmentError> {
        self.vectors.seqno(row)
    }
    fn payload(&self, row: Row) -> Result<Option<Cow<'_, [u8]>>, SegmentError> {
        self.vectors.payload(row)
    }
    fn kept_graph(&self) -> Option<&dyn KeptGraph> {
        Some(self)
    }
}

/// The neighbours of each row of the source, by its own numbers.
fn lists(built: &Built) -> Vec<BTreeSet<u32>> {
    let order = &built.layout.as_ref().unwrap().order;
    let places = order.places();
    let mut rows = vec![0; places.len()];
    (0u32..)
        .zip(places)
        .for_each(|(row, place)| rows[*place as usize] = row);
    let of = |place: &u32| built.adjacency.neighbors(*place).iter();
    let named = |place: &u32| of(place).map(|to| rows[*to as usize]).collect();
    places.iter().map(named).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

    #[test]
    fn bounded_connected_and_otherwise_as_it_was(
        old in 2usize..300,
        new in 0usize..80,
        gone in 0u64..7,
        dimension in 1u32..12,
        degree in 4u32..20,
        seed: u64,
        metric in proptest::sample::select(METRICS.to_vec()),
    ) {
        let mut random = SplitMix::new(seed);
        let gone: Vec<bool> = (0..old).map(|_| random.below(10) < gone).collect();
        let rows = clustered(old + new, dimension as usize, seed);
        let source = Source::new((metric, rows), old, degree, |row| gone[row]);
        prop_assume!(source.rows() > 0);
        let built = source.build(metric, degree).unwrap();
        check(&built, source.rows(), degree);
        let together = build(&source, (metric, dimension), &params(degree), &Threads).unwrap();
        prop_assert_eq!(built.adjacency.places(), together.adjacency.places());
        let left = gone.iter().filter(|gone| !**gone).count();
        if left * 2 < source.rows() {
            prop_assert_eq!(built.generation, 0, "so few are not worth keeping");
            return Ok(());
        }
        prop_assert_eq!((built.generation, built.built_recall), (3, 0.75));
        // Kept rows lie in the order in which they did.
        let places = built.layout.as_ref().unwrap().order.places();
        prop_assert!(places[..left].is_sorted());
        if built.repaired > 0 {
            return Ok(());
        }
        let lists = lists(&built);
        for (row, number) in source.numbers.iter().enumerate() {
            let Some(number) = *number else { continue };
            let now = &lists[number as usize];
            let was: Option<BTreeSet<u32>> =
                source.edges[row].iter().map(|to| source.numbers[*to as usize]).collect();
            let chosen = now.iter().any(|to| *to as usize >= left)
                || lists[left..].iter().any(|list| list.contains(&number));
            if let (Some(was), false) = (was, chosen) {
                prop_assert_eq!(now, &was, "row {} lost nothing", row);
            }
        }
    }
}

#[test]
fn what_is_made_out_of_a_graph_finds_as_much_as_a_new_one() {
    for metric in METRICS {
        let mut random = SplitMix::new(3);
        let mut unit = || random.below(2001) as f32 / 1000.0 - 1.0;
        let rows = (0..4400).map(|_| (0..12).map(|_| unit()).collect());
        let rows = rows.collect();
        let source = Source::new((metric, rows), 4000, 16, |row| row % 7 == 3);
        let made = source.build(metric, 16).unwrap();
        check(&made, source.rows(), 16);
        assert_eq!(made.generation, 3);
        let anew = build(&source.vectors, (metric, 12), &params(16), &Threads).unwrap();
        let (made, anew) = (made.sample.recall, anew.sample.recall);
        assert!(made > anew - 0.03, "{metric}: {made} against {anew}");
    }
}

/// Rows go as others come: what is missed adds up where insertions look no farther.
#[test]
fn insertions_look_farther_the_more_rows_are_gone() {
    let rows = clustered(300, 4, 8);
    for (gone, l) in [(0, 48), (2, 48), (3, 56), (12, 80), (30, 128), (90, 128)] {
        let source = Source::new((Metric::L2, rows.clone()), 300, 8, |row| row < gone);
        let vectors = BuildVectors::read(&source, Metric::L2, 4).unwrap();
        let kept = super::Kept::new(&vectors, &source).unwrap();
        assert_eq!((kept.gone.len(), kept.insertion_l()), (gone, l));
    }
}

/// Long rows are chosen by codes, unless they lie in heaps that codes do not tell apart.
#[test]
fn what_is_made_by_codes_finds_as_much_as_a_new_one() {
    for (metric, spread) in METRICS.into_iter().zip([1.0, 1e-4, 1.0]) {
        let mut random = SplitMix::new(4);
        let mut unit = || random.below(2001) as f32 / 1000.0 - 1.0;
        let rows = (0..1300).map(|row| {
            let heap = f32::from(row as u16 % 4);
            let part = (0..80).map(|i| match i {
                0 => 1.0 + heap,
                i if i < 9 => spread * unit(),
                _ => spread * unit() / 10.0,
            });
            part.collect()
        });
        let source = Source::new((metric, rows.collect()), 1100, 16, |row| row % 7 == 3);
        let made = source.build(metric, 16).unwrap();
        check(&made, source.rows(), 16);
        assert_eq!(made.generation, 3);
        let together = build(&source, (metric, 80), &params(16), &Threads).unwrap();
        assert_eq!(made.adjacency.places(), together.adjacency.places());
        let anew = build(&source.vectors, (metric, 80), &params(16), &Threads).unwrap();
        let (made, anew) = (made.sample.recall, anew.sample.recall);
        assert!(made > anew - 0.03, "{metric}: {made} against {anew}");
    }
}

/// Too few rows lie in a heap for codes not to pay, and codes do not tell them apart.
#[test]
fn a_heap_among_rows_of_one_spread_is_found() {
    let mut random = SplitMix::new(5);
    let mut unit = || random.below(2001) as f32 / 1000.0 - 1.0;
    let in_heap = |row: usize| row.is_multiple_of(13);
    let rows: Vec<Vec<f32>> = (0..3900)
        .map(|row| {
            let spread = if in_heap(row) { 1e-4 } else { 1.0 };
            (0..64).map(|_| 0.5 + spread * unit()).collect()
        })
        .collect();
    let source = Source::new((Metric::L2, rows), 3200, 24, |_| false);
    let built = source.build(Metric::L2, 24).unwrap();
    assert_eq!(built.generation, 3);
    let layout = built.layout.as_ref().unwrap();
    let mut placed = vec![Vec::new(); source.rows()];
    for (row, place) in (0u32..).zip(layout.order.places()) {
        placed[*place as usize] = source.vectors.vector(Row(row)).unwrap().into_owned();
    }
    let vectors = BuildVectors::of(Metric::L2, 64, &placed).unwrap();
    let near = |row: &[f32]| row.iter().all(|x| (x - 0.5).abs() < 2e-4);
    let heap: Vec<u32> = (0..3900)
        .filter(|row| near(&placed[*row as usize]))
        .collect();
    let mut found = 0;
    for &row in &heap {
        let mut exact: Vec<f32> = heap.iter().map(|to| vectors.between(row, *to)).collect();
        exact.sort_unstable_by(f32::total_cmp);
        let mut scratch = WalkScratch::default();
        let space = FromRow::exact(&vectors, &built.adjacency, row);
        let start = built.adjacency.start();
        let Ok(_) = walk(&space, start, 64, &mut scratch, |_, _| Ok(true));
        let pool = scratch.pool.iter().take(10);
        found += pool.filter(|(distance, _)| *distance <= exact[9]).count();
    }
    let all = heap.len() * 10;
    assert!(found * 100 >= all * 99, "{found} of {all}");
}

#[test]
fn a_cluster_of_new_rows_is_found() {
    // All new rows are far from all old ones, and near each other.
    let mut rows = clustered(1200, 8, 5);
    rows.truncate(1000);
    rows.extend(clustered(200, 8, 6).into_iter().map(|mut row| {
        row.iter_mut().for_each(|x| *x += 100.0);
        row
    }));
    let source = Source::new((Metric::L2, rows), 1000, 16, |_| false);
    let built = source.build(Metric::L2, 16).unwrap();
    check(&built, 1200, 16);
    let lists = lists(&built);
    let near = |row: usize| lists[row].iter().filter(|to| **to >= 1000).count();
    let lonely = (1000..1200).filter(|row| near(*row) < 3).count();
    assert_eq!(lonely, 0, "rows with hardly a neighbour of their own kind");
}

#[test]
fn a_graph_that_finds_too_little_is_built_from_nothing() {
    let rows = clustered(600, 8, 7);
    let mut source = Source::new((Metric::L2, rows), 550, 8, |_| false);
    source.least_recall = 1.1;
    let built = source.build(Metric::L2, 8).unwrap();
    check(&built, 600, 8);
    assert_eq!(built.generation, 0);
    assert_eq!(built.built_recall, built.sample.recall);
}

/// No build makes such lists; a file whose checksums are right may have them.
#[test]
fn lists_that_name_the_row_itself_or_another_twice_are_put_right() {
    let rows = clustered(300, 6, 9);
    let mut source = Source::new((Metric::L2, rows), 290, 8, |_| false);
    for (row, list) in source.edges.iter_mut().enumerate().skip(1).step_by(3) {
        list[0] = row as u32;
        list[1] = list[2];
    }
    let built = source.build(Metric::L2, 8).unwrap();
    check(&built, 300, 8);
    assert_eq!(built.generation, 3);
}

#[test]
fn the_start_may_be_gone_and_all_that_it_knew() {
    let rows = clustered(300, 4, 8);
    let probe = Source::new((Metric::L2, rows.clone()), 300, 8, |_| false);
    let near: BTreeSet<u32> = probe.edges[probe.start as usize].iter().copied().collect();
    let gone = |row: usize| row as u32 == probe.start || near.contains(&(row as u32));
    let source = Source::new((Metric::L2, rows), 300, 8, gone);
    let built = source.build(Metric::L2, 8).unwrap();
    check(&built, source.rows(), 8);
    assert_eq!(built.generation, 3);
}

#[test]
fn a_source_that_contradicts_itself_and_damage_are_errors() {
    let source = || Source::new((Metric::L2, clustered(120, 4, 8)), 100, 8, |_| false);
    let mut swapped = source();
    swapped.numbers.swap(3, 4);
    let mut beyond = source();
    beyond.numbers[99] = Some(120);
    for wrong in [swapped, beyond] {
        let result = wrong.build(Metric::L2, 8);
        assert!(matches!(result, Err(SegmentError::Invalid(_))));
    }
    let mut damaged = source();
    damaged.damaged = Some(42);
    let result = damaged.build(Metric::L2, 8);
    assert!(matches!(
        result,
        Err(SegmentError::Corruption { offset: 7, .. })
    ));
}
