//! Appending frames to one log file.
//!
//! Owns the end of the log. Invariants: the header is durable before the first
//! frame is written; frames are written in order, each at the end of the one
//! before; once a write failed, or might have, nothing is ever written again, so
//! that no frame can follow garbage; no frame claims more to be durable than the
//! owner said. Must not know: when to sync, which file comes next.

use std::io;

use crate::file::{LogEnd, LogFile};
use crate::frame::{FrameHeader, MAX_PAYLOAD};
use crate::frame_buf::FrameBuf;
use crate::header::{HEADER_LEN, LogHeader};
use crate::mutants::planted;

/// Memory that the buffer for joining frames keeps between groups, in bytes. What
/// a rare large group needed beyond it is given back.
const KEPT_CAPACITY: usize = 1 << 20;

/// From this size on a frame is written by itself: a call costs less than the copy.
const LARGE_FRAME: usize = 64 << 10;

/// A frame and the SeqNos that it carries.
pub struct SequencedFrame<'a> {
    /// The payload; [`FrameBuf::seal`] it first, outside of every lock.
    pub buf: &'a mut FrameBuf,
    /// The first SeqNo: not below the last frame's `first_seqno + seqno_count`.
    pub first_seqno: u64,
    /// How many SeqNos from there on belong to the frame.
    pub seqno_count: u32,
}

impl SequencedFrame<'_> {
    /// The first SeqNo that is free after the frame, if there is one at all.
    fn next_seqno(&self) -> Option<u64> {
        self.first_seqno.checked_add(u64::from(self.seqno_count))
    }
}

/// The writing end of one log file.
pub struct LogWriter<F: LogFile> {
    file: F,
    header: LogHeader,
    salt: u64,
    end: LogEnd,
    next_seqno: u64,
    durable_up_to: u64,
    abandoned: bool,
    /// For joining the frames of a group; empty in between.
    joined: Vec<u8>,
}

impl<F: LogFile> LogWriter<F> {
    /// Begins a log in a file that is empty or filled with zeros: writes the header
    /// and syncs it, before any frame. That the file's *name* is durable, and that
    /// the predecessor was synced, is the caller's business.
    ///
    /// # Errors
    /// `InvalidInput` for a number of 0 or a predecessor that is not older; else
    /// what the device says, and the file must not be used.
    pub fn create(file: F, header: &LogHeader) -> io::Result<Self> {
        if !header.is_legal() {
            return Err(refused("log numbers begin at 1 and grow along the chain"));
        }
        let (record, chain_crc) = header.encode();
        file.write_at(0, &record)?;
        if !planted("log.header_sync") {
            file.sync_data()?;
        }
        Ok(Self {
            file,
            salt: header.salt(),
            header: header.clone(),
            end: LogEnd {
                offset: HEADER_LEN as u64,
                chain_crc,
            },
            next_seqno: 0,
            durable_up_to: HEADER_LEN as u64,
            abandoned: false,
            joined: Vec::new(),
        })
    }

    /// Writes the frames behind each other, with one write.
    ///
    /// They are durable once a sync that begins afterwards has succeeded.
    ///
    /// # Errors
    /// `InvalidInput` for a payload above [`MAX_PAYLOAD`] or SeqNos that do not
    /// increase: nothing was written, the writer is as before. Any other error
    /// abandons the file: the end stays where it was, and further appends fail.
    pub fn append(&mut self, frames: &mut [SequencedFrame<'_>]) -> io::Result<()> {
        self.append_ahead_of_zeros(frames, 0)
    }

    /// As [`LogWriter::append`], with so many zeros behind the frames in the same write:
    /// later frames that take their place do not change where the file lies on the
    /// device, and their sync has less to do. The log ends in front of them.
    ///
    /// # Errors
    /// As [`LogWriter::append`].
    pub fn append_ahead_of_zeros(
        &mut self,
        frames: &mut [SequencedFrame<'_>],
        zeros: usize,
    ) -> io::Result<()> {
        if self.abandoned {
            return Err(io::Error::other("an earlier write to this log file failed"));
        }
        let next_seqno = self.check(frames)?;
        let mut end = self.end;
        for frame in frames.iter_mut() {
            end = self.write_header(frame, end);
        }
        if frames.is_empty() {
            return Ok(());
        }
        // Taken back only by success: a panic on the way out is a failure too.
        self.abandoned = !planted("log.abandon");
        self.write(frames, zeros)?;
        self.abandoned = false;
        self.joined.shrink_to(KEPT_CAPACITY);
        self.end = end;
        self.next_seqno = next_seqno;
        Ok(())
    }

    /// Writes the frames with their headers at the end: small ones joined, large ones
    /// from where they were built.
    fn write(&mut self, frames: &[SequencedFrame<'_>], zeros: usize) -> io::Result<()> {
        let mut at = self.end.offset;
        let alone = frames.len() == 1 && zeros == 0;
        for frame in frames {
            let bytes = frame.buf.bytes();
            if alone || bytes.len() >= LARGE_FRAME {
                at += self.write_joined(at)?;
                self.file.write_at(at, bytes)?;
                at += bytes.len() as u64;
            } else {
                self.joined.extend_from_slice(bytes);
            }
        }
        self.joined.resize(self.joined.len() + zeros, 0);
        self.write_joined(at).map(drop)
    }

    /// Writes what was joined at `at`; its length.
    fn write_joined(&mut self, at: u64) -> io::Result<u64> {
        let len = self.joined.len() as u64;
        if len > 0 {
            self.file.write_at(at, &self.joined)?;
            self.joined.clear();
        }
        Ok(len)
    }

    /// Everything that can be refused before a byte is written. Returns the first
    /// SeqNo that is free behind the frames.
    fn check(&self, frames: &[SequencedFrame<'_>]) -> io::Result<u64> {
        let mut next = self.next_seqno;
        let mut offset = Some(self.end.offset);
        for frame in frames {
            if frame.buf.payload_len() > MAX_PAYLOAD {
                return Err(refused("a payload is longer than a frame can hold"));
            }
            match frame.next_seqno() {
                Some(after) if frame.first_seqno >= next => next = after,
                _ => return Err(refused("SeqNos must increase from frame to frame")),
            }
            offset = offset.and_then(|o| o.checked_add(frame.buf.encoded_len() as u64));
        }
        offset
            .map(|_| next)
            .ok_or_else(|| refused("the log file is full"))
    }

    /// Completes a frame for its place at `at`; returns the end of the log behind it.
    fn write_header(&self, frame: &mut SequencedFrame<'_>, at: LogEnd) -> LogEnd {
        let seal = frame.buf.sealed();
        let header = FrameHeader {
            kind: frame.buf.kind(),
            payload_len: seal.payload_len as u32,
            seqno_count: frame.seqno_count,
            salt: self.salt,
            offset: at.offset,
            first_seqno: frame.first_seqno,
            durable_up_to: self.mark(at),
            previous_crc: at.chain_crc,
            payload_crc: seal.payload_crc,
        };
        let (record, chain_crc) = header.encode();
        frame.buf.put_header(&record);
        LogEnd {
            offset: at.offset + header.encoded_len(),
            chain_crc,
        }
    }

    /// What a frame at `at` says to be durable.
    fn mark(&self, at: LogEnd) -> u64 {
        match () {
            () if planted("frame.durable_mark") => HEADER_LEN as u64,
            () if planted("frame.mark_only_synced") => at.offset,
            () => self.durable_up_to,
        }
    }

    /// Where the log ends: behind the last frame that was written whole.
    pub fn end(&self) -> LogEnd {
        self.end
    }

    /// Offset in front of which everything is known to be durable, in bytes.
    pub fn durable_up_to(&self) -> u64 {
        self.durable_up_to
    }

    /// Heap bytes of the buffer that frames are joined in.
    pub fn heap_bytes(&self) -> usize {
        self.joined.capacity()
    }

    /// True once a write failed. The caller goes on in a new file.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// The file, for syncing it outside of whatever lock guards the writer.
    pub fn file(&self) -> &F {
        &self.file
    }

    /// The header that the file was created with.
    pub fn header(&self) -> &LogHeader {
        &self.header
    }

    /// Records that a sync succeeded that began when the log ended at `offset`.
    /// Later frames tell it to replay.
    pub fn note_synced(&mut self, offset: u64) {
        self.durable_up_to = self.durable_up_to.max(offset.min(self.end.offset));
    }
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
