//! Walking a segment's graph towards a query, and what is near it exactly.
//!
//! Owns the choice of what a walk reads: codes where the segment has them, else
//! vectors; in place where everything is verified, else piece by piece through the
//! source, which verifies. Invariant: distances of a walk over codes are estimates,
//! and whoever answers with its candidates asks for the exact ones
//! ([`Segment::rerank`]). Must not know: which rows are live, when to widen.

use crate::codes::CodeQuery;
use crate::distance::Query;
use crate::error::SegmentError;
use crate::graph::{NextRow, Walk, WalkScratch, walk};
use crate::id::Row;
use crate::reader::Segment;
use crate::reader::space::{
    CodesInPlace, CodesThrough, EdgesInPlace, EdgesThrough, Graph, VectorsInPlace, VectorsThrough,
    bad_edge,
};
use crate::source::{Section, SectionSource};

/// Rows that are asked for ahead of their exact distance.
const RERANK_AHEAD: usize = 8;
/// Rows that get their exact distance between two questions whether to go on.
const RERANK_PIECE: usize = 16;

/// Memory of searches, used again and again: after some searches of one kind
/// the next allocates nothing beside a query's code.
#[derive(Debug, Default)]
pub struct SearchScratch(WalkScratch);

impl SearchScratch {
    /// The rows that the last walk found, nearest first, equal distances in row
    /// order.
    pub fn candidates(&self) -> impl ExactSizeIterator<Item = (f32, Row)> + Clone {
        self.0
            .pool
            .iter()
            .map(|(distance, row)| (distance, Row(row)))
    }

    /// Bytes of heap that it holds.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }
}

impl<S: SectionSource> Segment<S> {
    /// Whether the segment has a graph.
    #[must_use]
    pub fn has_graph(&self) -> bool {
        self.stats.graph.is_some()
    }

    /// How many of a walk's nearest live candidates must be asked for their exact
    /// distances so that the `k` nearest are among them, most likely; `k` where a
    /// walk's distances are exact already.
    #[must_use]
    pub fn rerank_rows(&self, k: usize) -> usize {
        self.codec
            .as_ref()
            .map_or(k, |codec| codec.kind.rerank_rows(k))
    }

    /// Whether a walk's distances are estimates.
    #[must_use]
    pub fn walks_codes(&self) -> bool {
        self.codec.is_some()
    }

    /// Puts a row's out-neighbours into `out`, which is emptied first; none if the segment
    /// has no graph.
    ///
    /// # Errors
    /// `Invalid` for a row that the segment lacks; `Corruption`; `Io`.
    pub fn neighbors(&self, row: Row, out: &mut Vec<Row>) -> Result<(), SegmentError> {
        out.clear();
        self.check_row(row)?;
        let (Some(section), Some(stats)) = (&self.sections.graph, &self.stats.graph) else {
            return Ok(());
        };
        let edges = EdgesThrough::new(self, section, stats.max_degree as usize);
        edges.visit(row.0, |to| match to < self.expected.rows {
            true => {
                out.push(Row(to));
                Ok(())
            }
            false => Err(bad_edge(section, to)),
        })
    }

    /// Walks the graph from its start point until the `l` nearest rows met have
    /// all been expanded, and leaves these in `scratch`; dead rows are among
    /// them. Before each expansion `proceed` is told which row comes next and what
    /// the walk did so far; the walk stops when it says no. Distances are estimates
    /// if [`Segment::walks_codes`].
    /// A segment without a graph gives no rows.
    ///
    /// # Errors
    /// `Invalid` if the query's metric or dimension is not the segment's;
    /// `Corruption`; `Io`; whatever `proceed` reports.
    pub fn walk<E: From<SegmentError>>(
        &self,
        query: &Query,
        l: usize,
        scratch: &mut SearchScratch,
        proceed: impl FnMut(NextRow, &Walk) -> Result<bool, E>,
    ) -> Result<Walk, E> {
        self.check_query(query)?;
        scratch.0.pool.reset(l);
        let (Some(section), Some(stats)) = (&self.sections.graph, &self.stats.graph) else {
            return Ok(Walk {
                finished: true,
                ..Walk::default()
            });
        };
        let (start, scratch) = (stats.start, &mut scratch.0);
        let degree = stats.max_degree as usize;
        let in_place = EdgesInPlace::new(self, section, degree);
        let through = || EdgesThrough::new(self, section, degree);
        match (&self.codec, &self.sections.codes) {
            (Some(codec), Some((_, codes))) => {
                let query = CodeQuery::new(codec, query);
                let rows = CodesInPlace::new(self, codes, section, &query);
                if let (Some(edges), Some(rows)) = (in_place, rows) {
                    return walk(&Graph::new(rows, edges), start, l, scratch, proceed);
                }
                self.verify_more([Some(section), Some(codes)])?;
                let rows = CodesThrough::new(self, codes, section, &query);
                walk(&Graph::new(rows, through()), start, l, scratch, proceed)
            }
            _ => {
                let rows = VectorsInPlace::new(self, section, query);
                if let (Some(edges), Some(rows)) = (in_place, rows) {
                    return walk(&Graph::new(rows, edges), start, l, scratch, proceed);
                }
                let sections = &self.sections;
                let walked = [
                    Some(section),
                    Some(&sections.vectors),
                    sections.norms.as_ref(),
                ];
                self.verify_more(walked)?;
                let rows = VectorsThrough::new(self, section, query);
                walk(&Graph::new(rows, through()), start, l, scratch, proceed)
            }
        }
    }

    /// Replaces estimated distances by exact ones and sorts by them, equal ones by
    /// row. The first `least` get theirs in any case; then `proceed` is asked every few
    /// rows, and those that come after its no are left out.
    ///
    /// # Errors
    /// `Invalid` if the query's metric or dimension is not the segment's, or for a
    /// row that the segment lacks; `Corruption`; `Io`.
    pub fn rerank(
        &self,
        query: &Query,
        candidates: &mut Vec<(f32, Row)>,
        least: usize,
        mut proceed: impl FnMut() -> bool,
    ) -> Result<(), SegmentError> {
        self.check_query(query)?;
        let stride = u64::from(self.expected.dimension) * 4;
        let hint = |row: Row| {
            let start = u64::from(row.0) * stride;
            let range = start..start + stride;
            self.source.hint(&self.sections.vectors, range);
            if let Some(norms) = &self.sections.norms {
                let start = u64::from(row.0) * 4;
                self.source.hint(norms, start..start + 4);
            }
        };
        for at in 0..candidates.len() {
            let late = at.checked_sub(least);
            if late.is_some_and(|late| late.is_multiple_of(RERANK_PIECE)) && !proceed() {
                candidates.truncate(at);
                break;
            }
            let ahead = if at == 0 {
                0..RERANK_AHEAD
            } else {
                at + RERANK_AHEAD - 1..at + RERANK_AHEAD
            };
            let coming = candidates.iter().take(ahead.end).skip(ahead.start);
            coming.for_each(|(_, row)| hint(*row));
            if let Some((distance, row)) = candidates.get_mut(at) {
                *distance = query.distance(&self.vector(*row)?, self.inverse_norm(*row)?);
            }
        }
        candidates.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        Ok(())
    }

    /// Brings the day nearer when walks read in place.
    fn verify_more<'a>(
        &self,
        walked: impl IntoIterator<Item = Option<&'a Section>>,
    ) -> Result<(), SegmentError> {
        let mut walked = walked.into_iter().flatten();
        walked.try_for_each(|section| self.source.verify_more(section))
    }
}
