//! The compressed rows of a segment, and how they are to be read.
//!
//! Owns whether a segment has codes at all: where rows lie so close together, against
//! the spread of all, that codes cannot tell them apart, a walk by codes would find
//! too little, and is made by the vectors. Invariant: what is written here follows
//! from rows and graph alone, so that a check can make it again. Must not know: how
//! graphs are built.

use std::collections::BTreeSet;
use std::io::Write;

use super::body::Body;
use super::rows::FileRows;
use super::{Derived, RowSource};
use crate::codes::{CodeKind, CodeQuery, Codec};
use crate::distance::Query;
use crate::error::SegmentError;
use crate::graph::{Adjacency, Built};
use crate::id::Row;
use crate::layout::SectionTag;
use crate::metric::Metric;

/// Rows that look for their neighbours by codes and by vectors.
const SAMPLES: u32 = 24;
/// Rows about each of them that are compared.
const AROUND: usize = 500;
/// Neighbours that each looks for.
const K: usize = 10;

/// Writes the codes that were asked for; or bytes, where fewer bits tell too little;
/// or none.
pub(super) fn write_codes(
    rows: &FileRows<'_, impl RowSource>,
    asked: CodeKind,
    metric: Metric,
    derived: &Derived,
    built: &Built,
    body: &mut Body<'_, impl Write>,
) -> Result<(), SegmentError> {
    let kinds = [asked, CodeKind::Sq8];
    let kinds = if asked == CodeKind::Sq8 {
        &kinds[1..]
    } else {
        &kinds[..]
    };
    for &kind in kinds {
        let codec = Codec {
            kind,
            metric,
            centre: derived.centre.mean(),
        };
        let view = View {
            rows,
            codec: &codec,
            norms: &derived.norms,
        };
        if view.fidelity(&built.adjacency)? >= kind.least_fidelity() {
            return view.write(body);
        }
    }
    Ok(())
}

/// Rows as a codec sees them.
struct View<'a, R> {
    rows: &'a FileRows<'a, R>,
    codec: &'a Codec,
    /// Inverse norms; none unless the metric is cosine.
    norms: &'a [f32],
}

impl<R: RowSource> View<'_, R> {
    fn norm(&self, row: u32) -> f32 {
        self.norms.get(row as usize).copied().unwrap_or(1.0)
    }

    fn write(&self, body: &mut Body<'_, impl Write>) -> Result<(), SegmentError> {
        body.begin(SectionTag::Codec)?;
        body.write(&self.codec.to_bytes())?;
        body.end()?;
        body.begin(SectionTag::Codes)?;
        let (mut offset, mut code) = (Vec::new(), Vec::with_capacity(self.codec.stride()));
        for row in self.rows.all() {
            code.clear();
            let vector = self.rows.vector(row)?;
            self.codec
                .encode(&vector, self.norm(row.0), &mut offset, &mut code);
            body.write(&code)?;
        }
        body.end()
    }

    /// Share of some rows' nearest, among the rows around them, that are still there
    /// when the nearest by their codes are reranked.
    fn fidelity(&self, edges: &Adjacency) -> Result<f32, SegmentError> {
        let rows = self.rows.count();
        let samples = SAMPLES.min(rows);
        let (mut found, mut wanted) = (0, 0);
        for n in 0..samples {
            let row = (u64::from(n) * u64::from(rows) / u64::from(samples)) as u32;
            let (hits, of) = self.found(row, edges)?;
            (found, wanted) = (found + hits, wanted + of);
        }
        Ok(found as f32 / (wanted as f32).max(1.0))
    }

    /// How many of the nearest of the rows around a row are found, and of how many.
    fn found(&self, row: u32, edges: &Adjacency) -> Result<(usize, usize), SegmentError> {
        self.rows.source.check_cancelled()?;
        let query = Query::new(self.codec.metric, &self.rows.vector(Row(row))?)
            .map_err(|error| SegmentError::invalid(format!("row {row}: {error}")))?;
        let by_codes = CodeQuery::new(self.codec, &query);
        let (mut offset, mut code) = (Vec::new(), Vec::new());
        let mut compared = Vec::with_capacity(AROUND);
        for other in around(row, edges) {
            let vector = self.rows.vector(Row(other))?;
            let norm = self.norm(other);
            code.clear();
            self.codec.encode(&vector, norm, &mut offset, &mut code);
            compared.push((by_codes.distance(&code), query.distance(&vector, norm)));
        }
        let wanted = K.min(compared.len());
        let mut exact: Vec<f32> = compared.iter().map(|(_, exact)| *exact).collect();
        exact.sort_unstable_by(f32::total_cmp);
        let Some(bound) = wanted.checked_sub(1).and_then(|last| exact.get(last)) else {
            return Ok((0, 0));
        };
        // Of equal estimates the farthest first: rows come in the order of the graph, the
        // nearest first, which is nothing that equal codes would know.
        compared.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
        let reranked = compared.iter().take(self.codec.kind.rerank_rows(wanted));
        let found = reranked.filter(|(_, exact)| exact <= bound).count();
        Ok((found.min(wanted), wanted))
    }
}

/// The rows that are fewest steps away, without the row itself.
fn around(row: u32, edges: &Adjacency) -> Vec<u32> {
    let mut met = BTreeSet::from([row]);
    let mut found = vec![row];
    let mut next = 0;
    while let Some(&from) = found.get(next)
        && found.len() <= AROUND
    {
        let new = edges.neighbors(from).iter().filter(|to| met.insert(**to));
        found.extend(new);
        next += 1;
    }
    found.split_off(1)
}
