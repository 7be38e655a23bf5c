//! Reading every frame that is left of a damaged log.
//!
//! Owns the way past damage that replay refuses to take: what is whole is shown,
//! what is not is named with its place. Invariants: a frame is shown only if its
//! header says this file and this place and its payload matches; each byte is read
//! a bounded number of times, whatever lengths the file states; memory is bounded
//! by the largest frame. Must not know: whether what is missing was ever durable.
#![deny(clippy::indexing_slicing)]

use crate::error::{ReplayError, WalError};
use crate::file::{LogEnd, LogFile};
use crate::frame::{ALIGNMENT, FRAME_HEADER_LEN, FRAME_MAGIC, FrameHeader};
use crate::header::{DecodedHeader, HEADER_LEN, LogHeader, LogKind};
use crate::replay::Frame;
use crate::window::{READ_AHEAD, Window};

/// What a survey meets, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A whole frame.
    Frame(Frame<'a>),
    /// Bytes that are no whole frame.
    Hole(Hole),
}

/// A place where frames are missing or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Bytes to the next frame, or to where the log ends. Zero where two whole frames
    /// meet that were not written one after the other.
    pub len: u64,
    /// What is wrong.
    pub what: &'static str,
    /// First SeqNo and number of SeqNos of a frame whose header is whole and whose
    /// payload is not.
    pub frame: Option<(u64, u32)>,
    /// Nothing whole follows and nothing says where the log ended: a write that a
    /// crash cut off looks the same.
    pub torn: bool,
}

/// What a survey found out about the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surveyed {
    /// The file header, unless it is damaged.
    pub header: Option<LogHeader>,
    /// Whole frames.
    pub frames: u64,
    /// The end of the last whole frame; its CRC is that of its header.
    pub end: LogEnd,
}

/// Gives everything that is left of a log to `visit`. `end` is where the log is
/// known to end: what lies behind is left over from a failed write, and what is
/// missing before is a hole.
///
/// Without a file header, frames are taken for the log's own if they carry the salt
/// that most of the frames in the file carry.
///
/// # Errors
/// `Incompatible` if only a newer release can read the file; `Io`; whatever `visit`
/// returns.
pub fn survey<F: LogFile, E>(
    file: &F,
    kind: LogKind,
    end: Option<u64>,
    visit: impl FnMut(Found<'_>) -> Result<(), E>,
) -> Result<Surveyed, ReplayError<E>> {
    let mut window = Window::new(file)?;
    let record = window.read_record(0)?;
    let header = match record.map(|record| LogHeader::decode(&record)) {
        Some(DecodedHeader::Valid(header, crc)) if header.kind == kind => Some((header, crc)),
        Some(DecodedHeader::Incompatible(what)) => {
            return Err(WalError::Incompatible { what }.into());
        }
        _ => None,
    };
    let salt = match &header {
        Some((header, _)) => Some(header.salt()),
        None => commonest_salt(&mut window)?,
    };
    let limit = end.unwrap_or(window.file_len()).max(HEADER_LEN as u64);
    let chain_crc = header.as_ref().map(|(_, crc)| *crc);
    let mut survey = Survey {
        window,
        salt,
        known_end: end.is_some(),
        limit,
        chain_crc,
        visit,
        found: Surveyed {
            header: header.map(|(header, _)| header),
            frames: 0,
            end: LogEnd {
                offset: HEADER_LEN as u64,
                chain_crc: chain_crc.unwrap_or(0),
            },
        },
    };
    survey.run()?;
    Ok(survey.found)
}

struct Survey<'f, F, V> {
    window: Window<'f, F>,
    salt: Option<u64>,
    known_end: bool,
    limit: u64,
    /// CRC of the header that the next frame must follow; unknown after a hole.
    chain_crc: Option<u32>,
    visit: V,
    found: Surveyed,
}

impl<F: LogFile, V> Survey<'_, F, V> {
    fn run<E>(&mut self) -> Result<(), ReplayError<E>>
    where
        V: FnMut(Found<'_>) -> Result<(), E>,
    {
        let mut at = HEADER_LEN as u64;
        while let Some(next) = self.next_header(at)? {
            if next > at {
                self.hole(at, next - at, "there is no intact frame header", None)?;
            }
            at = self.frame(next)?;
        }
        self.last_hole(at)
    }

    /// Shows the frame at `at`, whose header is whole. Returns where to go on.
    fn frame<E>(&mut self, at: u64) -> Result<u64, ReplayError<E>>
    where
        V: FnMut(Found<'_>) -> Result<(), E>,
    {
        let record = self.window.read_record::<FRAME_HEADER_LEN>(at)?;
        let Some((header, crc)) = record.and_then(|record| FrameHeader::decode(&record, at)) else {
            return Ok(at + ALIGNMENT as u64);
        };
        let len = header.encoded_len();
        let range = Some((header.first_seqno, header.seqno_count));
        // Decided before anything is read, or headers that all reach for the end of
        // the file would have it read again and again.
        if at + len > self.limit.min(self.window.file_len()) {
            return self.cut_frame(at, len, range);
        }
        let follows = self.chain_crc.is_none_or(|crc| crc == header.previous_crc);
        let bytes = self.window.read(at, len)?;
        let body = bytes.get(FRAME_HEADER_LEN..).unwrap_or_default();
        if bytes.len() as u64 != len || crc32fast::hash(body) != header.payload_crc {
            let what = "a payload does not match its checksum";
            self.hole(at, len, what, range)?;
            return Ok(at + len);
        }
        if !follows {
            self.hole(
                at,
                0,
                "a frame follows another than it was written after",
                None,
            )?;
        }
        let bytes = self.window.read(at, len)?;
        let body = bytes.get(FRAME_HEADER_LEN..).unwrap_or_default();
        let frame = Frame {
            offset: at,
            kind: header.kind,
            first_seqno: header.first_seqno,
            seqno_count: header.seqno_count,
            payload: body.get(..header.payload_len as usize).unwrap_or_default(),
        };
        (self.visit)(Found::Frame(frame)).map_err(ReplayError::Visitor)?;
        self.chain_crc = Some(crc);
        self.found.frames += 1;
        self.found.end = LogEnd {
            offset: at + len,
            chain_crc: crc,
        };
        Ok(at + len)
    }

    /// Notes a frame that is not in the file as a whole. Returns where to go on.
    fn cut_frame<E>(
        &mut self,
        at: u64,
        len: u64,
        frame: Option<(u64, u32)>,
    ) -> Result<u64, ReplayError<E>>
    where
        V: FnMut(Found<'_>) -> Result<(), E>,
    {
        self.chain_crc = None;
        let end = self.limit.min(at + len);
        let hole = Hole {
            offset: at,
            len: end - at,
            what: "a frame that the file ends within",
            // One that lies across the end of the log was never acknowledged.
            frame: frame.filter(|_| !self.known_end || at + len <= self.limit),
            torn: !self.known_end,
        };
        (self.visit)(Found::Hole(hole)).map_err(ReplayError::Visitor)?;
        Ok(end)
    }

    /// What is missing between the last frame and the end.
    fn last_hole<E>(&mut self, at: u64) -> Result<(), ReplayError<E>>
    where
        V: FnMut(Found<'_>) -> Result<(), E>,
    {
        if at >= self.limit {
            return Ok(());
        }
        if self.known_end {
            return self.hole(at, self.limit - at, "the log is cut short", None);
        }
        let end = self.content_end(at)?;
        if end == at {
            return Ok(());
        }
        let hole = Hole {
            offset: at,
            len: end - at,
            what: "bytes behind the last whole frame",
            frame: None,
            torn: true,
        };
        (self.visit)(Found::Hole(hole)).map_err(ReplayError::Visitor)
    }

    fn hole<E>(
        &mut self,
        offset: u64,
        len: u64,
        what: &'static str,
        frame: Option<(u64, u32)>,
    ) -> Result<(), ReplayError<E>>
    where
        V: FnMut(Found<'_>) -> Result<(), E>,
    {
        self.chain_crc = None;
        let hole = Hole {
            offset,
            len,
            what,
            frame,
            torn: false,
        };
        (self.visit)(Found::Hole(hole)).map_err(ReplayError::Visitor)
    }

    /// The first whole frame header of this file at `from` or behind it.
    fn next_header(&mut self, from: u64) -> Result<Option<u64>, WalError> {
        let Some(salt) = self.salt else {
            return Ok(None);
        };
        let limit = self.limit;
        let mut found = None;
        each_header(&mut self.window, from, |offset, header| {
            if header.salt == salt && offset < limit {
                found = Some(offset);
            }
            found.is_none() && offset < limit
        })?;
        Ok(found)
    }

    /// Behind the last byte from `from` on that is not zero, or `from`.
    fn content_end(&mut self, from: u64) -> Result<u64, WalError> {
        let (mut base, mut end) = (from, from);
        while base < self.window.file_len() {
            let chunk = self.window.read(base, READ_AHEAD)?;
            if chunk.is_empty() {
                break;
            }
            if let Some(last) = chunk.iter().rposition(|&byte| byte != 0) {
                end = base + last as u64 + 1;
            }
            base += chunk.len() as u64;
        }
        Ok(end)
    }
}

/// Shows frame headers of any file from `from` on, until `more` says no.
fn each_header<F: LogFile>(
    window: &mut Window<'_, F>,
    from: u64,
    mut more: impl FnMut(u64, &FrameHeader) -> bool,
) -> Result<(), WalError> {
    let magic = FRAME_MAGIC.to_le_bytes();
    // Short at first: in a whole log the next header is right here.
    let (mut base, mut ahead) = (from, FRAME_HEADER_LEN as u64);
    while base < window.file_len() {
        let chunk = window.read(base, ahead)?;
        let read = chunk.len();
        let (mut rest, mut offset) = (chunk, base);
        while let Some(record) = rest.first_chunk::<FRAME_HEADER_LEN>() {
            if record.starts_with(&magic)
                && let Some((header, _)) = FrameHeader::decode(record, offset)
                && !more(offset, &header)
            {
                return Ok(());
            }
            rest = rest.get(ALIGNMENT..).unwrap_or_default();
            offset += ALIGNMENT as u64;
        }
        if read < FRAME_HEADER_LEN || offset == base {
            break;
        }
        (base, ahead) = (offset, READ_AHEAD);
    }
    Ok(())
}

/// The salt of more than half of the frame headers in the file; where none has so
/// many, of some of them.
fn commonest_salt<F: LogFile>(window: &mut Window<'_, F>) -> Result<Option<u64>, WalError> {
    let mut leader: Option<(u64, u64)> = None;
    each_header(window, HEADER_LEN as u64, |_, header| {
        leader = match leader {
            Some((salt, votes)) if salt == header.salt => Some((salt, votes + 1)),
            Some((salt, votes)) if votes > 1 => Some((salt, votes - 1)),
            _ => Some((header.salt, 1)),
        };
        true
    })?;
    Ok(leader.map(|(salt, _)| salt))
}
