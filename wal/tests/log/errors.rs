//! What errors say, and what is passed through to a file.

use std::error::Error;
use std::io;
use std::sync::Arc;

use esker_wal::{
    Expect, FrameBuf, HeaderState, LogEnd, LogFile, LogKind, LogWriter, ReplayEnd, ReplayError,
    SequencedFrame, WalError, read_header, replay,
};

use crate::support::{MemFile, Sample, Written, frame, header};

#[test]
fn errors_say_what_and_where() {
    let io = WalError::Io {
        offset: 4_096,
        source: io::Error::other("a bad sector"),
    };
    assert_eq!(
        io.to_string(),
        "reading the log at offset 4096 failed: a bad sector"
    );
    assert_eq!(io.source().unwrap().to_string(), "a bad sector");
    let corruption = WalError::Corruption {
        offset: 128,
        what: "there is no intact frame header",
    };
    assert_eq!(
        corruption.to_string(),
        "the log is damaged at offset 128: there is no intact frame header"
    );
    let what = "it has format version 9".to_owned();
    let incompatible = WalError::Incompatible { what };
    assert_eq!(
        incompatible.to_string(),
        "the log needs a newer release: it has format version 9"
    );
    assert!(corruption.source().is_none() && incompatible.source().is_none());
}

#[test]
fn a_replay_s_error_speaks_for_its_cause() {
    let log = ReplayError::<io::Error>::from(WalError::Corruption {
        offset: 8,
        what: "gone",
    });
    assert_eq!(log.to_string(), "the log is damaged at offset 8: gone");
    assert_eq!(log.source().unwrap().to_string(), log.to_string());
    let visitor = ReplayError::Visitor(io::Error::other("enough"));
    assert_eq!(visitor.to_string(), "enough");
    assert_eq!(visitor.source().unwrap().to_string(), "enough");
}

#[test]
fn a_frame_shows_its_size_and_not_its_payload() {
    let mut buf = FrameBuf::new(3);
    buf.reserve(6);
    buf.extend_from_slice(b"secret");
    buf.seal();
    let shown = format!("{buf:?}");
    assert!(shown.contains("kind: 3") && shown.contains("payload_len: 6"));
    assert!(!shown.contains("115"), "the payload's bytes: {shown}");
}

/// A shared file is a file: each call reaches the one below.
#[test]
fn a_log_in_a_shared_file() {
    let shared = Arc::new(MemFile::default());
    let mut writer = LogWriter::create(Arc::clone(&shared), &header()).unwrap();
    let mut buf = frame(1, b"one");
    let append = SequencedFrame {
        buf: &mut buf,
        first_seqno: 1,
        seqno_count: 1,
    };
    writer.append(&mut [append]).unwrap();
    writer.file().sync_data().unwrap();
    assert_eq!(writer.header(), &header());
    assert_eq!(writer.file().len().unwrap(), shared.bytes().len() as u64);
    let found = read_header(&shared, LogKind::Writes).unwrap();
    assert_eq!(found, HeaderState::Valid(header()));
    let mut frames: Vec<Written> = Vec::new();
    let end = replay(&shared, &header(), Expect::Newest, |frame| {
        frames.push(frame.into());
        Ok::<_, ()>(())
    });
    assert_eq!(end.unwrap(), ReplayEnd::Clean(writer.end()));
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].payload, b"one");
}

/// Says to be longer than it is, as a file does that is cut off while it is read.
struct Shorter(MemFile);

impl LogFile for Shorter {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len()? + (1 << 20))
    }
}

#[test]
fn a_log_that_becomes_shorter_while_it_is_read_ends_with_its_last_frame() {
    let sample = Sample::new();
    for (len, frames) in [
        (sample.bytes.len(), sample.frames.len()),
        (sample.frames[1].offset as usize, 1),
    ] {
        let file = Shorter(MemFile::holding(sample.bytes[..len].to_vec()));
        let mut seen = 0;
        let end = replay(&file, &header(), Expect::Newest, |_| {
            seen += 1;
            Ok::<_, ()>(())
        });
        let Ok(ReplayEnd::Clean(LogEnd { offset, .. })) = end else {
            panic!("{end:?}");
        };
        assert_eq!((offset, seen), (len as u64, frames));
    }
}
