//! Leaves, what they offer, and the graphs that come of them.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::carve::{CarveScratch, carve};
use super::leaf::{Edge, LeafScratch, pairs};
use super::{Made, Shape, build};
use crate::error::SegmentError;
use crate::graph::executor::Inline;
use crate::graph::random::SplitMix;
use crate::graph::tests::{Threads, clustered, params};
use crate::graph::vectors::BuildVectors;
use crate::metric::Metric;

/// Small enough that a few hundred rows are cut at every level.
fn small() -> Shape {
    Shape {
        clusters: 3,
        cluster_rows: 60,
        parts: 2,
        leaf_rows: (4, 12, 20),
        nearest: 4,
        candidates: 12,
    }
}

fn vectors(rows: &[Vec<f32>]) -> BuildVectors<'static> {
    BuildVectors::of(Metric::L2, rows[0].len() as u32, rows).unwrap()
}

fn made(vectors: &BuildVectors, shape: &Shape) -> Made {
    build(vectors, &params(8), shape, u32::MAX, &Inline, &|| Ok(())).unwrap()
}

fn leaves(vectors: &BuildVectors, members: &[u32], shape: &Shape, seed: u64) -> Vec<Vec<u32>> {
    let mut leaves = Vec::new();
    let mut random = SplitMix::new(seed);
    let scratch = &mut CarveScratch::default();
    carve(vectors, members, shape, &mut random, scratch, |leaf| {
        leaves.push(leaf.to_vec());
    });
    leaves
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

    #[test]
    fn leaves_cover_every_member_and_are_small(
        rows in 1usize..500,
        copies in 1usize..60,
        parts in 1usize..3,
        seed: u64,
    ) {
        let rows: Vec<_> = (0..rows).map(|row| vec![(row / copies) as f32, 1.0]).collect();
        let vectors = vectors(&rows);
        let members: Vec<u32> = (0..rows.len() as u32).filter(|row| row % 3 != 1).collect();
        let shape = Shape { parts, ..small() };
        let leaves = leaves(&vectors, &members, &shape, seed);
        let mut covered = BTreeSet::new();
        for leaf in &leaves {
            let distinct: BTreeSet<u32> = leaf.iter().copied().collect();
            prop_assert!((1..=20).contains(&leaf.len()), "{}", leaf.len());
            prop_assert_eq!(distinct.len(), leaf.len(), "a place twice: {:?}", leaf);
            covered.extend(distinct);
        }
        prop_assert!(covered.into_iter().eq(0..members.len() as u32));
        let places = leaves.iter().map(Vec::len).sum::<usize>();
        prop_assert!(parts > 1 || places == members.len(), "each in one leaf");
    }

    #[test]
    fn graphs_of_many_leaves_are_simple_bounded_and_the_same_for_any_threads_and_parts(
        rows in 1usize..600,
        at_once in 1u32..700,
        seed: u64,
    ) {
        let vectors = vectors(&clustered(rows, 5, seed));
        let params = crate::graph::GraphParams { seed, ..params(8) };
        let alone = build(&vectors, &params, &small(), u32::MAX, &Inline, &|| Ok(())).unwrap();
        let together = build(&vectors, &params, &small(), u32::MAX, &Threads, &|| Ok(())).unwrap();
        prop_assert_eq!(alone.adjacency.places(), together.adjacency.places());
        prop_assert_eq!(&alone.order, &together.order);
        let parts = build(&vectors, &params, &small(), at_once, &Inline, &|| Ok(())).unwrap();
        prop_assert_eq!(alone.adjacency.places(), parts.adjacency.places());
        prop_assert_eq!(&alone.order, &parts.order);
        let mut order = alone.order;
        order.sort_unstable();
        prop_assert!(order.into_iter().eq(0..rows as u32), "each row once");
        for row in 0..rows as u32 {
            let list = alone.adjacency.neighbors(row);
            let distinct: BTreeSet<u32> = list.iter().copied().collect();
            prop_assert!(list.len() <= 8 && distinct.len() == list.len());
            prop_assert!(!distinct.contains(&row));
            prop_assert!(rows == 1 || !list.is_empty(), "row {} has no neighbour", row);
        }
    }
}

/// The offers of one leaf of all rows, both ways.
fn offers(vectors: &BuildVectors, nearest: usize) -> Vec<Edge> {
    let all: Vec<u32> = (0..vectors.rows()).collect();
    let shape = Shape {
        nearest,
        ..Shape::default()
    };
    let (mut scratch, mut out) = (LeafScratch::default(), Vec::new());
    pairs(vectors, &all, &all, &shape, &mut scratch, &mut out);
    let back = |edge: &Edge| Edge {
        row: edge.other,
        other: edge.row,
        ..*edge
    };
    out.iter().flat_map(|edge| [*edge, back(edge)]).collect()
}

#[test]
fn offers_have_true_distances_wherever_the_rows_lie() {
    for far in [0.0, 1e4, -3e6] {
        let mut rows = clustered(90, 17, 4);
        rows.iter_mut().flatten().for_each(|x| *x += far);
        let vectors = vectors(&rows);
        let offers = offers(&vectors, 5);
        assert!(offers.len() >= 2 * 90, "both ways: {}", offers.len());
        for edge in offers {
            let exact = vectors.between(edge.row, edge.other);
            let error = (edge.distance - exact).abs();
            // Norms are those of the leaf, some hundreds, not of where it lies.
            assert!(error <= 2e-3, "{edge:?}, truly {exact}");
        }
    }
}

#[test]
fn offers_are_the_near_rows_that_no_nearer_one_hides() {
    let rows = clustered(120, 6, 8);
    let distinct = rows.into_iter().enumerate().filter(|(row, _)| row % 7 != 0);
    let distinct: Vec<Vec<f32>> = distinct.map(|(_, row)| row).collect();
    let vectors = vectors(&distinct);
    let count = vectors.rows();
    let mut wanted = BTreeSet::new();
    for row in 0..count {
        let mut near: Vec<u32> = (0..count).filter(|other| *other != row).collect();
        near.sort_by(|a, b| {
            vectors
                .between(row, *a)
                .total_cmp(&vectors.between(row, *b))
        });
        let mut looked_at = 6;
        let kept = loop {
            let mut kept: Vec<u32> = Vec::new();
            for &other in near.iter().take(looked_at) {
                let distance = vectors.between(row, other);
                if kept.iter().all(|k| vectors.between(*k, other) >= distance) {
                    kept.push(other);
                }
            }
            if kept.len() >= 2 || looked_at >= near.len() {
                break kept;
            }
            looked_at *= 4;
        };
        wanted.extend(kept.iter().flat_map(|other| [(row, *other), (*other, row)]));
    }
    let found: BTreeSet<_> = offers(&vectors, 6)
        .iter()
        .map(|e| (e.row, e.other))
        .collect();
    assert_eq!(found, wanted);
}

#[test]
fn copies_do_not_crowd_out_what_is_further_away() {
    // Ten places with twenty rows each: more copies than are looked at.
    let rows: Vec<_> = (0..200).map(|row| vec![(row % 10) as f32, 0.3]).collect();
    let mut elsewhere = BTreeSet::new();
    for edge in offers(&vectors(&rows), 6) {
        if edge.row % 10 != edge.other % 10 {
            elsewhere.insert(edge.row);
        }
    }
    assert_eq!(elsewhere.len(), 200);
}

#[test]
fn the_order_of_rows_has_near_ones_together() {
    // Eight clusters, dealt out in turn; in order they are in runs.
    let vectors = vectors(&clustered(2000, 8, 3));
    let order = made(&vectors, &Shape::default()).order;
    let changes = order.windows(2).filter(|pair| pair[0] % 8 != pair[1] % 8);
    assert!(changes.count() < 600, "of 2000");
}

#[test]
fn a_build_ends_at_any_check() {
    let vectors = vectors(&clustered(300, 4, 1));
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let run = |limit: usize| {
        asked.store(0, std::sync::atomic::Ordering::Relaxed);
        let check = || match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            n if n >= limit => Err(SegmentError::Cancelled),
            _ => Ok(()),
        };
        build(&vectors, &params(8), &small(), u32::MAX, &Inline, &check)
    };
    assert!(run(usize::MAX).is_ok());
    let all = asked.load(std::sync::atomic::Ordering::Relaxed);
    assert!(all > 10, "{all}");
    for limit in 0..all {
        assert!(
            matches!(run(limit), Err(SegmentError::Cancelled)),
            "{limit}"
        );
    }
}
