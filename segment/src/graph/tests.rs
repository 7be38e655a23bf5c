//! What every graph must be, whatever its vectors.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::random::SplitMix;
use super::{Built, Executor, GraphBuilder, GraphParams, Inline, MAX_DEGREE, build};
use crate::error::SegmentError;
use crate::id::{Row, SeqNo};
use crate::metric::Metric;
use crate::writer::RowSource;

/// Vectors alone; `cancel_after` rows were asked about, the build is cancelled.
pub(super) struct Vectors {
    rows: Vec<Vec<f32>>,
    cancel_after: Option<usize>,
    asked: AtomicUsize,
}

impl Vectors {
    pub(super) fn new(rows: Vec<Vec<f32>>) -> Self {
        Self {
            rows,
            cancel_after: None,
            asked: AtomicUsize::new(0),
        }
    }
}

impl RowSource for Vectors {
    fn rows(&self) -> u32 {
        self.rows.len() as u32
    }
    fn key_order(&self) -> Option<&[u32]> {
        None
    }
    fn vector(&self, row: Row) -> Result<Cow<'_, [f32]>, SegmentError> {
        Ok(Cow::Borrowed(&self.rows[row.0 as usize]))
    }
    fn key(&self, _: Row) -> Result<Cow<'_, [u8]>, SegmentError> {
        unreachable!("a graph knows no keys")
    }
    fn seqno(&self, _: Row) -> Result<SeqNo, SegmentError> {
        unreachable!("a graph knows no sequence numbers")
    }
    fn payload(&self, _: Row) -> Result<Option<Cow<'_, [u8]>>, SegmentError> {
        unreachable!("a graph knows no payloads")
    }
    fn check_cancelled(&self) -> Result<(), SegmentError> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        match self.cancel_after {
            Some(after) if asked >= after => Err(SegmentError::Cancelled),
            _ => Ok(()),
        }
    }
}

/// Several threads that take tasks as they come.
pub(super) struct Threads;

impl Executor for Threads {
    fn run(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while let n = next.fetch_add(1, Ordering::Relaxed)
                        && n < count
                    {
                        task(n);
                    }
                });
            }
        });
    }
}

pub(super) fn params(max_degree: u32) -> GraphParams {
    GraphParams {
        builder: GraphBuilder::default(),
        max_degree,
        l_build: 24,
        alpha: 1.2,
        seed: 5,
    }
}

/// Rows around a few centres, some of them in the very same place.
pub(super) fn clustered(rows: usize, dimension: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut random = SplitMix::new(seed);
    let mut unit = move || random.below(2001) as f32 / 1000.0 - 1.0;
    let centres: Vec<Vec<f32>> = (0..8)
        .map(|_| (0..dimension).map(|_| unit() * 8.0).collect())
        .collect();
    (0..rows)
        .map(|row| {
            let spread = if row % 7 == 0 { 0.0 } else { 1.0 };
            let centre = &centres[row % centres.len()];
            let mut row: Vec<f32> = centre.iter().map(|x| x + spread * unit()).collect();
            // A vector of zeros has no cosine.
            if row.iter().all(|x| *x == 0.0) {
                row[0] = 0.5;
            }
            row
        })
        .collect()
}

pub(super) fn check(built: &Built, rows: usize, max_degree: u32) {
    let graph = &built.adjacency;
    assert_eq!(graph.rows() as usize, rows);
    assert_eq!(graph.stride(), max_degree as usize);
    for row in 0..rows as u32 {
        let list = graph.neighbors(row);
        let distinct: BTreeSet<u32> = list.iter().copied().collect();
        assert_eq!(distinct.len(), list.len(), "row {row}: {list:?}");
        assert!(list.iter().all(|to| *to != row && (*to as usize) < rows));
    }
    let mut reached = BTreeSet::new();
    let mut waiting = vec![graph.start()];
    while let Some(row) = waiting.pop() {
        if reached.insert(row) {
            waiting.extend(graph.neighbors(row));
        }
    }
    assert_eq!(reached.len(), rows, "rows that no walk can reach");
    assert!((0.0..=1.0).contains(&built.sample.recall));
}

const BUILDERS: [GraphBuilder; 2] = [GraphBuilder::Leaves, GraphBuilder::Insertion];

pub(super) const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 48 }))]

    #[test]
    fn bounded_simple_connected_and_the_same_for_any_threads(
        rows in 1usize..400,
        dimension in 1u32..20,
        max_degree in 4u32..20,
        seed: u64,
        metric in proptest::sample::select(METRICS.to_vec()),
        builder in proptest::sample::select(BUILDERS.to_vec()),
    ) {
        let vectors = Vectors::new(clustered(rows, dimension as usize, seed));
        let params = GraphParams { builder, seed, ..params(max_degree) };
        let alone = build(&vectors, (metric, dimension), &params, &Inline).unwrap();
        check(&alone, rows, max_degree);
        let together = build(&vectors, (metric, dimension), &params, &Threads).unwrap();
        prop_assert_eq!(alone.adjacency.places(), together.adjacency.places());
        prop_assert_eq!(alone.adjacency.start(), together.adjacency.start());
        prop_assert_eq!(alone.sample, together.sample);
    }
}

#[test]
fn a_graph_of_many_rows_finds_their_neighbours() {
    let vectors = Vectors::new(clustered(3000, 12, 1));
    for (metric, builder) in METRICS.into_iter().flat_map(|m| BUILDERS.map(|b| (m, b))) {
        let params = GraphParams {
            builder,
            ..params(16)
        };
        let built = build(&vectors, (metric, 12), &params, &Threads).unwrap();
        check(&built, 3000, 16);
        assert_eq!(built.sample.rows, 60);
        let recall = built.sample.recall;
        assert!(recall > 0.9, "{metric}, {builder:?}: {recall}");
    }
}

#[test]
fn rows_in_one_place_are_connected() {
    for rows in [2, 5, 300] {
        let vectors = Vectors::new(vec![vec![1.0, 2.0]; rows]);
        for (metric, builder) in METRICS.into_iter().flat_map(|m| BUILDERS.map(|b| (m, b))) {
            let params = GraphParams {
                builder,
                ..params(4)
            };
            let built = build(&vectors, (metric, 2), &params, &Inline).unwrap();
            check(&built, rows, 4);
        }
    }
}

#[test]
fn extreme_vectors_do_no_harm() {
    let large = crate::metric::MAX_SQUARED_NORM.sqrt() * 0.999;
    let rows: Vec<Vec<f32>> = (0..200u32)
        .map(|row| match row % 4 {
            0 => vec![large, 0.0],
            1 => vec![-large, 0.0],
            2 => vec![0.0, row as f32 * 1e-3 + 1e-3],
            _ => vec![f32::MIN_POSITIVE.sqrt() * 1.01, 0.0],
        })
        .collect();
    for (metric, builder) in METRICS.into_iter().flat_map(|m| BUILDERS.map(|b| (m, b))) {
        let vectors = Vectors::new(rows.clone());
        let params = GraphParams {
            builder,
            ..params(8)
        };
        let built = build(&vectors, (metric, 2), &params, &Inline).unwrap();
        check(&built, 200, 8);
    }
}

#[test]
fn a_build_ends_when_it_is_cancelled() {
    let mut vectors = Vectors::new(clustered(500, 4, 2));
    vectors.cancel_after = Some(3);
    let result = build(&vectors, (Metric::L2, 4), &params(8), &Inline);
    assert!(matches!(result, Err(SegmentError::Cancelled)));
    assert!(vectors.asked.load(Ordering::Relaxed) <= 5);
}

#[test]
fn parameters_out_of_range_are_refused() {
    let vectors = Vectors::new(clustered(9, 4, 2));
    let sound = params(8);
    for params in [
        GraphParams {
            max_degree: 3,
            ..sound
        },
        GraphParams {
            max_degree: MAX_DEGREE + 1,
            ..sound
        },
        GraphParams {
            l_build: 0,
            ..sound
        },
        GraphParams {
            alpha: 0.9,
            ..sound
        },
        GraphParams {
            alpha: f32::NAN,
            ..sound
        },
        GraphParams {
            alpha: f32::INFINITY,
            ..sound
        },
    ] {
        let result = build(&vectors, (Metric::L2, 4), &params, &Inline);
        assert!(
            matches!(result, Err(SegmentError::Invalid(_))),
            "{params:?}"
        );
    }
    let other = build(&vectors, (Metric::L2, 5), &sound, &Inline);
    assert!(matches!(other, Err(SegmentError::Invalid(_))));
}

#[test]
fn the_nearest_by_the_transformed_space_is_the_largest_by_inner_product() {
    let rows = clustered(300, 6, 9);
    let made = super::vectors::BuildVectors::of(Metric::InnerProduct, 6, &rows);
    let made = made.unwrap();
    let norm = |v: &[f32]| v.iter().map(|x| f64::from(x * x)).sum::<f64>();
    let first = norm(&made.row(0));
    for row in 0..300 {
        assert!(
            (norm(&made.row(row)) - first).abs() < 1e-3 * first,
            "one norm for all"
        );
        assert_eq!(made.row(row)[..6], rows[row as usize]);
    }
}

/// What `prune` makes of all rows as candidates for row 0, itself among them
/// and each of them twice.
fn pruned(vectors: &super::vectors::BuildVectors, (max_degree, alpha): (usize, f32)) -> Vec<u32> {
    pruned_to(vectors, max_degree, 0, alpha)
}

fn pruned_to(
    vectors: &super::vectors::BuildVectors,
    max_degree: usize,
    least_degree: usize,
    alpha: f32,
) -> Vec<u32> {
    let limits = super::prune::Limits {
        max_degree,
        least_degree,
        alpha,
    };
    let rows = (0..vectors.rows()).rev().chain(0..vectors.rows());
    let candidates: Vec<_> = rows.map(|row| (vectors.between(0, row), row)).collect();
    let (mut scratch, mut out) = (Default::default(), vec![77]);
    super::prune::prune(vectors, 0, &candidates, limits, &mut scratch, &mut out);
    out
}

#[test]
fn a_prune_keeps_to_the_degree_and_to_rows_that_nothing_occludes() {
    // The origin, and rows that are as far from each other as from it or further.
    let axis = |row: usize| (0..40).map(|i| f32::from(u8::from(i + 1 == row))).collect();
    let axes =
        super::vectors::BuildVectors::of(Metric::L2, 40, &(0..41).map(axis).collect::<Vec<_>>())
            .unwrap();
    for degree in [1, 4, 7, 39, 40, 50] {
        let nearest: Vec<u32> = (1..41).take(degree).collect();
        assert_eq!(
            pruned(&axes, (degree, 1.2)),
            nearest,
            "equal distances by row"
        );
    }
    let of = |rows: &[[f32; 2]]| {
        let rows: Vec<_> = rows.iter().map(|row| row.to_vec()).collect();
        super::vectors::BuildVectors::of(Metric::L2, 2, &rows).unwrap()
    };
    // On a line the first hides the others, on the other side it does not.
    let line = of(&[[0.0, 0.0], [3.0, 0.0], [1.0, 0.0], [2.0, 0.0], [-4.0, 0.0]]);
    assert_eq!(pruned(&line, (9, 2.0)), [2, 4]);
    // From the origin 1.1 times as far (squared) as from the row before.
    let between = of(&[[0.0, 0.0], [1.0, 0.0], [0.55, 0.95]]);
    assert_eq!(pruned(&between, (9, 1.0)), [1]);
    assert_eq!(pruned(&between, (9, 1.2)), [1, 2]);
    // Of rows in one place one is enough.
    let copies = of(&[[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]);
    assert_eq!(pruned(&copies, (9, 1.2)), [1, 4]);
    // Unless the list would be too short.
    assert_eq!(pruned_to(&copies, 9, 3, 1.2), [1, 4, 2]);
    assert_eq!(pruned_to(&copies, 9, 9, 1.2), [1, 4, 2, 3]);
}

/// A list of so many neighbours, pruned before, with offers put in.
#[test]
fn offers_are_admitted_much_as_a_prune_of_all_chooses() {
    let mut random = SplitMix::new(9);
    let mut unit = || random.below(2001) as f32 / 1000.0 - 1.0;
    let rows: Vec<Vec<f32>> = (0..200).map(|_| (0..4).map(|_| unit()).collect()).collect();
    let (mut same, mut all, mut least) = (0, 0, usize::MAX);
    for metric in METRICS {
        let vectors = super::vectors::BuildVectors::of(metric, 4, &rows).unwrap();
        for row in 0..100u32 {
            let limits = super::prune::Limits {
                max_degree: 12,
                least_degree: vectors.least_degree(12),
                alpha: 1.2,
            };
            let mut scratch = super::prune::PruneScratch::default();
            let mut prune = |others: &[u32]| {
                let mut out = Vec::new();
                let of = |other: &u32| (vectors.between(row, *other), *other);
                let candidates: Vec<(f32, u32)> = others.iter().map(of).collect();
                super::prune::prune(&vectors, row, &candidates, limits, &mut scratch, &mut out);
                out
            };
            let others: Vec<u32> = (100..190).filter(|other| other % 3 != row % 3).collect();
            let list = prune(&others);
            let offers = [190 + row % 3, 193 + row % 4, 197 + row % 3];
            let together = prune(&[&list[..], &offers].concat());
            let mut admitted = Vec::new();
            let lists = (&list[..], &offers[..]);
            super::prune::admit(&vectors, row, lists, limits, &mut scratch, &mut admitted);
            let chosen: BTreeSet<u32> = admitted.iter().copied().collect();
            assert_eq!(chosen.len(), admitted.len(), "{admitted:?}");
            assert!(admitted.len() <= 12);
            let is_known = |other: &&u32| list.contains(other) || offers.contains(other);
            assert_eq!(chosen.iter().filter(is_known).count(), chosen.len());
            let exact: BTreeSet<u32> = together.iter().copied().collect();
            same += exact.intersection(&chosen).count();
            all += exact.len().max(chosen.len());
            least = least.min(chosen.len());
            // Where the list is not filled up: no offer is occluded by one that is nearer.
            for offer in offers.iter().filter(|_| chosen.len() > limits.least_degree) {
                let far = vectors.between(row, *offer);
                let hides = |other: &&u32| {
                    vectors.between(row, **other) < far
                        && far > 1.2 * vectors.between(**other, *offer)
                };
                let hidden = list
                    .iter()
                    .find(hides)
                    .filter(|other| chosen.contains(other));
                assert!(
                    hidden.is_none() || !chosen.contains(offer),
                    "{hidden:?}, {offer}"
                );
            }
        }
    }
    assert!(same * 100 >= all * 93, "{same} of {all}");
    assert!(least > 2);
}

#[test]
fn a_sampled_row_does_not_count_itself() {
    // On a line without edges each row finds the start, row 0, and only rows 1
    // to 5 have it among their ten nearest.
    let line: Vec<_> = (0..40).map(|row| vec![row as f32]).collect();
    let line = super::vectors::BuildVectors::of(Metric::L2, 1, &line).unwrap();
    let graph = super::Adjacency::new(40, 4, 0).unwrap();
    let truth = super::recall::Truth::new(&line, &Inline, &|| Ok(())).unwrap();
    let sample = truth.found(&line, &graph, &Inline, &|| Ok(())).unwrap();
    assert_eq!(sample.rows, 20);
    let rows = super::recall::chosen(&line, 20);
    let hits = rows.iter().filter(|row| (1..=5).contains(*row)).count();
    assert!((1..5).contains(&hits), "half of all rows look: {rows:?}");
    assert_eq!(sample.recall, hits as f32 / 200.0);
}

#[test]
fn a_sample_is_much_the_same_when_rows_come_and_go() {
    let of = |rows: &[Vec<f32>]| super::vectors::BuildVectors::of(Metric::L2, 6, rows).unwrap();
    let rows = clustered(2_000, 6, 3);
    let named = |all: &[Vec<f32>]| -> BTreeSet<Vec<u32>> {
        let chosen = super::recall::chosen(&of(all), 100);
        let bits = |row: u32| all[row as usize].iter().map(|x| x.to_bits()).collect();
        chosen.into_iter().map(bits).collect()
    };
    // A tenth is gone, a tenth is new, and all lie elsewhere.
    let mut later = rows[200..].to_vec();
    later.extend(clustered(200, 6, 4));
    later.reverse();
    let (before, after) = (named(&rows), named(&later));
    let both = before.intersection(&after).count();
    assert!(both >= before.len() * 7 / 10, "{both} of {}", before.len());
}

/// Far from whatever row is the origin, products tell nothing of who is near.
#[test]
fn neighbours_far_from_the_origin_are_known_all_the_same() {
    let mut rows = clustered(1_200, 4, 11);
    for (row, x) in rows.iter_mut().enumerate() {
        x[0] += if row % 2 == 0 { 0.0 } else { 1e6 };
    }
    let vectors = super::vectors::BuildVectors::of(Metric::L2, 4, &rows).unwrap();
    // No edges at all: nobody finds anything but the start.
    let graph = super::Adjacency::new(1_200, 4, 0).unwrap();
    let truth = super::recall::Truth::new(&vectors, &Inline, &|| Ok(())).unwrap();
    let sample = truth.found(&vectors, &graph, &Inline, &|| Ok(())).unwrap();
    assert!(sample.rows >= 20, "{sample:?}");
    assert!(sample.recall < 0.1, "{sample:?}");
}
