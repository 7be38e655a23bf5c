//! The edges of a built graph, and what is told of them.
//!
//! Must not know: how graphs are built.

use std::io::Write;

use super::body::Body;
use crate::error::SegmentError;
use crate::graph::{Built, GraphBuilder, GraphParams};
use crate::layout::SectionTag;
use crate::stats::GraphStats;

pub(super) fn write_graph<W: Write>(
    built: Built,
    params: &GraphParams,
    body: &mut Body<'_, W>,
) -> Result<GraphStats, SegmentError> {
    let edges = &built.adjacency;
    let mut stats = GraphStats {
        max_degree: params.max_degree,
        start: edges.start(),
        l_build: match built.builder {
            GraphBuilder::Insertion => params.l_build,
            GraphBuilder::Leaves => 0,
        },
        alpha: params.alpha,
        sampled_rows: built.sample.rows,
        sampled_recall: built.sample.recall,
        repaired: built.repaired,
        seed: params.seed,
        generation: built.generation,
        built_recall: built.built_recall,
        ..GraphStats::default()
    };
    (0..edges.rows()).for_each(|row| stats.count(edges.neighbors(row).len()));
    body.begin(SectionTag::Graph)?;
    body.write(bytemuck::must_cast_slice(edges.places()))?;
    body.end()?;
    Ok(stats)
}
