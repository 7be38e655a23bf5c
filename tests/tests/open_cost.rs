//! Opening after a clean close reads headers, footers and tables, not rows.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use esker::env::{Clock, Entropy, Env, StdEnv, Storage, StorageFile, StorageLock};
use esker::{
    Background, CollectionOptions, Db, Durability, GraphOptions, MapMode, Metric, Options,
    WriteBatch, WriteOptions,
};

const ROWS: u64 = 200_000;
const DIMENSION: u32 = 16;

fn options() -> Options {
    Options::new().background(Background::Manual)
}

fn load(dir: &Path) {
    // A graph is among what an open must not read; a poor one is built sooner.
    let graph = GraphOptions::new().max_degree(4).l_build(8);
    let db = Db::open(dir, Options::new().graph(graph)).expect("opens");
    let shape = CollectionOptions::new(DIMENSION, Metric::L2);
    let c = db.create_collection("c", shape).expect("made");
    for start in (0..ROWS).step_by(1_000) {
        let mut batch = WriteBatch::new();
        for i in start..start + 1_000 {
            let vector: Vec<f32> = (0..DIMENSION)
                .map(|d| ((i * 31 + u64::from(d) * 7) * 2_654_435_761 % 1_009) as f32)
                .collect();
            batch.put(&c, i, &vector).expect("valid");
        }
        db.write_with(batch, WriteOptions::new().durability(Durability::Os))
            .expect("written");
    }
    db.compact().expect("compacts");
    db.close().expect("closes");
}

/// The real storage, counting the bytes that are read from segment files.
#[derive(Debug, Default)]
struct Counting {
    inner: StdEnv,
    read: Arc<AtomicU64>,
}

impl Env for Counting {
    fn storage(&self) -> &dyn Storage {
        self
    }
    fn clock(&self) -> &dyn Clock {
        self.inner.clock()
    }
    fn entropy(&self) -> &dyn Entropy {
        self.inner.entropy()
    }
}

impl Storage for Counting {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.inner.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.inner.open(path)?;
        let is_segment = path
            .extension()
            .is_some_and(|extension| extension == "segment");
        let read = Arc::clone(&self.read);
        Ok(if is_segment {
            Arc::new(CountingFile { file, read })
        } else {
            file
        })
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.inner.lock(path)
    }
    fn available_space(&self, dir: &Path) -> io::Result<Option<u64>> {
        self.inner.available_space(dir)
    }
}

struct CountingFile {
    file: Arc<dyn StorageFile>,
    read: Arc<AtomicU64>,
}

impl StorageFile for CountingFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(offset, buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn map(&self) -> io::Result<esker_segment::Bytes> {
        self.file.map()
    }
}

#[test]
fn an_open_touches_tables_only() {
    let dir = tempfile::tempdir().expect("dir");
    load(dir.path());

    let db = Db::open(dir.path(), options().map_mode(MapMode::Mmap)).expect("opens");
    let stats = db.stats();
    assert_eq!((stats.segments, stats.segment_rows), (1, ROWS));
    assert!(
        stats.blocks_verified * 50 < stats.blocks,
        "opening touched {} of {} blocks",
        stats.blocks_verified,
        stats.blocks
    );
    let c = db.collection("c").expect("there");
    assert_eq!(
        c.len().expect("counts"),
        ROWS,
        "counting flushed rows touches nothing"
    );
    assert_eq!(db.stats().blocks_verified, stats.blocks_verified);
    assert!(c.get(ROWS / 2).expect("reads").is_some());
    assert!(
        db.stats().blocks_verified > stats.blocks_verified,
        "the bitmap is alive"
    );
    drop((c, db));

    let env = Counting::default();
    let read = Arc::clone(&env.read);
    let paged = options().map_mode(MapMode::Pread).env(Arc::new(env));
    let db = Db::open(dir.path(), paged).expect("opens");
    let opened = read.load(Ordering::Relaxed);
    let size = db.stats().segment_bytes;
    assert!(opened * 20 < size, "opening read {opened} of {size} bytes");
    assert!(
        db.collection("c")
            .expect("there")
            .get(ROWS / 2)
            .expect("reads")
            .is_some()
    );
    let found = read.load(Ordering::Relaxed) - opened;
    assert!(found <= 16 * 4_096, "a get read {found} bytes");
}
