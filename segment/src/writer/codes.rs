//! The compressed rows of a segment, and how they are to be read.
//!
//! Invariant: what is written here follows from vectors and norms alone, so that a
//! check can make it again. Must not know: graphs.

use std::io::Write;

use super::body::Body;
use super::{RowSource, all};
use crate::codes::Codec;
use crate::error::SegmentError;
use crate::layout::SectionTag;

pub(super) fn write_codes<W: Write>(
    rows: &impl RowSource,
    codec: &Codec,
    norms: &[f32],
    body: &mut Body<'_, W>,
) -> Result<(), SegmentError> {
    body.begin(SectionTag::Codec)?;
    body.write(&codec.to_bytes())?;
    body.end()?;
    body.begin(SectionTag::Codes)?;
    let (mut offset, mut code) = (Vec::new(), Vec::with_capacity(codec.stride()));
    for row in all(rows) {
        let norm = norms.get(row.0 as usize).copied().unwrap_or(1.0);
        code.clear();
        codec.encode(&rows.vector(row)?, norm, &mut offset, &mut code);
        body.write(&code)?;
    }
    body.end()
}
