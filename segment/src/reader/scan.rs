//! The exact nearest rows of a segment, by reading every vector once.
//!
//! Invariants: bytes stream in pieces whose blocks are verified before the first
//! distance of the piece, so the inner loop is kernel, comparison, next row; it
//! allocates nothing. Must not know: why a row is dead.

use std::ops::Range;

use crate::distance::Query;
use crate::error::SegmentError;
use crate::id::Row;
use crate::reader::Segment;
use crate::source::{Scratch, Section, SectionSource};
use crate::top_k::TopK;

/// Bytes of vectors per piece: small against caches and memory budgets, large
/// against the cost of asking for a piece.
const PIECE_BYTES: u64 = 512 << 10;

impl<S: SectionSource> Segment<S> {
    /// The `k` nearest live rows, nearest first, equal distances in key order,
    /// into `out`, which is emptied first. All live rows if there are fewer
    /// than `k`. `live` is asked only about rows near enough to enter.
    ///
    /// # Errors
    /// `Invalid` if the query's metric or dimension is not the segment's;
    /// `Corruption`; `Io`; whatever `live` reports.
    pub fn nearest<E: From<SegmentError>>(
        &self,
        query: &Query,
        k: usize,
        live: impl FnMut(Row) -> Result<bool, E>,
        out: &mut Vec<(f32, Row)>,
    ) -> Result<(), E> {
        self.nearest_while(query, k, live, || true, out).map(|_| ())
    }

    /// As [`Segment::nearest`], but asks before every few hundred kilobytes
    /// whether to `proceed`. Returns the number of distances computed; when that
    /// is below the number of rows the scan was stopped and `out` holds the
    /// nearest of the rows that came first.
    ///
    /// # Errors
    /// As [`Segment::nearest`].
    pub fn nearest_while<E: From<SegmentError>>(
        &self,
        query: &Query,
        k: usize,
        mut live: impl FnMut(Row) -> Result<bool, E>,
        proceed: impl FnMut() -> bool,
        out: &mut Vec<(f32, Row)>,
    ) -> Result<u64, E> {
        out.clear();
        self.check_query(query)?;
        if k == 0 {
            return Ok(u64::from(self.rows()));
        }
        let mut top = TopK::new(k, |row| self.key(row).map_err(E::from));
        // Above every distance, NaN included, in the order of `total_cmp`.
        let mut bound = f32::from_bits(0x7FFF_FFFF);
        let distances = self.scan::<E>(query, proceed, |row, distance| {
            if distance.total_cmp(&bound).is_le() {
                top.offer(distance, row, &mut live)?;
                bound = top.bound().unwrap_or(bound);
            }
            Ok(())
        })?;
        top.finish(out)?;
        Ok(distances)
    }

    pub(super) fn check_query(&self, query: &Query) -> Result<(), SegmentError> {
        let (dimension, metric) = (self.expected.dimension as usize, self.expected.metric);
        if query.metric() != metric || query.vector().len() != dimension {
            return Err(SegmentError::invalid(format!(
                "a query under {} with {} components, in a segment under {metric} with {dimension}",
                query.metric(),
                query.vector().len(),
            )));
        }
        Ok(())
    }

    /// Visits every row in order with its distance; their number.
    fn scan<E: From<SegmentError>>(
        &self,
        query: &Query,
        mut proceed: impl FnMut() -> bool,
        mut visit: impl FnMut(Row, f32) -> Result<(), E>,
    ) -> Result<u64, E> {
        let dimension = self.expected.dimension as usize;
        let stride = dimension as u64 * 4;
        let (mut vectors, mut norms) = (Scratch::default(), Scratch::default());
        for rows in self.pieces(stride) {
            if !proceed() {
                return Ok(rows.start);
            }
            let bytes = rows.start * stride..rows.end * stride;
            let components = self.floats(&self.sections.vectors, bytes, &mut vectors)?;
            let norms = match &self.sections.norms {
                Some(section) => self.floats(section, rows.start * 4..rows.end * 4, &mut norms)?,
                None => &[],
            };
            let mut norms = norms.iter();
            for (row, vector) in rows.zip(components.chunks_exact(dimension)) {
                let norm = norms.next().copied().unwrap_or(1.0);
                visit(Row(row as u32), query.distance(vector, norm))?;
            }
        }
        Ok(u64::from(self.rows()))
    }

    /// All rows, cut into pieces that take about [`PIECE_BYTES`] at this stride.
    pub(super) fn pieces(&self, stride: u64) -> impl Iterator<Item = Range<u64>> + use<S> {
        let rows = u64::from(self.expected.rows);
        let piece = (PIECE_BYTES / stride).max(1);
        (0..rows.div_ceil(piece)).map(move |n| n * piece..rows.min((n + 1) * piece))
    }

    /// A verified piece of a section of `f32`.
    pub(super) fn floats<'a>(
        &'a self,
        section: &Section,
        range: Range<u64>,
        scratch: &'a mut Scratch,
    ) -> Result<&'a [f32], SegmentError> {
        let at = range.start;
        let bytes = self.source.stream(section, range, scratch)?;
        // Sources start sections on aligned memory; one that does not is broken.
        bytemuck::try_cast_slice(bytes).map_err(|_| {
            SegmentError::invalid(format!("a source gave byte {at} of a section unaligned"))
        })
    }
}
