//! A file in memory, and shorthands for logs in it.

use std::convert::Infallible;
use std::io;
use std::sync::{Mutex, MutexGuard};

use esker_wal::{
    Expect, Frame, FrameBuf, HEADER_LEN, HeaderState, LogEnd, LogFile, LogHeader, LogKind,
    LogNumber, LogWriter, ReplayEnd, ReplayError, SequencedFrame, WalError, read_header, replay,
};

/// What a device was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Write { offset: u64, len: usize },
    Sync,
}

#[derive(Default)]
struct Device {
    bytes: Vec<u8>,
    effects: Vec<Effect>,
    /// The next write fails once it has written this many bytes.
    fail_after: Option<usize>,
    /// The next read at or behind this offset fails.
    fail_reads_from: Option<u64>,
    panic_on_write: bool,
    largest_read: usize,
}

#[derive(Default)]
pub(crate) struct MemFile(Mutex<Device>);

impl MemFile {
    pub(crate) fn holding(bytes: Vec<u8>) -> Self {
        Self(Mutex::new(Device {
            bytes,
            ..Device::default()
        }))
    }

    fn device(&self) -> MutexGuard<'_, Device> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.device().bytes.clone()
    }

    pub(crate) fn effects(&self) -> Vec<Effect> {
        self.device().effects.clone()
    }

    pub(crate) fn fail_next_write_after(&self, written: usize) {
        self.device().fail_after = Some(written);
    }

    pub(crate) fn panic_on_write(&self) {
        self.device().panic_on_write = true;
    }

    pub(crate) fn fail_reads_from(&self, offset: u64) {
        self.device().fail_reads_from = Some(offset);
    }

    /// The longest buffer that was to be filled, in bytes.
    pub(crate) fn largest_read(&self) -> usize {
        self.device().largest_read
    }
}

impl LogFile for MemFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let device = &mut *self.device();
        assert!(!device.panic_on_write, "the device panics");
        device.effects.push(Effect::Write {
            offset,
            len: bytes.len(),
        });
        let fails = device.fail_after.take();
        let bytes = &bytes[..fails.unwrap_or(bytes.len())];
        let end = offset as usize + bytes.len();
        if device.bytes.len() < end {
            device.bytes.resize(end, 0);
        }
        device.bytes[offset as usize..end].copy_from_slice(bytes);
        fails.map_or(Ok(()), |_| Err(io::Error::other("the device is full")))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let device = &mut *self.device();
        device.largest_read = device.largest_read.max(buf.len());
        if device
            .fail_reads_from
            .is_some_and(|from| offset + buf.len() as u64 > from)
        {
            return Err(io::Error::other("a bad sector"));
        }
        let rest = device.bytes.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.device().effects.push(Effect::Sync);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.device().bytes.len() as u64)
    }
}

pub(crate) const FILE_ID: [u8; 16] = *b"\x01\x02\x03\x04\x05\x06\x07\x08salt-ids";

pub(crate) fn header() -> LogHeader {
    LogHeader {
        number: LogNumber(7),
        file_id: FILE_ID,
        kind: LogKind::Writes,
        predecessor: None,
    }
}

pub(crate) fn frame(kind: u8, payload: &[u8]) -> FrameBuf {
    let mut frame = FrameBuf::new(kind);
    frame.extend_from_slice(payload);
    frame.seal();
    frame
}

/// A frame as a test wrote it, or as replay gave it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) offset: u64,
    pub(crate) kind: u8,
    pub(crate) first_seqno: u64,
    pub(crate) seqno_count: u32,
    pub(crate) payload: Vec<u8>,
}

impl From<Frame<'_>> for Written {
    fn from(frame: Frame<'_>) -> Self {
        Self {
            offset: frame.offset,
            kind: frame.kind,
            first_seqno: frame.first_seqno,
            seqno_count: frame.seqno_count,
            payload: frame.payload.to_vec(),
        }
    }
}

/// Kind, first SeqNo, SeqNo count, payload.
pub(crate) type Member<'a> = (u8, u64, u32, &'a [u8]);

/// Appends one group; returns what replay should give back for it.
pub(crate) fn append_group(writer: &mut LogWriter<&MemFile>, group: &[Member<'_>]) -> Vec<Written> {
    let mut bufs: Vec<_> = group
        .iter()
        .map(|&(kind, _, _, payload)| frame(kind, payload))
        .collect();
    let mut written = Vec::new();
    let mut offset = writer.end().offset;
    let mut frames: Vec<_> = bufs
        .iter_mut()
        .zip(group)
        .map(|(buf, &(kind, first_seqno, seqno_count, payload))| {
            let payload = payload.to_vec();
            written.push(Written {
                offset,
                kind,
                first_seqno,
                seqno_count,
                payload,
            });
            offset += buf.encoded_len() as u64;
            SequencedFrame {
                buf,
                first_seqno,
                seqno_count,
            }
        })
        .collect();
    writer.append(&mut frames).unwrap();
    assert_eq!(writer.end().offset, offset);
    written
}

/// A small log with everything in it: payloads of every length modulo 8, an empty
/// one, groups, gaps in the SeqNos, syncs in between.
pub(crate) struct Sample {
    pub(crate) bytes: Vec<u8>,
    pub(crate) frames: Vec<Written>,
    /// For each frame, what was known to be durable when it was written.
    pub(crate) marks: Vec<u64>,
    pub(crate) end: LogEnd,
}

impl Sample {
    pub(crate) fn new() -> Self {
        let file = MemFile::default();
        let mut writer = LogWriter::create(&file, &header()).unwrap();
        let mut frames = Vec::new();
        let mut marks = Vec::new();
        let groups: [&[Member<'_>]; 5] = [
            &[(1, 1, 1, b"a")],
            &[(1, 2, 3, b"the second of all frames"), (2, 5, 1, b"")],
            &[(1, 9, 2, b"behind a gap")],
            &[
                (9, 11, 1, b"12345"),
                (1, 12, 100, b"1234567"),
                (1, 112, 1, b"zero byte\0"),
            ],
            &[(1, 113, 1, b"last, unsynced")],
        ];
        for (i, group) in groups.into_iter().enumerate() {
            marks.extend(group.iter().map(|_| writer.durable_up_to()));
            frames.extend(append_group(&mut writer, group));
            // Group 0 is synced only together with group 1; groups 3 and 4 never are.
            if i == 1 || i == 2 {
                writer.note_synced(writer.end().offset);
            }
        }
        let end = writer.end();
        Self {
            bytes: file.bytes(),
            frames,
            marks,
            end,
        }
    }

    /// Where each frame ends.
    pub(crate) fn ends(&self) -> Vec<u64> {
        let starts = self.frames.iter().skip(1).map(|frame| frame.offset);
        starts.chain([self.end.offset]).collect()
    }

    /// The frame that holds the byte at `offset`, if one does.
    pub(crate) fn frame_at(&self, offset: u64) -> Option<usize> {
        if offset < HEADER_LEN as u64 {
            return None;
        }
        self.ends().iter().position(|&end| offset < end)
    }
}

/// The outcome of opening and replaying some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    NeverUsed,
    End(ReplayEnd),
    Corruption(u64),
    Incompatible,
}

impl From<WalError> for Outcome {
    fn from(error: WalError) -> Self {
        match error {
            WalError::Corruption { offset, .. } => Self::Corruption(offset),
            WalError::Incompatible { .. } => Self::Incompatible,
            WalError::Io { source, .. } => panic!("{source}"),
        }
    }
}

/// Opens a log and replays it, as recovery would.
pub(crate) fn recover(file: &MemFile, expect: Expect) -> (Vec<Written>, Outcome) {
    let mut frames = Vec::new();
    let header = match read_header(file, LogKind::Writes) {
        Ok(HeaderState::Valid(header)) => header,
        Ok(HeaderState::NeverUsed) => return (frames, Outcome::NeverUsed),
        Err(error) => return (frames, error.into()),
    };
    let end = replay(file, &header, expect, |frame| {
        frames.push(frame.into());
        Ok::<_, Infallible>(())
    });
    let outcome = match end {
        Ok(end) => Outcome::End(end),
        Err(ReplayError::Log(error)) => error.into(),
        Err(ReplayError::Visitor(never)) => match never {},
    };
    (frames, outcome)
}

pub(crate) fn recover_bytes(bytes: Vec<u8>, expect: Expect) -> (Vec<Written>, Outcome) {
    recover(&MemFile::holding(bytes), expect)
}
