//! Any bytes as a log file.
//!
//! Owns the check of `esker_wal`'s reading half. Every frame that replay shows is
//! encoded again from the format's table and compared with the file; every
//! verdict is compared with what else replay says of the same bytes.

use std::convert::Infallible;
use std::io;
use std::sync::Mutex;

use esker_wal::{
    Expect, Frame, FrameBuf, HeaderState, LogEnd, LogFile, LogHeader, LogKind, LogWriter,
    ReplayEnd, ReplayError, SequencedFrame, WalError, read_header, replay,
};

use crate::forge::{self, FRAME_HEADER, LOG_HEADER, u64_at};
use crate::heap;

/// Heap that a replay may take beside twice its file.
const REPLAY_HEAP: u64 = 1 << 20;

/// Checks `input` as it is, and again with its CRCs put right.
pub fn log_replay(input: &[u8]) {
    look(input);
    let mut forged = input.to_vec();
    if forge::log(&mut forged).is_some() && forged != input {
        look(&forged);
    }
}

fn look(bytes: &[u8]) {
    for kind in [LogKind::Writes, LogKind::Manifest] {
        if let Ok(HeaderState::Valid(header)) = read_header(&File::new(bytes), kind) {
            assert_eq!(header.kind, kind);
            look_at_frames(bytes, &header);
        }
    }
}

fn look_at_frames(bytes: &[u8], header: &LogHeader) {
    let (found, verdict) = read(bytes, header, Expect::Newest);
    let end = found.end();
    match verdict {
        Ok(ReplayEnd::Clean(at)) => {
            assert_eq!(at, end);
            assert!(bytes[end.offset as usize..].iter().all(|byte| *byte == 0));
        }
        Ok(ReplayEnd::TornTail {
            end: at,
            dropped_bytes,
        }) => {
            assert_eq!(at, end);
            let rest = &bytes[end.offset as usize..];
            let last = rest.iter().rposition(|byte| *byte != 0);
            assert_eq!(last.map(|last| last as u64 + 1), Some(dropped_bytes));
        }
        Err(WalError::Corruption { offset, .. }) => assert_eq!(offset, end.offset),
        Err(error) => panic!("a file in memory was answered with {error}"),
    }
    // Without what is behind its last frame the log is whole.
    let whole = &bytes[..end.offset as usize];
    let (again, verdict) = read(whole, header, Expect::Newest);
    assert!(matches!(verdict, Ok(ReplayEnd::Clean(at)) if at == end));
    assert_eq!(again.ends, found.ends);
    // It may be said to end at any of its frames, and nowhere else.
    let mut some = vec![0, found.ends.len() / 2, found.ends.len() - 1];
    some.dedup();
    for n in some {
        let end = found.ends[n];
        let (part, verdict) = read(bytes, header, Expect::Ends(end));
        assert!(matches!(verdict, Ok(ReplayEnd::Clean(at)) if at == end));
        assert_eq!(part.ends, found.ends[..=n]);
        for (offset, chain_crc) in [
            (end.offset, end.chain_crc ^ 1),
            (end.offset - 8, end.chain_crc),
            (end.offset + 8, end.chain_crc),
        ] {
            let end = LogEnd { offset, chain_crc };
            let (_, verdict) = read(bytes, header, Expect::Ends(end));
            assert!(matches!(verdict, Err(WalError::Corruption { .. })));
        }
    }
    if found.canonical {
        assert!(
            written_again(whole, header) == whole,
            "the writer writes other bytes"
        );
    }
}

/// Replays, checking each frame.
fn read<'a>(
    bytes: &'a [u8],
    header: &LogHeader,
    expect: Expect,
) -> (Found<'a>, Result<ReplayEnd, WalError>) {
    let mut found = Found::new(bytes);
    let file = File::new(bytes);
    let verdict = heap::bounded(bytes.len() as u64, REPLAY_HEAP, || {
        replay(&file, header, expect, |frame| {
            found.check(&frame);
            Ok::<_, Infallible>(())
        })
    });
    let verdict = verdict.map_err(|error| match error {
        ReplayError::Log(error) => error,
        ReplayError::Visitor(never) => match never {},
    });
    (found, verdict)
}

/// What was shown of a file.
struct Found<'a> {
    bytes: &'a [u8],
    /// The end of the header, and of each frame.
    ends: Vec<LogEnd>,
    next_seqno: u64,
    mark: u64,
    /// Whether a writer of this release could have written it.
    canonical: bool,
}

impl<'a> Found<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let head = &bytes[..LOG_HEADER];
        let crc = crc32fast::hash(&head[..124]);
        assert_eq!(head[124..], crc.to_le_bytes());
        let no_predecessor = u64_at(head, 64) == 0;
        let unused = if no_predecessor { 64..124 } else { 84..124 };
        Self {
            bytes,
            ends: vec![LogEnd {
                offset: LOG_HEADER as u64,
                chain_crc: crc,
            }],
            next_seqno: 0,
            mark: LOG_HEADER as u64,
            canonical: head[8..12] == 1_u32.to_le_bytes()
                && head[12..40]
                    .iter()
                    .chain(&head[unused])
                    .all(|byte| *byte == 0),
        }
    }

    fn end(&self) -> LogEnd {
        *self.ends.last().expect("the header's end at least")
    }

    /// The frame lies right behind the one before and is, bit for bit, what
    /// encoding it gives; bytes without a meaning are taken from the file.
    fn check(&mut self, frame: &Frame<'_>) {
        let end = self.end();
        assert_eq!(frame.offset, end.offset);
        assert!(frame.first_seqno >= self.next_seqno);
        let (head, body) = self.bytes[frame.offset as usize..].split_at(FRAME_HEADER);
        let body = &body[..frame.payload.len().next_multiple_of(8)];
        assert_eq!(&body[..frame.payload.len()], frame.payload);
        let mark = u64_at(head, 40);
        assert!((LOG_HEADER as u64..=frame.offset).contains(&mark));
        let mut encoded = Vec::with_capacity(FRAME_HEADER);
        encoded.extend(b"EFRM");
        encoded.push(frame.kind);
        encoded.extend(&head[5..8]);
        encoded.extend((frame.payload.len() as u32).to_le_bytes());
        encoded.extend(frame.seqno_count.to_le_bytes());
        encoded.extend(&self.bytes[48..56]);
        encoded.extend(frame.offset.to_le_bytes());
        encoded.extend(frame.first_seqno.to_le_bytes());
        encoded.extend(mark.to_le_bytes());
        encoded.extend(end.chain_crc.to_le_bytes());
        encoded.extend(crc32fast::hash(body).to_le_bytes());
        encoded.extend(&head[56..60]);
        let crc = crc32fast::hash(&encoded);
        encoded.extend(crc.to_le_bytes());
        assert_eq!(encoded, head);
        let mut unused = head[5..8]
            .iter()
            .chain(&head[56..60])
            .chain(&body[frame.payload.len()..]);
        self.canonical &= unused.all(|byte| *byte == 0) && mark >= self.mark;
        self.mark = mark;
        self.next_seqno = frame
            .first_seqno
            .checked_add(u64::from(frame.seqno_count))
            .expect("no SeqNo beyond the last is shown");
        self.ends.push(LogEnd {
            offset: frame.offset + (FRAME_HEADER + body.len()) as u64,
            chain_crc: crc,
        });
    }
}

/// The same log, written by the crate itself.
fn written_again(bytes: &[u8], header: &LogHeader) -> Vec<u8> {
    let file = File::new(&[]);
    let mut writer = LogWriter::create(&file, header).expect("memory takes a header");
    let end = replay(&File::new(bytes), header, Expect::Newest, |frame| {
        writer.note_synced(u64_at(bytes, frame.offset as usize + 40));
        let mut buf = FrameBuf::new(frame.kind);
        buf.extend_from_slice(frame.payload);
        writer.append(&mut [SequencedFrame {
            buf: &mut buf,
            first_seqno: frame.first_seqno,
            seqno_count: frame.seqno_count,
        }])
    });
    assert!(matches!(end, Ok(ReplayEnd::Clean(end)) if end == writer.end()));
    drop(writer);
    file.0.into_inner().expect("nobody panicked")
}

/// A log file in memory.
struct File(Mutex<Vec<u8>>);

impl File {
    fn new(bytes: &[u8]) -> Self {
        Self(Mutex::new(bytes.to_vec()))
    }
}

impl LogFile for File {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.0.lock().expect("nobody panicked");
        let end = offset as usize + bytes.len();
        let len = file.len().max(end);
        file.resize(len, 0);
        forge::put(&mut file, offset as usize, bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = self.0.lock().expect("nobody panicked");
        let from = file.get(offset as usize..).unwrap_or_default();
        let len = from.len().min(buf.len());
        buf[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().expect("nobody panicked").len() as u64)
    }
}
