//! Descriptions that no engine would give, and settings that no options let through.

use esker_compaction::{GraphDescription, GraphState, Plan, Policy, SegmentDescription};
use esker_segment::SegmentId;
use proptest::prelude::*;

use crate::simulator::{DEFAULTS, Rng, World, graph_of, live, missing};

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 0_u64..5,
        3 => 0_u64..100_000,
        1 => Just(u64::from(u32::MAX)),
        1 => Just(u64::MAX),
        1 => any::<u64>(),
    ]
}

fn graph() -> impl Strategy<Value = GraphState> {
    let recall = prop_oneof![
        Just(f32::NAN),
        Just(f32::INFINITY),
        Just(-1.0),
        0.0_f32..1.0
    ];
    let built = prop::option::of(recall.clone());
    let present =
        (any::<[u32; 2]>(), recall, built).prop_map(|(numbers, sampled_recall, built_recall)| {
            let [generation, sampled_rows] = numbers;
            GraphState::Present(GraphDescription {
                generation,
                sampled_recall,
                sampled_rows,
                built_recall,
            })
        });
    prop_oneof![
        Just(GraphState::Unwanted),
        Just(GraphState::Missing),
        Just(GraphState::Unopened),
        present,
    ]
}

fn segment() -> impl Strategy<Value = SegmentDescription> {
    let id = prop_oneof![0_u64..100, any::<u64>()];
    (id, number(), number(), any::<bool>(), graph()).prop_map(|(id, rows, live, all, graph)| {
        SegmentDescription {
            id: SegmentId(id),
            rows,
            // More than there are, too.
            live_rows: if all { rows } else { live },
            bytes: live,
            graph,
        }
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let ratio = prop_oneof![
        Just(f64::NAN),
        Just(0.0),
        Just(-1.0),
        Just(f64::INFINITY),
        Just(f64::MIN_POSITIVE),
        0.0_f64..1.0
    ];
    let count = || prop_oneof![0_usize..10, Just(usize::MAX), Just(usize::MAX - 1)];
    (count(), ratio, count(), number()).prop_map(
        |(merge_width, deletion_ratio, max_graph_segments, max_rows)| Policy {
            merge_width,
            deletion_ratio,
            max_graph_segments,
            max_rows,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Whatever is claimed, a plan is of segments that are there and free, and what comes
    /// of it is within the limit. The same is chosen from the same.
    #[test]
    fn nothing_that_is_claimed_breaks_the_choice(
        policy in policy(),
        segments in prop::collection::vec(segment(), 0..60),
        in_use in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let in_use: Vec<_> = in_use
            .iter()
            .filter(|_| !segments.is_empty())
            .map(|index| index.get(&segments).id)
            .collect();
        let chosen = policy.choose(&segments, &in_use);
        prop_assert_eq!(&chosen, &policy.choose(&segments, &in_use));
        for Plan { inputs, .. } in chosen.iter().chain(&policy.full(&segments)) {
            prop_assert!(!inputs.is_empty());
            prop_assert!(inputs.iter().all(|id| segments.iter().any(|s| s.id == *id)));
        }
        if let Some(Plan { inputs, .. }) = &chosen {
            prop_assert!(!inputs.iter().any(|id| in_use.contains(id)));
        }
        // Where two claim one number, nobody knows which is meant.
        let mut ids: Vec<_> = segments.iter().map(|s| s.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Ok(());
        }
        for Plan { inputs, .. } in chosen.iter().chain(&policy.full(&segments)) {
            let rows = segments.iter().filter(|s| inputs.contains(&s.id));
            let rows: u128 = rows.map(|s| u128::from(s.live_rows)).sum();
            prop_assert!(rows <= u128::from(policy.max_rows), "{rows}");
        }
        // In another order the same segments are chosen.
        let reversed: Vec<_> = segments.iter().rev().copied().collect();
        let same = policy.choose(&reversed, &in_use).map(|mut plan| {
            plan.inputs.reverse();
            plan
        });
        prop_assert_eq!(chosen, same);
    }

    /// Whatever the segments, merging as told ends, loses no row, and leaves nothing that
    /// is due.
    #[test]
    fn merging_ends(
        rows in prop::collection::vec((1_u64..60_000, 0.0_f64..1.2, 0_u32..4), 0..60),
        merge_width in 2_usize..6,
        max_graph_segments in 1_usize..6,
        max_rows in prop_oneof![Just(100_000_u64), Just(1_000_000), 1_u64..60_000],
        deletion_ratio in prop_oneof![Just(0.3), Just(0.0)],
        with_graph in prop::collection::vec(prop::bool::weighted(0.9), 300),
    ) {
        let policy = Policy { merge_width, deletion_ratio, max_graph_segments, max_rows };
        let mut world = World::default();
        for (n, (rows, alive, graph)) in rows.iter().enumerate() {
            let graph = match graph {
                0 => missing(*rows),
                1 => GraphState::Unopened,
                generation => graph_of(*rows, 2 * generation),
            };
            world.add(*rows, graph);
            world.delete(n, *rows - (*rows as f64 * alive.min(1.0)) as u64);
        }
        let before = live(&world.segments);
        let mut steps = 0;
        while let Some(plan) = policy.choose(&world.segments, &[]) {
            let begun = world.begin(&plan);
            prop_assert!(begun.rows <= u128::from(max_rows));
            world.commit(&begun, with_graph.get(steps).copied().unwrap_or(true));
            steps += 1;
            prop_assert!(steps <= 300, "merges have no end");
        }
        prop_assert_eq!(live(&world.segments), before);
        prop_assert!(!world.segments.iter().any(|s| s.lacks_graph() && s.live_rows <= max_rows));
        // The same for a caller who wants one segment.
        while let Some(plan) = policy.full(&world.segments) {
            let begun = world.begin(&plan);
            prop_assert!(begun.rows <= u128::from(max_rows));
            world.commit(&begun, true);
            steps += 1;
            prop_assert!(steps <= 600, "full merges have no end");
        }
        prop_assert_eq!(live(&world.segments), before);
        let dead = |s: &&SegmentDescription| s.rows > s.live_rows && s.live_rows <= max_rows;
        prop_assert!(!world.segments.iter().any(|s| dead(&s)));
    }
}

/// A hundred thousand segments are chosen from as quickly as they are sorted. Something
/// that looks at pairs of them would take minutes.
#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "the time that it takes is what is measured"
)]
fn many_segments_take_no_time() {
    let mut rng = Rng(5);
    let start = std::time::Instant::now();
    for size in [0, 1, 10, 20, 40] {
        let segments: Vec<_> = (0..100_000_u64)
            .map(|id| {
                let rows = 1 + rng.next() % (1 << size);
                let graph = match rng.below(4) {
                    0 => GraphState::Unwanted,
                    1 => GraphState::Missing,
                    _ => graph_of(rows, 0),
                };
                SegmentDescription {
                    id: SegmentId(id),
                    rows,
                    live_rows: rows,
                    bytes: rows,
                    graph,
                }
            })
            .collect();
        let in_use: Vec<_> = segments.iter().skip(1).step_by(2).map(|s| s.id).collect();
        for merge_width in [2, 4, 64, 50_000] {
            let policy = Policy {
                merge_width,
                ..DEFAULTS
            };
            let plan = policy.choose(&segments, &in_use).expect("much is due");
            assert!(plan.inputs.iter().all(|id| id.0 % 2 == 0));
            assert!(policy.full(&segments).expect("one is wanted").inputs.len() > 1);
        }
    }
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}
