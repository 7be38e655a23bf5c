//! Reading a log back, and the verdict on how it ends.
//!
//! 1. A frame is given to the visitor only when its header and its payload are
//!    what was written to this place of this file, behind exactly the frames that
//!    were given before.
//! 2. At the first place where that fails, the rest of the file is scanned for
//!    headers that survived. One that says this place was durable makes the damage
//!    corruption; without such a witness it is a torn tail.
//! 3. A log whose end is known from elsewhere is right or corrupt, never torn.
//!
//! Owns these rules; `docs/format/wal.md` argues them crash by crash. Invariants:
//! reading changes nothing; memory is bounded by the largest frame; any bytes give
//! an answer. Must not know: what payloads mean, how a torn tail is mended.
#![deny(clippy::indexing_slicing)]

use crate::error::{ReplayError, WalError};
use crate::file::{LogEnd, LogFile};
use crate::frame::{FRAME_HEADER_LEN, FrameHeader};
use crate::header::{DecodedHeader, HEADER_LEN, LogHeader, LogKind};
use crate::mutants::planted;
use crate::scan::scan;
use crate::window::Window;

/// What the first bytes of a log file say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderState {
    /// The file is a log.
    Valid(LogHeader),
    /// No frame was ever written: the file was created ahead of need, or the crash
    /// came before its header was durable.
    NeverUsed,
}

/// What is known about a log's end before it is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing: this is the newest log, whose tail a crash may have torn.
    Newest,
    /// A successor, or the seal of a clean close, says where it ends. Bytes behind
    /// that, left by a failed append, mean nothing.
    Ends(LogEnd),
}

/// How a replayed log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayEnd {
    /// Where it should, or with nothing but zeros behind its last frame.
    Clean(LogEnd),
    /// In the middle of writes that nothing shows to have been durable.
    TornTail {
        /// The end of the last intact frame.
        end: LogEnd,
        /// Bytes behind it, up to the last that is not zero.
        dropped_bytes: u64,
    },
}

/// One intact frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Where the frame begins in its file, in bytes.
    pub offset: u64,
    /// What the writer gave to `FrameBuf::new`.
    pub kind: u8,
    /// The first SeqNo that belongs to the frame.
    pub first_seqno: u64,
    /// How many SeqNos belong to it.
    pub seqno_count: u32,
    /// The payload, without padding.
    pub payload: &'a [u8],
}

/// Reads what a file is.
///
/// # Errors
/// `Corruption` if the header is damaged although frames follow it, or if the file
/// is a log of another kind; `Incompatible` if only a newer release can read it.
pub fn read_header<F: LogFile>(file: &F, kind: LogKind) -> Result<HeaderState, WalError> {
    let mut window = Window::new(file)?;
    match window
        .read_record(0)?
        .map(|record| LogHeader::decode(&record))
    {
        Some(DecodedHeader::Valid(header, _)) if header.kind == kind => {
            Ok(HeaderState::Valid(header))
        }
        Some(DecodedHeader::Valid(..)) => Err(corruption(0, "this is a log of another kind")),
        Some(DecodedHeader::Incompatible(what)) => Err(WalError::Incompatible { what }),
        Some(DecodedHeader::Damaged) | None => {
            // The header was synced before the first frame was written.
            let evidence = scan(&mut window, HEADER_LEN as u64, None)?;
            if evidence.any_frame && !planted("log.header_evidence") {
                Err(corruption(0, "the file header is damaged"))
            } else {
                Ok(HeaderState::NeverUsed)
            }
        }
    }
}

/// Gives every intact frame of a log to `visit`, in order, and says how it ends.
///
/// `header` is what [`read_header`] returned. Memory stays within the largest
/// frame plus a read buffer, whatever the file holds.
///
/// # Errors
/// `Corruption` if a frame is damaged that must have been durable, or if the log
/// does not end as `expect` says; the frames before were given to `visit`. Whatever
/// error `visit` returns ends the replay.
pub fn replay<F: LogFile, E>(
    file: &F,
    header: &LogHeader,
    expect: Expect,
    mut visit: impl FnMut(Frame<'_>) -> Result<(), E>,
) -> Result<ReplayEnd, ReplayError<E>> {
    let mut replay = Replay::begin(file, header)?;
    loop {
        if let Expect::Ends(end) = expect
            && replay.end.offset == end.offset
        {
            return Ok(replay.check_end(end)?);
        }
        match replay.next_frame(expect)? {
            Ok(frame) => visit(frame).map_err(ReplayError::Visitor)?,
            Err(broken) => return Ok(replay.judge(expect, broken)?),
        }
    }
}

struct Replay<'f, F> {
    window: Window<'f, F>,
    salt: u64,
    /// Behind the last intact frame.
    end: LogEnd,
    /// The lowest SeqNo that the next frame may have.
    next_seqno: u64,
}

/// Why there is no intact frame at a place where a crash may have left none.
struct Broken(&'static str);

impl<'f, F: LogFile> Replay<'f, F> {
    /// Reads the header once more: it is the first link of the chain.
    fn begin(file: &'f F, expected: &LogHeader) -> Result<Self, WalError> {
        let mut window = Window::new(file)?;
        let record = window.read_record(0)?;
        match record.map(|record| LogHeader::decode(&record)) {
            Some(DecodedHeader::Valid(header, chain_crc)) if header == *expected => Ok(Self {
                window,
                salt: header.salt(),
                end: LogEnd {
                    offset: HEADER_LEN as u64,
                    chain_crc,
                },
                next_seqno: 0,
            }),
            _ => Err(corruption(
                0,
                "the file header is not the one that was read before",
            )),
        }
    }

    /// The frame at the end of those before. `Broken` where bytes are missing or
    /// wrong, which a crash can explain; an error for what no crash can: a frame
    /// that is whole, but was written after other frames than these.
    fn next_frame(&mut self, expect: Expect) -> Result<Result<Frame<'_>, Broken>, WalError> {
        let at = self.end;
        let Some(record) = self.window.read_record::<FRAME_HEADER_LEN>(at.offset)? else {
            return Ok(Err(Broken("the file ends within a frame, or before one")));
        };
        let decoded = FrameHeader::decode(&record, at.offset);
        let own = |salt| salt == self.salt || planted("frame.salt");
        let Some((header, crc)) = decoded.filter(|(header, _)| own(header.salt)) else {
            return Ok(Err(Broken("there is no intact frame header")));
        };
        let len = header.encoded_len();
        let bytes = self.window.read(at.offset, len)?;
        let body = bytes.get(FRAME_HEADER_LEN..).unwrap_or_default();
        let sound = crc32fast::hash(body) == header.payload_crc || planted("frame.payload_crc");
        if bytes.len() as u64 != len || !sound {
            return Ok(Err(Broken("a payload does not match its checksum")));
        }
        if header.previous_crc != at.chain_crc && !planted("frame.chain") {
            return Err(corruption(
                at.offset,
                "a frame follows another than it was written after",
            ));
        }
        let next_seqno = header
            .first_seqno
            .checked_add(u64::from(header.seqno_count));
        let (Some(next_seqno), true) = (next_seqno, header.first_seqno >= self.next_seqno) else {
            return Err(corruption(
                at.offset,
                "the SeqNos of a frame do not follow the last one's",
            ));
        };
        let end = LogEnd {
            offset: at.offset + len,
            chain_crc: crc,
        };
        if let Expect::Ends(expected) = expect
            && end.offset > expected.offset
        {
            return Err(corruption(
                at.offset,
                "a frame lies across the end of the log",
            ));
        }
        self.end = end;
        self.next_seqno = next_seqno;
        Ok(Ok(Frame {
            offset: at.offset,
            kind: header.kind,
            first_seqno: header.first_seqno,
            seqno_count: header.seqno_count,
            payload: body.get(..header.payload_len as usize).unwrap_or_default(),
        }))
    }

    fn check_end(&self, expected: LogEnd) -> Result<ReplayEnd, WalError> {
        if self.end != expected && !planted("replay.end_crc") {
            return Err(corruption(
                self.end.offset,
                "the log ends with another frame than it did",
            ));
        }
        Ok(ReplayEnd::Clean(expected))
    }

    /// The verdict on the place where the frames end.
    fn judge(mut self, expect: Expect, broken: Broken) -> Result<ReplayEnd, WalError> {
        let end = self.end;
        if let Expect::Ends(_) = expect {
            return Err(corruption(end.offset, broken.0));
        }
        let evidence = scan(&mut self.window, end.offset, Some(self.salt))?;
        if evidence.durable_up_to > end.offset && !planted("replay.torn_or_damaged") {
            return Err(corruption(end.offset, broken.0));
        }
        Ok(match evidence.content_end - end.offset {
            0 => ReplayEnd::Clean(end),
            dropped_bytes => ReplayEnd::TornTail { end, dropped_bytes },
        })
    }
}

fn corruption(offset: u64, what: &'static str) -> WalError {
    WalError::Corruption { offset, what }
}
