//! What is behind the place where frames stop making sense.
//!
//! Owns the search for evidence: frame headers that survived behind damage, and
//! what they say was durable when they were written. Invariant: every multiple of
//! [`ALIGNMENT`] is looked at, whatever lengths the damaged part states.
//! Must not know: verdicts.
#![deny(clippy::indexing_slicing)]

use crate::error::WalError;
use crate::file::LogFile;
use crate::frame::{ALIGNMENT, FRAME_HEADER_LEN, FRAME_MAGIC, FrameHeader};
use crate::mutants::planted;
use crate::window::{READ_AHEAD, Window};

/// What a scan found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// The greatest durable-up-to mark of all frame headers, or 0 without one.
    pub(crate) durable_up_to: u64,
    /// Whether there is any frame header.
    pub(crate) any_frame: bool,
    /// Behind the last byte that is not zero; the scan's start if all are.
    pub(crate) content_end: u64,
}

/// Looks through the file from `start` to its end for frame headers: those with
/// `salt`, or of any file where that is unknown because the file header is gone.
pub(crate) fn scan<F: LogFile>(
    window: &mut Window<'_, F>,
    start: u64,
    salt: Option<u64>,
) -> Result<Evidence, WalError> {
    let mut evidence = Evidence {
        content_end: start,
        ..Evidence::default()
    };
    let mut base = start;
    while base < window.file_len() {
        let chunk = window.read(base, READ_AHEAD)?;
        if chunk.is_empty() {
            break;
        }
        if let Some(last) = chunk.iter().rposition(|&byte| byte != 0) {
            evidence.content_end = base + last as u64 + 1;
            note_frames(chunk, base, salt, &mut evidence);
        }
        // A header may begin near the end of a chunk: the next one begins there.
        base += match chunk.len() {
            len if len > FRAME_HEADER_LEN && base + (len as u64) < window.file_len() => {
                (len - FRAME_HEADER_LEN) as u64
            }
            len => len as u64,
        };
    }
    Ok(evidence)
}

fn note_frames(chunk: &[u8], base: u64, salt: Option<u64>, evidence: &mut Evidence) {
    let magic = FRAME_MAGIC.to_le_bytes();
    let mut rest = chunk;
    let mut offset = base;
    while let Some(record) = rest.first_chunk::<FRAME_HEADER_LEN>() {
        // Cheaper than a checksum at every place.
        if record.starts_with(&magic)
            && let Some((header, _)) = FrameHeader::decode(record, offset)
            && (salt.is_none_or(|salt| salt == header.salt) || planted("scan.salt"))
        {
            evidence.any_frame = true;
            evidence.durable_up_to = evidence.durable_up_to.max(header.durable_up_to);
        }
        rest = rest.get(ALIGNMENT..).unwrap_or_default();
        offset += ALIGNMENT as u64;
    }
}
