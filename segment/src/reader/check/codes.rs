//! Codes of a check.
//!
//! Invariant: a code is made again from its vector, its norm and the centre, and
//! compared byte for byte. The centre is taken as it is: another one makes other
//! codes, no wrong answers. Must not know: keys, edges.

use std::ops::Range;

use super::Step;
use super::bad::Table;
use crate::codes::Codec;
use crate::error::SegmentError;
use crate::source::{Scratch, Section, SectionSource};

impl<S: SectionSource> Step<'_, S> {
    /// The codes of these rows, where all that they are made of is sound.
    pub(super) fn codes(&mut self, vectors: Table<'_>, rows: Range<u64>) {
        let segment = self.segment;
        let (Some(codec), Some((_, section))) = (&segment.codec, &segment.sections.codes) else {
            return;
        };
        let stride = codec.stride() as u64;
        let codes = Table {
            section,
            stride,
            len: stride,
        };
        let norms = segment.sections.norms.as_ref().map(|section| Table {
            section,
            stride: 4,
            len: 4,
        });
        self.read += (rows.end - rows.start) * stride;
        let made_of: Vec<Table<'_>> = [vectors, codes].into_iter().chain(norms).collect();
        for rows in self.bad.sound(rows, &made_of) {
            if let Err(error) = self.compare(codec, vectors, section, rows) {
                self.found.add(error);
            }
        }
    }

    fn compare(
        &mut self,
        codec: &Codec,
        vectors: Table<'_>,
        section: &Section,
        rows: Range<u64>,
    ) -> Result<(), SegmentError> {
        let segment = self.segment;
        let (mut floats, mut bytes, mut norms) =
            (Scratch::default(), Scratch::default(), Scratch::default());
        let place = rows.start * vectors.stride..rows.end * vectors.stride;
        let components = segment.floats(vectors.section, place, &mut floats)?;
        let stride = codec.stride();
        let place = rows.start * stride as u64..rows.end * stride as u64;
        let codes = segment.source.stream(section, place, &mut bytes)?;
        let norms = match &segment.sections.norms {
            Some(norms_section) => {
                segment.floats(norms_section, rows.start * 4..rows.end * 4, &mut norms)?
            }
            None => &[],
        };
        let mut norms = norms.iter();
        let (mut offset, mut made) = (Vec::new(), Vec::with_capacity(stride));
        let vectors = components.chunks_exact(codec.dimension() as usize);
        for ((row, vector), code) in rows.zip(vectors).zip(codes.chunks_exact(stride)) {
            made.clear();
            let norm = norms.next().copied().unwrap_or(1.0);
            codec.encode(vector, norm, &mut offset, &mut made);
            if made != code {
                let what = "a code that is not its vector's";
                self.found
                    .add(section.corruption(row * stride as u64, what));
            }
        }
        Ok(())
    }
}
