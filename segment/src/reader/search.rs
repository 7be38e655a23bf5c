//! Walking a segment's graph towards a query.
//!
//! Owns how a walk reads vectors and edges: in place where everything is
//! verified, else piece by piece through the source, which verifies. Invariants:
//! an edge is checked against the rows before it is followed, so that a hostile
//! graph gives an error or a poor answer, never a fault; distances are exact.
//! Must not know: which rows are live, when to widen.

use crate::distance::Query;
use crate::error::SegmentError;
use crate::graph::{NextRow, Space, Walk, WalkScratch, until_end, walk};
use crate::id::Row;
use crate::prefetch::prefetch;
use crate::reader::Segment;
use crate::source::{Section, SectionSource};
use crate::wire::u32_at;

/// Memory of searches, used again and again: after some searches of one kind
/// the next allocates nothing.
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

    /// Walks the graph from its start point until the `l` nearest rows met have
    /// all been expanded, and leaves these in `scratch`; dead rows are among
    /// them. Before each expansion `proceed` is told which row comes next and what
    /// the walk did so far; the walk stops when it says no.
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
        let graph = Graph {
            segment: self,
            query,
            section,
            degree: stats.max_degree as usize,
        };
        let (start, scratch) = (stats.start, &mut scratch.0);
        match graph.in_place() {
            Some(graph) => walk(&Failing::new(graph), start, l, scratch, proceed),
            None => {
                graph.verify_more()?;
                walk(&Failing::new(graph), start, l, scratch, proceed)
            }
        }
    }
}

/// A space whose errors become the caller's.
struct Failing<S, E>(S, std::marker::PhantomData<fn() -> E>);

impl<S, E> Failing<S, E> {
    fn new(space: S) -> Self {
        Self(space, std::marker::PhantomData)
    }
}

impl<S: Space<Error = SegmentError>, E: From<SegmentError>> Space for Failing<S, E> {
    type Error = E;

    #[inline]
    fn distance(&self, row: u32) -> Result<f32, E> {
        Ok(self.0.distance(row)?)
    }

    #[inline]
    fn neighbors(&self, row: u32, out: &mut Vec<u32>) -> Result<(), E> {
        Ok(self.0.neighbors(row, out)?)
    }

    fn vector_bytes(&self) -> usize {
        self.0.vector_bytes()
    }

    #[inline]
    fn prefetch_vector(&self, row: u32) {
        self.0.prefetch_vector(row);
    }

    #[inline]
    fn prefetch_neighbors(&self, row: u32) {
        self.0.prefetch_neighbors(row);
    }
}

/// A graph that is read through the source.
struct Graph<'a, S: SectionSource> {
    segment: &'a Segment<S>,
    query: &'a Query,
    section: &'a Section,
    degree: usize,
}

impl<'a, S: SectionSource> Graph<'a, S> {
    /// Brings the day nearer when walks read in place.
    fn verify_more(&self) -> Result<(), SegmentError> {
        let sections = &self.segment.sections;
        let walked = [
            Some(self.section),
            Some(&sections.vectors),
            sections.norms.as_ref(),
        ];
        let mut walked = walked.into_iter().flatten();
        walked.try_for_each(|section| self.segment.source.verify_more(section))
    }

    /// The same in place, if all that a walk may touch is verified memory.
    fn in_place(&self) -> Option<InPlace<'a>> {
        let segment = self.segment;
        let floats = |section| {
            let bytes = segment.source.verified(section)?;
            bytemuck::try_cast_slice::<u8, f32>(bytes).ok()
        };
        let edges = segment.source.verified(self.section)?;
        Some(InPlace {
            query: self.query,
            section: self.section,
            dimension: segment.expected.dimension as usize,
            degree: self.degree,
            vectors: floats(&segment.sections.vectors)?,
            norms: match &segment.sections.norms {
                Some(section) => Some(floats(section)?),
                None => None,
            },
            edges: bytemuck::try_cast_slice(edges).ok()?,
        })
    }
}

/// An edge that leads out of the segment. Where it is cannot be told from the
/// row that it names, only the section.
#[cold]
fn bad_edge(section: &Section, row: u32) -> SegmentError {
    section.corruption(0, format!("an edge to row {row}, which does not exist"))
}

impl<S: SectionSource> Space for Graph<'_, S> {
    type Error = SegmentError;

    fn distance(&self, row: u32) -> Result<f32, SegmentError> {
        if row >= self.segment.rows() {
            return Err(bad_edge(self.section, row));
        }
        let norm = match &self.segment.sections.norms {
            Some(section) => {
                let at = u64::from(row) * 4;
                let bytes = self.segment.source.get(section, at..at + 4)?;
                u32_at(&bytes, 0).map_or(1.0, f32::from_bits)
            }
            None => 1.0,
        };
        Ok(self.query.distance(&self.segment.vector(Row(row))?, norm))
    }

    fn neighbors(&self, row: u32, out: &mut Vec<u32>) -> Result<(), SegmentError> {
        let stride = self.degree as u64 * 4;
        let start = u64::from(row) * stride;
        let bytes = self
            .segment
            .source
            .get(self.section, start..start + stride)?;
        let places = (0..self.degree).map_while(|n| u32_at(&bytes, n));
        out.extend(places.take_while(|row| *row != crate::graph::NO_ROW));
        Ok(())
    }

    fn vector_bytes(&self) -> usize {
        self.segment.expected.dimension as usize * 4
    }

    fn prefetch_vector(&self, row: u32) {
        let stride = u64::from(self.segment.expected.dimension) * 4;
        let start = u64::from(row) * stride;
        let section = &self.segment.sections.vectors;
        self.segment.source.hint(section, start..start + stride);
    }

    fn prefetch_neighbors(&self, row: u32) {
        let stride = self.degree as u64 * 4;
        let start = u64::from(row) * stride;
        self.segment
            .source
            .hint(self.section, start..start + stride);
    }
}

/// A graph in memory of which every block has been verified.
struct InPlace<'a> {
    query: &'a Query,
    section: &'a Section,
    dimension: usize,
    degree: usize,
    vectors: &'a [f32],
    norms: Option<&'a [f32]>,
    edges: &'a [u32],
}

impl InPlace<'_> {
    #[inline]
    fn vector(&self, row: u32) -> Option<&[f32]> {
        let start = row as usize * self.dimension;
        self.vectors.get(start..start + self.dimension)
    }

    #[inline]
    fn places(&self, row: u32) -> Option<&[u32]> {
        let start = row as usize * self.degree;
        self.edges.get(start..start + self.degree)
    }
}

impl Space for InPlace<'_> {
    type Error = SegmentError;

    #[inline]
    fn distance(&self, row: u32) -> Result<f32, SegmentError> {
        let Some(vector) = self.vector(row) else {
            return Err(bad_edge(self.section, row));
        };
        let norm = match self.norms {
            Some(norms) => norms.get(row as usize).copied().unwrap_or(1.0),
            None => 1.0,
        };
        Ok(self.query.distance(vector, norm))
    }

    #[inline]
    fn neighbors(&self, row: u32, out: &mut Vec<u32>) -> Result<(), SegmentError> {
        let places = self
            .places(row)
            .ok_or_else(|| bad_edge(self.section, row))?;
        out.extend_from_slice(until_end(places));
        Ok(())
    }

    fn vector_bytes(&self) -> usize {
        self.dimension * 4
    }

    #[inline]
    fn prefetch_vector(&self, row: u32) {
        let vector = self.vector(row).unwrap_or_default();
        prefetch(bytemuck::must_cast_slice(vector));
    }

    #[inline]
    fn prefetch_neighbors(&self, row: u32) {
        let places = self.places(row).unwrap_or_default();
        prefetch(bytemuck::must_cast_slice(places));
    }
}
