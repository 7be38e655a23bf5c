//! What a walk reads of a segment: rows by their distance, and edges.
//!
//! Owns both ways of reading them: in place, where all of a section is verified
//! memory, and through the source, which verifies. Invariant: an edge is checked
//! against the rows before it is followed, so that a hostile graph gives an error
//! or a poor answer, never a fault. Must not know: when a walk ends.

use std::marker::PhantomData;

use crate::codes::{CodeQuery, Table};
use crate::distance::Query;
use crate::error::SegmentError;
use crate::graph::{NO_ROW, Space, one_by_one, rows_ahead, until_end};
use crate::id::Row;
use crate::prefetch::prefetch;
use crate::reader::Segment;
use crate::source::{Section, SectionSource};
use crate::wire::u32_at;

/// Rows that have distances.
pub(super) trait Distances {
    /// Hands the distance of each row to `emit`, in order.
    fn each(&self, rows: &[u32], emit: impl FnMut(f32)) -> Result<(), SegmentError>;
}

/// Rows that have neighbours.
pub(super) trait Edges {
    fn neighbors(&self, row: u32, out: &mut Vec<u32>) -> Result<(), SegmentError>;
    fn prefetch(&self, row: u32);
}

/// Rows and edges together; their errors become the caller's.
pub(super) struct Graph<R, L, E> {
    rows: R,
    edges: L,
    error: PhantomData<fn() -> E>,
}

impl<R, L, E> Graph<R, L, E> {
    pub(super) fn new(rows: R, edges: L) -> Self {
        Self {
            rows,
            edges,
            error: PhantomData,
        }
    }
}

impl<R: Distances, L: Edges, E: From<SegmentError>> Space for Graph<R, L, E> {
    type Error = E;

    #[inline]
    fn each_distance(&self, rows: &[u32], emit: impl FnMut(f32)) -> Result<(), E> {
        Ok(self.rows.each(rows, emit)?)
    }

    #[inline]
    fn neighbors(&self, row: u32, out: &mut Vec<u32>) -> Result<(), E> {
        Ok(self.edges.neighbors(row, out)?)
    }

    #[inline]
    fn prefetch_neighbors(&self, row: u32) {
        self.edges.prefetch(row);
    }
}

/// An edge that leads out of the segment. Where it is cannot be told from the
/// row that it names, only the section.
#[cold]
pub(super) fn bad_edge(section: &Section, row: u32) -> SegmentError {
    section.corruption(0, format!("an edge to row {row}, which does not exist"))
}

/// A verified section in memory, as numbers.
fn in_place<'a, S: SectionSource, T: bytemuck::Pod>(
    segment: &'a Segment<S>,
    section: &'a Section,
) -> Option<&'a [T]> {
    bytemuck::try_cast_slice(segment.source.verified(section)?).ok()
}

/// Codes in verified memory.
pub(super) struct CodesInPlace<'a> {
    query: &'a CodeQuery,
    table: Table<'a>,
    edges: &'a Section,
}

impl<'a> CodesInPlace<'a> {
    pub(super) fn new<S: SectionSource>(
        segment: &'a Segment<S>,
        codes: &'a Section,
        edges: &'a Section,
        query: &'a CodeQuery,
    ) -> Option<Self> {
        let table = Table {
            bytes: segment.source.verified(codes)?,
            stride: query.stride(),
        };
        Some(Self {
            query,
            table,
            edges,
        })
    }
}

impl Distances for CodesInPlace<'_> {
    #[inline]
    fn each(&self, rows: &[u32], emit: impl FnMut(f32)) -> Result<(), SegmentError> {
        let ahead = rows_ahead(self.table.stride);
        let missing = self
            .query
            .each(self.table, rows.iter().copied(), ahead, emit);
        missing.map_or(Ok(()), |row| Err(bad_edge(self.edges, row)))
    }
}

/// Codes that are verified as they are read.
pub(super) struct CodesThrough<'a, S: SectionSource> {
    segment: &'a Segment<S>,
    codes: &'a Section,
    edges: &'a Section,
    query: &'a CodeQuery,
}

impl<'a, S: SectionSource> CodesThrough<'a, S> {
    pub(super) fn new(
        segment: &'a Segment<S>,
        codes: &'a Section,
        edges: &'a Section,
        query: &'a CodeQuery,
    ) -> Self {
        Self {
            segment,
            codes,
            edges,
            query,
        }
    }
}

impl<S: SectionSource> Distances for CodesThrough<'_, S> {
    fn each(&self, rows: &[u32], emit: impl FnMut(f32)) -> Result<(), SegmentError> {
        let stride = self.query.stride();
        let range = |row: u32| {
            let start = u64::from(row) * stride as u64;
            start..start + stride as u64
        };
        let source = &self.segment.source;
        let distance = |row: u32| {
            if row >= self.segment.rows() {
                return Err(bad_edge(self.edges, row));
            }
            let code = source.get(self.codes, range(row))?;
            Ok(self.query.distance(&code))
        };
        let hint = |row| source.hint(self.codes, range(row));
        one_by_one(rows, stride, hint, distance, emit)
    }
}

/// Vectors in verified memory.
pub(super) struct VectorsInPlace<'a> {
    query: &'a Query,
    edges: &'a Section,
    dimension: usize,
    vectors: &'a [f32],
    norms: Option<&'a [f32]>,
}

impl<'a> VectorsInPlace<'a> {
    pub(super) fn new<S: SectionSource>(
        segment: &'a Segment<S>,
        edges: &'a Section,
        query: &'a Query,
    ) -> Option<Self> {
        Some(Self {
            query,
            edges,
            dimension: segment.expected.dimension as usize,
            vectors: in_place(segment, &segment.sections.vectors)?,
            norms: match &segment.sections.norms {
                Some(section) => Some(in_place(segment, section)?),
                None => None,
            },
        })
    }

    #[inline]
    fn vector(&self, row: u32) -> Option<&[f32]> {
        let start = row as usize * self.dimension;
        self.vectors.get(start..start + self.dimension)
    }
}

impl Distances for VectorsInPlace<'_> {
    #[inline]
    fn each(&self, rows: &[u32], emit: impl FnMut(f32)) -> Result<(), SegmentError> {
        let hint = |row| {
            prefetch(bytemuck::must_cast_slice(
                self.vector(row).unwrap_or_default(),
            ))
        };
        let distance = |row| {
            let Some(vector) = self.vector(row) else {
                return Err(bad_edge(self.edges, row));
            };
            let norm = match self.norms {
                Some(norms) => norms.get(row as usize).copied().unwrap_or(1.0),
                None => 1.0,
            };
            Ok(self.query.distance(vector, norm))
        };
        one_by_one(rows, self.dimension * 4, hint, distance, emit)
    }
}

/// Vectors that are verified as they are read.
pub(super) struct VectorsThrough<'a, S: SectionSource> {
    segment: &'a Segment<S>,
    edges: &'a Section,
    query: &'a Query,
}

impl<'a, S: SectionSource> VectorsThrough<'a, S> {
    pub(super) fn new(segment: &'a Segment<S>, edges: &'a Section, query: &'a Query) -> Self {
        Self {
            segment,
            edges,
            query,
        }
    }
}

impl<S: SectionSource> Distances for VectorsThrough<'_, S> {
    fn each(&self, rows: &[u32], emit: impl FnMut(f32)) -> Result<(), SegmentError> {
        let segment = self.segment;
        let stride = segment.expected.dimension as usize * 4;
        let hint = |row: u32| {
            let start = u64::from(row) * stride as u64;
            let range = start..start + stride as u64;
            segment.source.hint(&segment.sections.vectors, range);
        };
        let distance = |row| {
            if row >= segment.rows() {
                return Err(bad_edge(self.edges, row));
            }
            let norm = segment.inverse_norm(Row(row))?;
            Ok(self.query.distance(&segment.vector(Row(row))?, norm))
        };
        one_by_one(rows, stride, hint, distance, emit)
    }
}

/// Edges in verified memory.
pub(super) struct EdgesInPlace<'a> {
    section: &'a Section,
    degree: usize,
    places: &'a [u32],
}

impl<'a> EdgesInPlace<'a> {
    pub(super) fn new<S: SectionSource>(
        segment: &'a Segment<S>,
        section: &'a Section,
        degree: usize,
    ) -> Option<Self> {
        Some(Self {
            section,
            degree,
            places: in_place(segment, section)?,
        })
    }

    #[inline]
    fn of(&self, row: u32) -> Option<&[u32]> {
        let start = row as usize * self.degree;
        self.places.get(start..start + self.degree)
    }
}

impl Edges for EdgesInPlace<'_> {
    #[inline]
    fn neighbors(&self, row: u32, out: &mut Vec<u32>) -> Result<(), SegmentError> {
        let places = self.of(row).ok_or_else(|| bad_edge(self.section, row))?;
        out.extend_from_slice(until_end(places));
        Ok(())
    }

    #[inline]
    fn prefetch(&self, row: u32) {
        prefetch(bytemuck::must_cast_slice(self.of(row).unwrap_or_default()));
    }
}

/// Edges that are verified as they are read.
pub(super) struct EdgesThrough<'a, S: SectionSource> {
    segment: &'a Segment<S>,
    section: &'a Section,
    degree: usize,
}

impl<'a, S: SectionSource> EdgesThrough<'a, S> {
    pub(super) fn new(segment: &'a Segment<S>, section: &'a Section, degree: usize) -> Self {
        Self {
            segment,
            section,
            degree,
        }
    }

    fn range(&self, row: u32) -> std::ops::Range<u64> {
        let stride = self.degree as u64 * 4;
        let start = u64::from(row) * stride;
        start..start + stride
    }
}

impl<S: SectionSource> EdgesThrough<'_, S> {
    /// Visits a row's out-neighbours, whatever rows they name.
    pub(super) fn visit(
        &self,
        row: u32,
        visit: impl FnMut(u32) -> Result<(), SegmentError>,
    ) -> Result<(), SegmentError> {
        let bytes = self.segment.source.get(self.section, self.range(row))?;
        let places = (0..self.degree).map_while(|n| u32_at(&bytes, n));
        places.take_while(|row| *row != NO_ROW).try_for_each(visit)
    }
}

impl<S: SectionSource> Edges for EdgesThrough<'_, S> {
    fn neighbors(&self, row: u32, out: &mut Vec<u32>) -> Result<(), SegmentError> {
        self.visit(row, |to| {
            out.push(to);
            Ok(())
        })
    }

    fn prefetch(&self, row: u32) {
        self.segment.source.hint(self.section, self.range(row));
    }
}
