//! Replaying a log file and telling a torn tail from corruption.
//!
//! Owns the verdict. Invariants: memory is one frame and a read buffer; a length
//! is believed only after its header's CRC, and never beyond the file; a frame is
//! visited only if it is whole and follows the one before it; damage below a
//! position that any later frame says was durable is corruption, never a tail.
//! Must not know: what frames mean.
#![deny(clippy::indexing_slicing)]

use crate::error::{ReplayError, WalError};
use crate::frame::{
    ALIGNMENT, DecodedHeader, FRAME_HEADER_LEN, FrameHeader, HEADER_LEN, LogEnd, LogHeader,
    LogKind, MAX_PAYLOAD,
};
use crate::writer::LogFile;

/// What is known of where a log must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing: it is the newest, and may end torn.
    Newest,
    /// Its successor, or a clean close, says where it ends.
    Ends(LogEnd),
}

/// How a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayEnd {
    /// At the end of the file, or at nothing but zeros.
    Clean(LogEnd),
    /// At an incomplete write that was never known to be durable.
    TornTail {
        /// Where the last whole frame ends.
        end: LogEnd,
        /// Bytes after it up to the last that is not zero.
        dropped_bytes: u64,
    },
}

/// One whole frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Where it begins in the file.
    pub offset: u64,
    /// The payload's kind.
    pub kind: u8,
    /// SeqNo of its first operation.
    pub first_seqno: u64,
    /// Operations in it.
    pub seqno_count: u32,
    /// Its payload.
    pub payload: &'a [u8],
}

/// What the beginning of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderState {
    /// A log.
    Valid(LogHeader),
    /// Made ahead of need, or cut off before its header was durable: the header
    /// is no header and there is no frame anywhere in the file.
    NeverUsed,
}

/// Reads a log file's header.
///
/// # Errors
/// `Corruption` for a damaged header with a frame behind it, or a file of the
/// other kind; `Incompatible` for a newer format; `Io`.
pub fn read_header<F: LogFile>(file: &F, kind: LogKind) -> Result<HeaderState, WalError> {
    let mut cursor = Cursor::new(file)?;
    let decoded = match cursor.bytes(0, HEADER_LEN)? {
        Some(bytes) => LogHeader::decode(bytes, kind),
        None => DecodedHeader::Invalid,
    };
    match decoded {
        DecodedHeader::Valid { header, .. } => Ok(HeaderState::Valid(header)),
        DecodedHeader::Other(what) => Err(WalError::corruption(0, what)),
        DecodedHeader::Newer(what) => Err(WalError::Incompatible { what: what.into() }),
        DecodedHeader::Invalid => {
            let mut found = false;
            cursor.scan_frames(0, |_| found = true)?;
            if found {
                return Err(WalError::corruption(
                    0,
                    "the header is damaged, frames follow it",
                ));
            }
            Ok(HeaderState::NeverUsed)
        }
    }
}

/// Calls `visit` with every whole frame, in order, and judges the end.
///
/// # Errors
/// `Corruption` where durable bytes are damaged, the end is not the expected one,
/// or SeqNos do not rise; `Io`; or what `visit` returns.
pub fn replay<F: LogFile, E>(
    file: &F,
    header: &LogHeader,
    expect: Expect,
    mut visit: impl FnMut(Frame<'_>) -> Result<(), E>,
) -> Result<ReplayEnd, ReplayError<E>> {
    let mut cursor = Cursor::new(file)?;
    let (_, crc) = header.encode();
    let mut end = LogEnd {
        offset: HEADER_LEN as u64,
        chain_crc: crc,
    };
    let mut last_seqno = None;
    loop {
        if let Expect::Ends(expected) = expect
            && end.offset >= expected.offset
        {
            return judge_expected(end, expected).map_err(ReplayError::Log);
        }
        let Some((frame, crc)) = cursor.frame(header, end)? else {
            break;
        };
        if last_seqno.is_some_and(|last| frame.first_seqno <= last) {
            let what = "a frame whose SeqNo does not rise";
            return Err(WalError::corruption(end.offset, what).into());
        }
        let last = frame
            .first_seqno
            .checked_add(u64::from(frame.seqno_count).saturating_sub(1));
        let Some(last) = last.filter(|_| frame.seqno_count > 0) else {
            let what = "a frame whose SeqNos are out of range";
            return Err(WalError::corruption(end.offset, what).into());
        };
        last_seqno = Some(last);
        let payload = cursor.payload(&frame)?.unwrap_or_default();
        visit(Frame {
            offset: frame.offset,
            kind: frame.kind,
            first_seqno: frame.first_seqno,
            seqno_count: frame.seqno_count,
            payload,
        })
        .map_err(ReplayError::Visitor)?;
        end = LogEnd {
            offset: end.offset + frame.stride(),
            chain_crc: crc,
        };
    }
    judge_tail(&mut cursor, header, end, expect).map_err(ReplayError::Log)
}

fn judge_expected(end: LogEnd, expected: LogEnd) -> Result<ReplayEnd, WalError> {
    if end == expected {
        return Ok(ReplayEnd::Clean(end));
    }
    Err(WalError::corruption(
        end.offset,
        "the log does not end where its successor says",
    ))
}

/// There is no whole frame at `end`.
fn judge_tail<F: LogFile>(
    cursor: &mut Cursor<'_, F>,
    header: &LogHeader,
    end: LogEnd,
    expect: Expect,
) -> Result<ReplayEnd, WalError> {
    if let Expect::Ends(expected) = expect {
        let what = format!(
            "no whole frame here, the log goes on to byte {}",
            expected.offset
        );
        return Err(WalError::corruption(end.offset, what));
    }
    let mut durable = 0;
    cursor.scan_frames(end.offset, |frame| {
        if frame.salt == header.salt() {
            durable = durable.max(frame.durable_up_to);
        }
    })?;
    if durable > end.offset {
        let what = format!("damaged, but a later frame says bytes up to {durable} were durable");
        return Err(WalError::corruption(end.offset, what));
    }
    match cursor.last_nonzero(end.offset)? {
        None => Ok(ReplayEnd::Clean(end)),
        Some(at) => Ok(ReplayEnd::TornTail {
            end,
            dropped_bytes: at + 1 - end.offset,
        }),
    }
}

/// Reads a file through a buffer that follows the position.
struct Cursor<'a, F> {
    file: &'a F,
    len: u64,
    buffer: Vec<u8>,
    start: u64,
}

const READ_AHEAD: usize = 256 << 10;

impl<'a, F: LogFile> Cursor<'a, F> {
    fn new(file: &'a F) -> Result<Self, WalError> {
        let len = file
            .len()
            .map_err(|source| WalError::Io { offset: 0, source })?;
        Ok(Self {
            file,
            len,
            buffer: Vec::new(),
            start: 0,
        })
    }

    /// `len` bytes at `offset`, or `None` beyond the end of the file.
    fn bytes(&mut self, offset: u64, len: usize) -> Result<Option<&[u8]>, WalError> {
        let Some(left) = self.len.checked_sub(offset) else {
            return Ok(None);
        };
        if left < len as u64 {
            return Ok(None);
        }
        let have = self.start + self.buffer.len() as u64;
        if offset < self.start || offset + len as u64 > have {
            // Both bounded by the file's length.
            let want = (len.max(READ_AHEAD) as u64).min(left) as usize;
            self.buffer.resize(want, 0);
            let read = self
                .file
                .read_at(offset, &mut self.buffer)
                .map_err(|source| WalError::Io { offset, source })?;
            self.buffer.truncate(read);
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        Ok(self.buffer.get(from..from + len))
    }

    /// The whole, linked frame at `end`, or `None`.
    fn frame(
        &mut self,
        header: &LogHeader,
        end: LogEnd,
    ) -> Result<Option<(FrameHeader, u32)>, WalError> {
        let Some(bytes) = self.bytes(end.offset, FRAME_HEADER_LEN)? else {
            return Ok(None);
        };
        let Some((frame, crc)) = FrameHeader::decode(bytes, end.offset) else {
            return Ok(None);
        };
        let linked = frame.salt == header.salt() && frame.previous_crc == end.chain_crc;
        if !linked || frame.payload_len as usize > MAX_PAYLOAD {
            return Ok(None);
        }
        let whole = self.payload(&frame)?.map(crc32fast::hash) == Some(frame.payload_crc);
        Ok(whole.then_some((frame, crc)))
    }

    fn payload(&mut self, frame: &FrameHeader) -> Result<Option<&[u8]>, WalError> {
        self.bytes(
            frame.offset + FRAME_HEADER_LEN as u64,
            frame.payload_len as usize,
        )
    }

    /// Calls `found` with every frame header from `from` on, linked or not.
    fn scan_frames(
        &mut self,
        from: u64,
        mut found: impl FnMut(&FrameHeader),
    ) -> Result<(), WalError> {
        let mut offset = from.next_multiple_of(ALIGNMENT as u64);
        while let Some(bytes) = self.bytes(offset, FRAME_HEADER_LEN)? {
            if let Some((frame, _)) = FrameHeader::decode(bytes, offset) {
                found(&frame);
            }
            offset += ALIGNMENT as u64;
        }
        Ok(())
    }

    /// Offset of the last byte at or after `from` that is not zero.
    fn last_nonzero(&mut self, from: u64) -> Result<Option<u64>, WalError> {
        let mut last = None;
        let mut offset = from;
        while offset < self.len {
            let len = (self.len - offset).min(READ_AHEAD as u64) as usize;
            let Some(bytes) = self.bytes(offset, len)? else {
                break;
            };
            if let Some(at) = bytes.iter().rposition(|&byte| byte != 0) {
                last = Some(offset + at as u64);
            }
            offset += len as u64;
        }
        Ok(last)
    }
}
