//! Lessons on files beyond four gigabytes.
//!
//! Owns lesson 16. The files are all holes: they say that they are large, and take
//! neither disk nor memory.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use esker::env::Env;
use esker::{Background, Db, Error, MapMode, Options};
use esker_segment::{
    BlockCache, CodeKind, CollectionId, Expected, FileId, Metric, Paged, ReadAt, Row, RowSource,
    Segment, SegmentError, SegmentId, SegmentParams, SeqNo, write_segment,
};
use esker_wal::{
    Expect, FRAME_HEADER_LEN, FrameBuf, HeaderState, LogFile, LogHeader, LogKind, LogNumber,
    LogWriter, MAX_PAYLOAD, ReplayError, SequencedFrame, WalError, read_header, replay,
};

use crate::allocations;
use crate::support::collection;

const FOUR_GIB: u64 = 4 << 30;
const PAGE: usize = 4 << 10;
static ZEROS: [u8; PAGE] = [0; PAGE];

/// A file of zeros but for a few pages.
#[derive(Clone, Default)]
struct Holes(Arc<Mutex<Inside>>);

#[derive(Default)]
struct Inside {
    len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl Holes {
    fn put(&self, mut offset: u64, mut bytes: &[u8]) {
        let inside = &mut *self.0.lock().expect("whole");
        while !bytes.is_empty() {
            let at = offset as usize % PAGE;
            let (now, rest) = bytes.split_at(bytes.len().min(PAGE - at));
            let number = offset / PAGE as u64;
            if *now != ZEROS[..now.len()] || inside.pages.contains_key(&number) {
                let page = inside.pages.entry(number).or_insert(Box::new(ZEROS));
                page[at..at + now.len()].copy_from_slice(now);
            }
            (offset, bytes) = (offset + now.len() as u64, rest);
            inside.len = inside.len.max(offset);
        }
    }

    fn get(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let inside = self.0.lock().expect("whole");
        let len = inside.len.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..len];
        buffer.fill(0);
        let first = offset / PAGE as u64;
        let last = (offset + len as u64).div_ceil(PAGE as u64);
        for (number, page) in inside.pages.range(first..last) {
            let start = number * PAGE as u64;
            let skip = offset.saturating_sub(start) as usize;
            let at = start.saturating_sub(offset) as usize;
            let n = (PAGE - skip).min(len - at);
            buffer[at..at + n].copy_from_slice(&page[skip..skip + n]);
        }
        len
    }
}

impl LogFile for Holes {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.put(offset, bytes);
        Ok(())
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.get(offset, buffer))
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().expect("whole").len)
    }
}

impl ReadAt for Holes {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.get(offset, buffer))
    }
}

impl Write for Holes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let end = self.0.lock().expect("whole").len;
        self.put(end, bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// redb #515, #516: offsets beyond four gigabytes were cut to 32 bits.
#[test]
fn lesson_16_redb_515_a_log_goes_on_beyond_four_gigabytes() {
    let header = LogHeader {
        number: LogNumber(1),
        file_id: [16; 16],
        kind: LogKind::Writes,
        predecessor: None,
    };
    let file = Holes::default();
    let mut writer = LogWriter::create(file.clone(), &header).expect("made");
    let mut large = FrameBuf::new(1);
    large.extend_from_slice(&vec![0; MAX_PAYLOAD]);
    let mut seqno = 0;
    let mut ends = Vec::new();
    let mut append = |buf: &mut FrameBuf| {
        seqno += 1;
        let frame = SequencedFrame {
            buf,
            first_seqno: seqno,
            seqno_count: 1,
        };
        writer.append(&mut [frame]).expect("appended");
        let end = writer.end();
        writer.note_synced(end.offset);
        ends.push(end);
    };
    while ends_beyond(&file) < FOUR_GIB {
        append(&mut large);
    }
    for n in 0..4_u8 {
        let mut small = FrameBuf::new(1);
        small.extend_from_slice(&[n; 9]);
        append(&mut small);
    }
    // The last frame but one is damaged: it is shown to be behind the border by what
    // is said of it, and all before it by being read.
    let damage = ends[ends.len() - 3].offset;
    file.put(damage + FRAME_HEADER_LEN as u64, &[0xAA]);
    let header = match read_header(&file, LogKind::Writes).expect("a log") {
        HeaderState::Valid(header) => header,
        HeaderState::NeverUsed => panic!("it was"),
    };
    let mut frames = Vec::new();
    let replayed = replay(&file, &header, Expect::Newest, |frame| {
        let payload = frame.payload.get(..9).map(<[u8]>::to_vec);
        frames.push((frame.offset, frame.first_seqno, payload));
        Ok::<_, Infallible>(())
    });
    let Err(ReplayError::Log(WalError::Corruption { offset, .. })) = replayed else {
        panic!("{replayed:?}");
    };
    assert!(offset == damage && damage > FOUR_GIB, "{offset}");
    assert_eq!(frames.len(), ends.len() - 2);
    for (n, (frame, end)) in frames.iter().skip(1).zip(&ends).enumerate() {
        assert_eq!((frame.0, frame.1), (end.offset, n as u64 + 2));
    }
    let behind = frames.iter().filter(|frame| frame.0 > FOUR_GIB);
    let payloads: Vec<_> = behind.filter_map(|frame| frame.2.clone()).collect();
    assert_eq!(payloads, [vec![0; 9], vec![1; 9]]);
}

fn ends_beyond(file: &Holes) -> u64 {
    LogFile::len(file).expect("it has one")
}

const PAYLOAD: usize = 16 << 20;
const ROWS: u32 = 260;

/// Rows whose payloads are zeros but for a number at either end.
struct Heavy(Vec<u8>);

impl Heavy {
    fn payload_of(row: Row) -> Vec<u8> {
        let mut payload = vec![0; PAYLOAD];
        payload[..4].copy_from_slice(&row.0.to_le_bytes());
        payload[PAYLOAD - 4..].copy_from_slice(&row.0.to_le_bytes());
        payload
    }
}

impl RowSource for Heavy {
    fn rows(&self) -> u32 {
        ROWS
    }
    fn key_order(&self) -> Option<&[u32]> {
        None
    }
    fn vector(&self, row: Row) -> Result<Cow<'_, [f32]>, SegmentError> {
        Ok(Cow::Owned(vec![row.0 as f32, 1.0]))
    }
    fn key(&self, row: Row) -> Result<Cow<'_, [u8]>, SegmentError> {
        Ok(Cow::Owned(row.0.to_be_bytes().to_vec()))
    }
    fn seqno(&self, row: Row) -> Result<SeqNo, SegmentError> {
        Ok(SeqNo(u64::from(row.0) + 1))
    }
    fn payload_len(&self, _: Row) -> Result<Option<u64>, SegmentError> {
        Ok(Some(PAYLOAD as u64))
    }
    fn payload(&self, row: Row) -> Result<Option<Cow<'_, [u8]>>, SegmentError> {
        // Most are the same memory, which is faster to hash than to fill.
        Ok(Some(match row.0 {
            0 | 100 | 254.. => Cow::Owned(Self::payload_of(row)),
            _ => Cow::Borrowed(&self.0),
        }))
    }
}

/// As above for a segment: its payloads, and every section behind them.
#[test]
fn lesson_16_redb_515_a_segment_goes_on_beyond_four_gigabytes() {
    let params = SegmentParams {
        id: SegmentId(1),
        collection: CollectionId(1),
        file_id: FileId([16; 16]),
        dimension: 2,
        metric: Metric::L2,
        codes: Some(CodeKind::default()),
    };
    let mut file = Holes::default();
    let rows = Heavy(vec![0; PAYLOAD]);
    let summary = write_segment(&rows, &params, None, &mut file).expect("written");
    assert!(summary.len > FOUR_GIB, "{}", summary.len);
    let expected = Expected {
        file_id: params.file_id,
        id: params.id,
        collection: params.collection,
        dimension: 2,
        metric: params.metric,
        len: summary.len,
        hash: summary.hash,
        rows: ROWS,
    };
    let open = || {
        let cache = BlockCache::new(1 << 20);
        Segment::open(Paged::new(file.clone(), summary.len, cache), &expected)
    };
    let segment = open().expect("opens");
    for row in [0, 100, 254, 255, 256, 259].map(Row) {
        let key = segment.key(row).expect("reads");
        assert_eq!(*key, row.0.to_be_bytes());
        assert_eq!(segment.find(&key).expect("reads"), Some(row));
        assert_eq!(segment.seqno(row).expect("reads").0, u64::from(row.0) + 1);
        assert_eq!(
            segment.vector(row).expect("reads").to_vec(),
            [row.0 as f32, 1.0]
        );
        let payload = segment.payload(row).expect("reads").expect("has one");
        assert!(payload.to_vec() == Heavy::payload_of(row), "{}", row.0);
    }
    // Damage behind the border is found, and where it is.
    file.put(summary.len - FOUR_GIB / 256, &[1]);
    let broken = open().expect("nobody looked yet");
    let error = broken.payload(Row(259)).err();
    let Some(SegmentError::Corruption { offset, .. }) = error else {
        panic!("{error:?}");
    };
    assert!(offset > FOUR_GIB, "{offset}");
}

/// As above for a database on a real disk: any of its files says that it is larger
/// than four gigabytes. It is refused or read, but not taken into memory.
#[test]
fn lesson_16_redb_515_a_file_that_says_it_is_huge_is_not_read_into_memory() {
    for map_mode in [MapMode::Mmap, MapMode::Pread] {
        let dir = in_memory();
        let env = esker::env::StdEnv::new();
        let options = || {
            Options::new()
                .background(Background::Manual)
                .memory_budget(1 << 20)
                .memtable_bytes(64 << 10)
                .map_mode(map_mode)
        };
        let db = Db::open(dir.path(), options()).expect("opens");
        let rows = collection(&db, "rows");
        for round in 0..2_u64 {
            for key in 0..9 - round {
                rows.put(key, &[1.0 + key as f32; 4]).expect("written");
            }
            db.flush().expect("flushes");
        }
        rows.put(100_u64, &[1.0; 4]).expect("written");
        // Without a seal a log's end is looked for, which takes seconds.
        for killed in [map_mode == MapMode::Mmap, false] {
            if !killed {
                db.close().expect("closes");
            }
            let mut refused = Vec::new();
            for name in env.storage().list(dir.path()).expect("lists") {
                let copy = copied(dir.path());
                let path = copy.path().join(&name);
                let file = std::fs::File::options().write(true).open(&path);
                file.expect("opens")
                    .set_len(FOUR_GIB + PAGE as u64)
                    .expect("sparse");
                let (opened, peak) = allocations::peak(|| Db::open(copy.path(), options()));
                assert!(peak < 8 << 20, "{name}: {peak} bytes");
                match opened {
                    Ok(db) => {
                        let rows = collection(&db, "rows");
                        assert_eq!(rows.len().expect("counts"), 10, "{name}");
                    }
                    Err(Error::Corruption { file, .. }) => {
                        assert_eq!(file, path);
                        refused.push(name);
                    }
                    Err(other) => panic!("{name}: {other}"),
                }
            }
            // `CURRENT` and both segments; what has an end of its own may go on.
            assert!(refused.len() >= 3, "{refused:?}");
        }
    }
}

/// A directory where holes cost nothing, if there is one.
fn in_memory() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    dir.expect("dir")
}

/// A copy of a database, as a killed process would leave it.
fn copied(from: &std::path::Path) -> tempfile::TempDir {
    let to = in_memory();
    for entry in std::fs::read_dir(from).expect("lists") {
        let entry = entry.expect("reads");
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).expect("copied");
    }
    to
}

/// redb #888: a repair panicked on bad pages. `verify` lists them, reads answer or
/// say so, and nothing panics.
#[test]
fn lesson_16_redb_888_a_check_of_bad_pages_is_a_list() {
    use crate::support::{Bench, DIR, SMALL, files, machine, put_of};
    let mut bench = Bench::new(888, SMALL, &["rows"]);
    let rows: Vec<_> = (0..30).map(|key| put_of("rows", key, 1, 90)).collect();
    bench.sync(&rows);
    bench.flush();
    bench.db.close().expect("closes");
    let whole = files(&bench.env);
    let segment = whole.iter().position(|f| f.0.ends_with(".segment"));
    let segment = segment.expect("there is one");
    let mut found = 0;
    for at in (0..whole[segment].1.len()).step_by(509) {
        let mut files = whole.clone();
        files[segment].1[at] ^= 0x10;
        let env = machine(&files);
        // Lengths, header and footer are looked at by the open itself.
        let Ok(db) = Db::open(DIR, SMALL.options(&env)) else {
            continue;
        };
        let report = db.verify().expect("it is open");
        assert!(
            matches!(report.problems[..], [Error::Corruption { .. }]),
            "byte {at}: {:?}",
            report.problems
        );
        let compacted = db.compact();
        let rows = collection(&db, "rows");
        let read = rows.scan(..).expect("begins").count();
        assert!(read > 0 || compacted.is_err());
        found += 1;
    }
    assert!(found > 12, "{found}");
}
