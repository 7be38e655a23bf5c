//! Whether a merge keeps the graph of one of its inputs, as a pure function.
//!
//! Owns the model of what either way costs and the limits within which a graph that is
//! kept is as good as a new one (docs/decisions/0018). Invariants: a graph is kept only if
//! that is estimated to be much cheaper; never one of another degree or alpha than is
//! asked for, of too many generations, or that finds less than when it was built. Must not know: files,
//! who merges what and when.

use esker_segment::{GraphParams, GraphStats};

use crate::policy::{MAX_GENERATION, least_recall};

/// What an insertion costs where no row is gone, in graph rows built from nothing.
const INSERTED: f64 = 2.5;
/// What it costs more for each hundredth of the rows that is gone, up to [`MOST_HUNDREDTHS`]:
/// it looks farther there.
const INSERTED_A_HUNDREDTH: f64 = 0.2;
const MOST_HUNDREDTHS: f64 = 10.0;
/// What a row that is gone costs: those that led to it are mended.
const GONE: f64 = 1.0;
/// What a row costs whose edges are copied.
const COPIED: f64 = 0.06;
/// Most that keeping may cost, as a share of building.
const MOST_COST: f64 = 0.7;
/// Most new rows, as a share of the kept.
const MOST_INSERTED: f64 = 0.25;
/// Most rows that are gone, as a share of those that the graph had.
const MOST_GONE: f64 = 0.3;
/// What there is to know of an input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GraphInput {
    /// Rows in its file.
    pub rows: u64,
    /// Rows that are not superseded.
    pub live_rows: u64,
    /// Its graph, if it has one.
    pub graph: Option<GraphStats>,
}

/// How a merge makes its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphWork {
    /// Out of the graph of an input, by its index.
    Keep(usize),
    /// From nothing.
    Build(BuildReason),
}

/// Why a graph is built from nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildReason {
    /// No input has a graph of the degree and the alpha that are asked for.
    NoGraph,
    /// To keep one would cost about as much: too many rows are new, or gone.
    Cost,
    /// It was kept [`MAX_GENERATION`] times.
    Generation,
    /// It finds less than when it was built.
    Recall,
}

/// How to make the graph of all live rows of `inputs`.
#[must_use]
pub fn graph_work(inputs: &[GraphInput], params: &GraphParams) -> GraphWork {
    let usable = |input: &GraphInput| {
        let is_asked = |graph: &GraphStats| {
            graph.max_degree == params.max_degree && graph.alpha == params.alpha
        };
        let graph = input.graph.filter(is_asked)?;
        Some((input.live_rows, graph))
    };
    let largest = inputs.iter().enumerate();
    let largest = largest.filter_map(|(at, input)| Some((at, input, usable(input)?.1)));
    let Some((at, kept, graph)) = largest.max_by_key(|(at, input, _)| (input.live_rows, *at))
    else {
        return GraphWork::Build(BuildReason::NoGraph);
    };
    let live = kept.live_rows as f64;
    let gone = kept.rows.saturating_sub(kept.live_rows) as f64;
    let all: f64 = inputs.iter().map(|input| input.live_rows as f64).sum();
    let new = all - live;
    let hundredths = (100.0 * gone / (kept.rows as f64).max(1.0)).min(MOST_HUNDREDTHS);
    let inserted = INSERTED + INSERTED_A_HUNDREDTH * hundredths;
    let cost = new * inserted + gone * GONE + live * COPIED;
    if new > live * MOST_INSERTED || gone > kept.rows as f64 * MOST_GONE || cost > all * MOST_COST {
        GraphWork::Build(BuildReason::Cost)
    } else if graph.generation >= MAX_GENERATION {
        GraphWork::Build(BuildReason::Generation)
    } else if graph.sampled_recall < least_recall(graph.built_recall, graph.sampled_rows) {
        GraphWork::Build(BuildReason::Recall)
    } else {
        GraphWork::Keep(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use esker_segment::GraphBuilder;
    use proptest::prelude::*;

    const PARAMS: GraphParams = GraphParams {
        builder: GraphBuilder::Leaves,
        max_degree: 32,
        l_build: 80,
        alpha: 1.3,
        seed: 0,
    };

    fn input(rows: u64, live_rows: u64, generation: u32) -> GraphInput {
        GraphInput {
            rows,
            live_rows,
            graph: Some(GraphStats {
                max_degree: 32,
                alpha: 1.3,
                generation,
                sampled_rows: 200,
                sampled_recall: 0.95,
                built_recall: 0.955,
                ..GraphStats::default()
            }),
        }
    }

    fn bare(rows: u64) -> GraphInput {
        GraphInput {
            graph: None,
            ..input(rows, rows, 0)
        }
    }

    fn work(inputs: &[GraphInput]) -> GraphWork {
        graph_work(inputs, &PARAMS)
    }

    #[test]
    fn the_largest_graph_is_kept_while_little_changes() {
        let small = input(10_000, 10_000, 0);
        assert_eq!(work(&[small, input(90_000, 90_000, 1)]), GraphWork::Keep(1));
        assert_eq!(
            work(&[input(90_000, 80_000, 4), bare(9_000)]),
            GraphWork::Keep(0)
        );
        assert_eq!(
            work(&[input(1_000, 800, 0)]),
            GraphWork::Keep(0),
            "rows that are gone"
        );
    }

    /// Where rows are gone, insertions look farther.
    #[test]
    fn an_insertion_costs_more_where_rows_are_gone() {
        let new = |live: u64, new: u64| work(&[input(100_000, live, 0), bare(new)]);
        assert_eq!(new(100_000, 24_000), GraphWork::Keep(0));
        assert_eq!(new(98_000, 19_000), GraphWork::Keep(0));
        assert_eq!(
            new(90_000, 10_000),
            GraphWork::Keep(0),
            "a tenth is replaced"
        );
        let build = GraphWork::Build(BuildReason::Cost);
        assert_eq!(new(90_000, 15_000), build);
        assert_eq!(new(80_000, 20_000), build);
    }

    #[test]
    fn each_reason_to_build_is_named() {
        let large = input(90_000, 90_000, 0);
        let build = GraphWork::Build;
        assert_eq!(work(&[]), build(BuildReason::NoGraph));
        assert_eq!(
            work(&[bare(5_000), bare(9_000)]),
            build(BuildReason::NoGraph)
        );
        assert_eq!(work(&[large, large]), build(BuildReason::Cost));
        assert_eq!(work(&[large, bare(22_600)]), build(BuildReason::Cost));
        assert_eq!(work(&[input(90_000, 62_000, 0)]), build(BuildReason::Cost));
        let tired = input(90_000, 90_000, MAX_GENERATION);
        assert_eq!(work(&[tired, bare(900)]), build(BuildReason::Generation));
        let mut worse = large;
        worse.graph = worse.graph.map(|graph| GraphStats {
            sampled_recall: 0.929,
            ..graph
        });
        assert_eq!(work(&[worse, bare(900)]), build(BuildReason::Recall));
        let mut chance = large;
        chance.graph = chance.graph.map(|graph| GraphStats {
            sampled_recall: 0.932,
            ..graph
        });
        assert_eq!(work(&[chance, bare(900)]), GraphWork::Keep(0));
        let mut other = large;
        other.graph = other.graph.map(|graph| GraphStats {
            max_degree: 48,
            ..graph
        });
        assert_eq!(work(&[other, bare(900)]), build(BuildReason::NoGraph));
        let mut longer = large;
        longer.graph = longer.graph.map(|graph| GraphStats {
            alpha: 1.2,
            ..graph
        });
        assert_eq!(work(&[longer, bare(900)]), build(BuildReason::NoGraph));
    }

    proptest! {
        /// Whatever a file says of itself, and more new rows never make a graph worth keeping.
        #[test]
        fn any_description_has_an_answer(
            inputs in prop::collection::vec(
                (any::<u64>(), any::<u64>(), any::<u32>(), any::<f32>(), any::<f32>(), any::<bool>()),
                0..6,
            ),
            more: u64,
        ) {
            let mut inputs: Vec<GraphInput> = inputs
                .into_iter()
                .map(|(rows, live_rows, generation, sampled_recall, built_recall, has)| GraphInput {
                    rows,
                    live_rows,
                    graph: has.then(|| GraphStats {
                        max_degree: 32,
                        alpha: 1.3,
                        generation,
                        sampled_recall,
                        built_recall,
                        ..GraphStats::default()
                    }),
                })
                .collect();
            let before = work(&inputs);
            if let GraphWork::Keep(at) = before {
                let kept = inputs[at].graph.expect("it has one");
                prop_assert!(kept.generation < MAX_GENERATION);
                let all: f64 = inputs.iter().map(|input| input.live_rows as f64).sum();
                prop_assert!(all <= inputs[at].live_rows as f64 * 1.26);
            } else {
                inputs.push(bare(more));
                prop_assert!(!matches!(work(&inputs), GraphWork::Keep(_)));
            }
        }
    }
}
