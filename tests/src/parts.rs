//! What benchmarks of parts are made of: seeded rows, a log in memory, databases
//! that do nothing by themselves.
//!
//! Invariants: everything is a function of its arguments; nothing here is measured
//! by itself. Must not know: who measures, and how.

use std::io;
use std::path::Path;
use std::sync::Mutex;

use esker::{
    Background, Collection, CollectionOptions, Db, GraphOptions, MapMode, Metric, Options,
};
use esker_wal::{FrameBuf, LogFile, LogHeader, LogKind, LogNumber, LogWriter, SequencedFrame};

use crate::load::{put, unit};
use crate::rng::Rng;

/// The only collection of a database that is made here.
pub const COLLECTION: &str = "rows";

/// Vectors around some centres, as real ones lie: in a cloud that is even everywhere
/// each row is about as far as every other.
#[must_use]
pub fn clustered(seed: u64, count: usize, dimension: usize) -> Vec<Vec<f32>> {
    const CENTRES: u64 = 64;
    let point = |rng: &mut Rng, scale: f32| -> Vec<f32> {
        let centred = |rng: &mut Rng| (unit(rng) - 0.5) * scale;
        (0..dimension).map(|_| centred(rng)).collect()
    };
    // The centres are the same for every seed, so that queries lie among the rows.
    let mut rng = Rng::new(0);
    let centres: Vec<_> = (0..CENTRES).map(|_| point(&mut rng, 2.0)).collect();
    let mut rng = Rng::new(seed);
    let row = |_| {
        let centre = &centres[rng.below(CENTRES) as usize];
        let offset = point(&mut rng, 1.0);
        centre.iter().zip(offset).map(|(a, b)| a + b).collect()
    };
    (0..count).map(row).collect()
}

/// The squared distance as anybody would write it.
#[must_use]
pub fn naive_l2(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}

/// Settings of a database that works in the caller's thread only. A segment of
/// `graph_rows` rows has a graph.
#[must_use]
pub fn options(graph_rows: u32) -> Options {
    Options::new()
        .background(Background::Manual)
        .auto_compact(false)
        .build_threads(1)
        .graph(GraphOptions::new().min_rows(graph_rows))
        // Not as the environment says.
        .map_mode(MapMode::Mmap)
}

/// A new database with an empty collection under squared L2.
#[must_use]
pub fn create(dir: &Path, options: Options, dimension: usize) -> (Db, Collection) {
    let db = Db::open(dir, options).unwrap();
    let shape = CollectionOptions::new(dimension as u32, Metric::L2);
    let collection = db.create_collection(COLLECTION, shape).unwrap();
    (db, collection)
}

/// Puts rows under the keys from `first` on.
pub fn put_all(db: &Db, collection: &Collection, first: u64, rows: &[Vec<f32>]) {
    put(
        db,
        collection,
        (first..).zip(rows.iter().map(Vec::as_slice)),
    )
    .unwrap();
}

/// A log file in memory.
#[derive(Default)]
pub struct MemoryFile(Mutex<Vec<u8>>);

impl LogFile for MemoryFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.0.lock().unwrap();
        let end = offset as usize + bytes.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = self.0.lock().unwrap();
        let rest = file.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }
}

/// A log that frames are appended to, one at a time.
pub struct Log<F: LogFile> {
    writer: LogWriter<F>,
    seqno: u64,
}

impl<F: LogFile> Log<F> {
    /// Begins a log in an empty file.
    pub fn new(file: F) -> Self {
        let header = LogHeader {
            number: LogNumber(1),
            file_id: *b"a log of a bench",
            kind: LogKind::Writes,
            predecessor: None,
        };
        let writer = LogWriter::create(file, &header).unwrap();
        Self { writer, seqno: 1 }
    }

    /// Builds a frame around a payload and appends it.
    pub fn append(&mut self, payload: &[u8]) {
        let mut buf = FrameBuf::new(1);
        buf.extend_from_slice(payload);
        buf.seal();
        let frame = SequencedFrame {
            buf: &mut buf,
            first_seqno: self.seqno,
            seqno_count: 1,
        };
        self.writer.append(&mut [frame]).unwrap();
        self.seqno += 1;
    }

    /// Bytes from the start of the file to the end of the last frame.
    #[expect(clippy::len_without_is_empty, reason = "there is always a header")]
    pub fn len(&self) -> u64 {
        self.writer.end().offset
    }

    /// The file below.
    pub fn file(&self) -> &F {
        self.writer.file()
    }
}
