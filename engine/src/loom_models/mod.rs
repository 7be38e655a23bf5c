//! Models of the engine's protocols: every interleaving of two or three threads, up
//! to three preemptions, on the engine's own types.
//!
//! Owns what the models share: the bound, segments in memory, a directory that only
//! remembers which names were removed. Run with
//! `RUSTFLAGS="--cfg loom" cargo test --release -p esker --lib loom_models`.
//! Must not know: files, the manifest, real threads.

mod claims;
mod merge_commit;
mod poison;
mod publication;
mod unlink;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use esker_segment::{
    Bytes, CodeKind, CollectionId, Expected, Key, Memory, Metric, Row, RowSource, Segment,
    SegmentError, SegmentId, SegmentParams, SeqNo, Source, write_segment,
};

use crate::env::{Storage, StorageFile, StorageLock};
use crate::gc::{FilePin, Garbage};
use crate::manifest::SegmentMeta;
use crate::memory::MemoryBudget;
use crate::memtable::Memtable;
use crate::segment_file::{LiveSegment, Opened, SegmentFile};
use crate::sync::counter::AtomicU64;
use crate::sync::{Mutex, Ordering, PinArc};
use crate::view::{CollectionView, ReadView, Version};

const COLLECTION: CollectionId = CollectionId(1);

/// Runs `model` in every interleaving with at most three preemptions.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    let runs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&runs);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    // Of one run, most of them while memtables are dropped, where no thread waits.
    builder.max_branches = 5_000;
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let runs = runs.load(Ordering::Relaxed);
    println!("{runs} interleavings");
    assert!(runs > 10, "the threads of the model never meet");
}

/// Rows of a segment: keys, in order, with their SeqNos.
struct Rows(&'static [(&'static str, u64)]);

impl Rows {
    fn at(&self, row: Row) -> Result<(&'static str, u64), SegmentError> {
        let found = self.0.get(row.0 as usize).copied();
        found.ok_or_else(|| SegmentError::Invalid("no such row".into()))
    }
}

impl RowSource for Rows {
    fn rows(&self) -> u32 {
        self.0.len() as u32
    }
    fn key_order(&self) -> Option<&[u32]> {
        None
    }
    fn vector(&self, _: Row) -> Result<Cow<'_, [f32]>, SegmentError> {
        Ok(Cow::Borrowed(&[1.0]))
    }
    fn key(&self, row: Row) -> Result<Cow<'_, [u8]>, SegmentError> {
        Ok(Cow::Borrowed(self.at(row)?.0.as_bytes()))
    }
    fn seqno(&self, row: Row) -> Result<SeqNo, SegmentError> {
        Ok(SeqNo(self.at(row)?.1))
    }
    fn payload(&self, _: Row) -> Result<Option<Cow<'_, [u8]>>, SegmentError> {
        Ok(None)
    }
}

/// A segment's file, written once for all runs of a model: no lock is in it.
struct Image {
    id: u64,
    rows: Rows,
    written: OnceLock<(Bytes, Expected, SegmentMeta)>,
}

impl Image {
    const fn new(id: u64, rows: &'static [(&'static str, u64)]) -> Self {
        Self {
            id,
            rows: Rows(rows),
            written: OnceLock::new(),
        }
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("{}.segment", self.id))
    }

    /// The segment, opened; nothing names it yet.
    fn open(&self, garbage: &Arc<Garbage>) -> SegmentFile {
        let (bytes, expected, meta) = self.written.get_or_init(|| self.write());
        let source = Source::Memory(Memory::new(bytes.clone()));
        let opened = Opened {
            segment: Segment::open(source, expected).unwrap(),
            deleted: Arc::default(),
        };
        SegmentFile::open(opened, *meta, FilePin::new(self.path(), garbage))
    }

    fn write(&self) -> (Bytes, Expected, SegmentMeta) {
        let params = SegmentParams {
            id: SegmentId(self.id),
            collection: COLLECTION,
            file_id: Default::default(),
            dimension: 1,
            metric: Metric::L2,
            codes: Some(CodeKind::default()),
        };
        let mut out = Vec::new();
        let summary = write_segment(&self.rows, &params, None, &mut out).unwrap();
        let meta = SegmentMeta {
            id: params.id,
            file_id: params.file_id,
            len: summary.len,
            hash: summary.hash,
            rows: summary.rows,
            min_seqno: summary.min_seqno,
            max_seqno: summary.max_seqno,
        };
        let expected = Expected::new(&params, &summary);
        (Bytes::from_vec(out), expected, meta)
    }
}

/// The live row of a key in one segment, by its SeqNo.
fn live_in(segment: &LiveSegment, key: &Key) -> Option<u64> {
    let segment = segment.read().unwrap();
    let row = segment.segment.find(key).unwrap()?;
    let live = segment.is_live(row);
    live.then(|| segment.segment.seqno(row).unwrap().0)
}

/// The live rows of a key in all segments of a collection.
fn live_rows(view: &CollectionView, key: &Key) -> Vec<u64> {
    let segments = view.version.segments.iter();
    segments.filter_map(|s| live_in(s, key)).collect()
}

/// A view of one collection, with one segment or none.
fn view_of(segment: Option<SegmentFile>) -> ReadView {
    let budget = MemoryBudget::new(1 << 20);
    let active = PinArc::new(Memtable::new(1, Metric::L2, budget.charge(0)));
    let collection = CollectionView {
        active,
        frozen: Vec::new(),
        version: Arc::new(Version::default().with(&[], segment, BTreeMap::new())),
    };
    ReadView {
        collections: BTreeMap::from([(COLLECTION, collection)]),
    }
}

/// A directory in which names are removed.
#[derive(Default)]
struct Directory {
    removed: Mutex<Vec<PathBuf>>,
}

impl Directory {
    fn removals_of(&self, image: &Image) -> usize {
        let removed = self.removed.lock();
        removed.iter().filter(|path| **path == image.path()).count()
    }
}

fn unused<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Storage for Directory {
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.removed.lock().push(path.to_owned());
        Ok(())
    }
    fn create(&self, _: &Path) -> io::Result<Arc<dyn StorageFile>> {
        unused()
    }
    fn open(&self, _: &Path) -> io::Result<Arc<dyn StorageFile>> {
        unused()
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        unused()
    }
    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        unused()
    }
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        unused()
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        unused()
    }
    fn lock(&self, _: &Path) -> io::Result<Box<dyn StorageLock>> {
        unused()
    }
    fn available_space(&self, _: &Path) -> io::Result<Option<u64>> {
        unused()
    }
}
