//! The graph of the input that keeps its graph.
//!
//! Owns how a merge that was asked to keeps one, and what it says of it. Invariant: what
//! is read of the graph is read through the input's reader, and blamed on the input.
//! Must not know: what either way costs.

use std::borrow::Cow;

use esker_segment::{
    GraphParams, GraphStats, KeptGraph, Row, SectionSource, Segment, SegmentError,
};

use super::{MergeInput, MergedRows, vector_of};
use crate::cost::{GraphInput, GraphWork, graph_work};
use crate::policy::least_recall;

impl<'a, S: SectionSource> MergedRows<'a, S> {
    /// The same; if they get a graph of these parameters it is made out of that of an
    /// input where that is as good and much cheaper (`graph_work`).
    #[must_use]
    pub fn keeping_a_graph(mut self, params: &GraphParams) -> Self {
        let inputs = self.inputs.iter().map(|input| GraphInput {
            rows: u64::from(input.segment.rows()),
            live_rows: input.live_rows(),
            graph: input.segment.stats().graph,
        });
        self.work = Some(graph_work(&inputs.collect::<Vec<_>>(), params));
        self
    }

    /// How the output's graph is made, if [`MergedRows::keeping_a_graph`] was asked for.
    #[must_use]
    pub fn graph_work(&self) -> Option<GraphWork> {
        self.work
    }

    /// What the file says of the graph that is kept, else of the largest input's that has one.
    #[must_use]
    pub fn graph_before(&self) -> Option<GraphStats> {
        let graph = |input: &MergeInput<'a, S>| input.segment.stats().graph;
        let others = self.inputs.iter().filter(|input| graph(input).is_some());
        let kept = self.kept().and_then(|at| self.inputs.get(at));
        graph(kept.or_else(|| others.max_by_key(|input| input.live_rows()))?)
    }

    /// The input whose graph the output's is made of.
    pub(super) fn kept(&self) -> Option<usize> {
        match self.work? {
            GraphWork::Keep(input) => Some(input),
            GraphWork::Build(_) => None,
        }
    }
}

impl<S: SectionSource> KeptGraph for MergedRows<'_, S> {
    fn rows(&self) -> u32 {
        self.keeping().map_or(0, |(_, segment)| segment.rows())
    }

    fn start(&self) -> Row {
        Row(self.kept_stats().start)
    }

    fn generation(&self) -> u32 {
        self.kept_stats().generation
    }

    fn built_recall(&self) -> f32 {
        self.kept_stats().built_recall
    }

    fn least_recall(&self, sampled_rows: u32) -> f32 {
        let stats = self.kept_stats();
        least_recall(stats.built_recall, sampled_rows)
    }

    fn number(&self, row: Row) -> Option<Row> {
        let (input, _) = self.keeping()?;
        self.number(input, row).map(Row)
    }

    fn neighbors(&self, row: Row, out: &mut Vec<Row>) -> Result<(), SegmentError> {
        self.of_kept(|segment| segment.neighbors(row, out))
    }

    fn vector(&self, row: Row) -> Result<Cow<'_, [f32]>, SegmentError> {
        self.of_kept(|segment| vector_of(segment, row))
    }
}

impl<'a, S: SectionSource> MergedRows<'a, S> {
    fn keeping(&self) -> Option<(usize, &'a Segment<S>)> {
        let at = self.kept()?;
        Some((at, self.inputs.get(at)?.segment))
    }

    fn kept_stats(&self) -> GraphStats {
        let stats = self
            .keeping()
            .and_then(|(_, segment)| segment.stats().graph);
        stats.unwrap_or_default()
    }

    fn of_kept<T>(
        &self,
        read: impl FnOnce(&'a Segment<S>) -> Result<T, SegmentError>,
    ) -> Result<T, SegmentError> {
        let (at, segment) = self
            .keeping()
            .ok_or_else(|| SegmentError::Invalid("no graph is kept".into()))?;
        self.blame(at, read(segment))
    }
}
