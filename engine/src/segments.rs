//! Segment and deletion-vector files: making, opening, naming them.
//!
//! Owns how the engine reads segments ([`MapMode`]), what writing an output takes
//! ([`Outputs`]: an open has it as well as an open database), and that an output
//! is read back whole before anything names it. Invariant: what these functions
//! return is durable under its final name. Must not know: versions, commits, who
//! flushes or merges.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use esker_segment::deletion::{self, DeletionVector};
use esker_segment::memory::Meter;
use esker_segment::{
    BlockCache, CollectionId, Expected, FileId, GraphBuild, GraphMade, Memory, Metric, Paged,
    ReadAt, RowSource, Segment, SegmentId, SegmentParams, Source, write_segment,
};
use esker_wal::mutants::planted;

use crate::background::BuildThreads;
use crate::core::CollectionInfo;
use crate::cpu::CpuLimit;
use crate::dir::Directory;
use crate::env::{Env, StorageFile};
use crate::error::{Error, Result};
use crate::events::Job;
use crate::files::{FileName, OUTPUT_BUFFER, publish_file};
use crate::gc::{FilePin, Garbage};
use crate::log_file::FileHandle;
use crate::manifest::{CollectionMeta, DeletionMeta, Field, SegmentMeta, SegmentState};
use crate::options::{GraphOptions, MapMode, Options, VerifyOnOpen};
use crate::segment_file::{Opened, SegmentFile};
use crate::stats::Counters;
use crate::write::log::FileNumbers;

/// Blocks that a check keeps: a few leaves and rows of edges that it comes back to.
const CHECK_CACHE_BYTES: u64 = 1 << 20;

/// Opens segments in the way that the options ask for.
pub(crate) struct SegmentOpener {
    env: Arc<dyn Env>,
    dir: PathBuf,
    garbage: Arc<Garbage>,
    cache: Option<Arc<BlockCache>>,
}

impl SegmentOpener {
    pub(crate) fn new(options: &Options, dir: &Path, garbage: &Arc<Garbage>) -> Self {
        let cache = match options.map_mode {
            MapMode::Mmap => None,
            MapMode::Pread => Some(BlockCache::new(options.cache_limit() as u64)),
        };
        Self {
            env: Arc::clone(&options.env),
            dir: dir.to_owned(),
            garbage: Arc::clone(garbage),
            cache,
        }
    }

    /// Opens segments for checks of an open database: not through maps, where a page
    /// that the disk cannot give ends the process, and with next to no cache.
    pub(crate) fn for_checks(options: &Options, dir: &Path, garbage: &Arc<Garbage>) -> Self {
        Self {
            cache: Some(BlockCache::new(CHECK_CACHE_BYTES)),
            ..Self::new(options, dir, garbage)
        }
    }

    /// Bytes of the block cache that are used.
    pub(crate) fn cached_bytes(&self) -> u64 {
        self.cache.as_ref().map_or(0, |cache| cache.used_bytes())
    }

    /// Opens the file of a segment that the manifest names or is about to name.
    fn open(&self, rows: RowsOf, meta: &SegmentMeta) -> Result<Segment<Source>> {
        let path = FileName::Segment(meta.id.0).path(&self.dir);
        let file = open_named_file(&*self.env, &path, meta)?;
        let source = self.source_of(&path, file, meta.len)?;
        Segment::open(source, &rows.expected(meta)).map_err(|error| Error::in_segment(&path, error))
    }

    /// The bytes of a segment file, whatever they are.
    pub(crate) fn source(&self, path: &Path) -> Result<Source> {
        let file = self
            .env
            .storage()
            .open(path)
            .map_err(|error| Error::io(path, "opening", error))?;
        let len = file
            .len()
            .map_err(|error| Error::io(path, "reading", error))?;
        self.source_of(path, file, len)
    }

    fn source_of(&self, path: &Path, file: Arc<dyn StorageFile>, len: u64) -> Result<Source> {
        Ok(match &self.cache {
            None => {
                let bytes = file
                    .map()
                    .map_err(|error| Error::io(path, "mapping", error))?;
                Source::Memory(Memory::new(bytes))
            }
            Some(cache) => {
                let device: Arc<dyn ReadAt> = Arc::new(FileHandle(file));
                Source::Paged(Paged::new(device, len, Arc::clone(cache)))
            }
        })
    }

    /// A segment that the manifest names, looked at as the options ask for.
    pub(crate) fn open_named(
        self: &Arc<Self>,
        collection: &CollectionMeta,
        state: &SegmentState,
        verify: VerifyOnOpen,
    ) -> Result<SegmentFile> {
        let unopened = Unopened {
            opener: Arc::clone(self),
            rows: RowsOf::new(collection),
            deletions: state.deletions,
        };
        let path = FileName::Segment(state.meta.id.0).path(&self.dir);
        let pin = |path| {
            let pin = FilePin::new(path, &self.garbage);
            pin.mark_named();
            pin
        };
        if verify == VerifyOnOpen::None {
            return Ok(SegmentFile::at_first_use(unopened, state.meta, pin(path)));
        }
        let opened = unopened.open(&state.meta)?;
        if verify == VerifyOnOpen::Full && !planted("open.verify_full") {
            let verified = opened.segment.verify();
            verified.map_err(|error| Error::in_segment(&path, error))?;
        }
        Ok(SegmentFile::open(opened, state.meta, pin(path)))
    }
}

/// Opens the file of a segment that the manifest names, if it is there and as long as
/// it should be.
pub(crate) fn open_named_file(
    env: &dyn Env,
    path: &Path,
    meta: &SegmentMeta,
) -> Result<Arc<dyn StorageFile>> {
    let file = match env.storage().open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let what = "a segment of the manifest is missing";
            return Err(Error::corruption(path, 0, what));
        }
        other => other.map_err(|error| Error::io(path, "opening", error))?,
    };
    let len = file
        .len()
        .map_err(|error| Error::io(path, "reading", error))?;
    if len != meta.len {
        let what = format!("it has {len} bytes, the manifest says {}", meta.len);
        return Err(Error::corruption(path, len.min(meta.len), what));
    }
    Ok(file)
}

/// Whose rows a segment holds, and of which kind they are.
#[derive(Clone, Copy)]
pub(crate) struct RowsOf {
    collection: CollectionId,
    dimension: u32,
    metric: Metric,
}

impl RowsOf {
    pub(crate) fn new(collection: &CollectionMeta) -> Self {
        Self {
            collection: collection.id,
            dimension: collection.dimension,
            metric: collection.metric,
        }
    }

    /// What the manifest says of a segment of theirs.
    pub(crate) fn expected(self, meta: &SegmentMeta) -> Expected {
        Expected {
            file_id: meta.file_id,
            id: meta.id,
            collection: self.collection,
            dimension: self.dimension,
            metric: self.metric,
            len: meta.len,
            hash: meta.hash,
            rows: meta.rows,
        }
    }
}

/// What it takes to open a segment that the manifest names.
pub(crate) struct Unopened {
    opener: Arc<SegmentOpener>,
    rows: RowsOf,
    deletions: Option<DeletionMeta>,
}

impl Unopened {
    /// Opens the file and reads which of its rows are dead: without either nobody
    /// knows what the segment holds.
    pub(crate) fn open(&self, meta: &SegmentMeta) -> Result<Opened> {
        let opener = &self.opener;
        let segment = opener.open(self.rows, meta)?;
        let read = |at| read_deletions(&*opener.env, &opener.dir, meta, at);
        let deleted = self.deletions.as_ref().map(read).transpose()?;
        Ok(Opened {
            segment,
            deleted: Arc::new(deleted.unwrap_or_default()),
        })
    }
}

/// A segment that was written, and nothing names yet.
pub(crate) struct Written {
    pub(crate) file: SegmentFile,
    pub(crate) graph: Option<GraphMade>,
}

/// What writing a segment or deletion vectors takes.
pub(crate) struct Outputs {
    directory: Arc<Directory>,
    numbers: Arc<FileNumbers>,
    garbage: Arc<Garbage>,
    counters: Arc<Counters>,
    graph: GraphOptions,
    threads: BuildThreads,
    /// What flushes and merges may take of the processor.
    pub(crate) cpu: Arc<CpuLimit>,
    pub(crate) opener: Arc<SegmentOpener>,
    /// What flushes and merges hold now; they are given it with their rows.
    pub(crate) builds: Meter,
    /// One for each of them that is writing a segment with a graph.
    graph_builds: Meter,
}

impl Outputs {
    pub(crate) fn new(
        options: &Options,
        directory: &Arc<Directory>,
        numbers: &Arc<FileNumbers>,
        garbage: &Arc<Garbage>,
        counters: &Arc<Counters>,
    ) -> Self {
        let cpu = Arc::new(CpuLimit::new(options));
        Self {
            directory: Arc::clone(directory),
            numbers: Arc::clone(numbers),
            garbage: Arc::clone(garbage),
            counters: Arc::clone(counters),
            graph: options.graph,
            threads: BuildThreads::new(options, &cpu),
            cpu,
            opener: Arc::new(SegmentOpener::new(options, directory.path(), garbage)),
            builds: Meter::new(),
            graph_builds: Meter::new(),
        }
    }

    /// Writes `rows` as a segment file, with a graph if `with_graph` and they are
    /// many enough, and reads the whole of it back. `moved` is told of bytes as they are
    /// written, counts them, and may wait. `origin` names the file that
    /// reading a row failed in, if it was that.
    pub(crate) fn write_segment(
        &self,
        info: &CollectionInfo,
        rows: &impl RowSource,
        with_graph: bool,
        moved: &dyn Fn(u64),
        origin: impl Fn() -> Option<PathBuf>,
    ) -> Result<Written> {
        let id = SegmentId(self.numbers.take());
        let name = FileName::Segment(id.0);
        let path = name.path(self.directory.path());
        let file_id = self.fresh_file_id(&path)?;
        let params = SegmentParams {
            id,
            collection: info.id,
            file_id,
            dimension: info.dimension,
            metric: info.metric,
            codes: Some(info.codes),
        };
        let with_graph = with_graph && self.graph.wanted(u64::from(rows.rows()));
        let build = with_graph.then(|| GraphBuild {
            params: self.graph.params(id),
            executor: &self.threads,
        });
        let _builds = build.as_ref().map(|_| self.graph_builds.hold(1));
        let buffer = self.builds.hold(OUTPUT_BUFFER);
        let summary = publish_file(&self.directory, name, |out| {
            let mut out = Told { out, moved };
            write_segment(rows, &params, build.as_ref(), &mut out).map_err(|error| {
                Error::in_segment(&origin().unwrap_or_else(|| path.clone()), error)
            })
        })?;
        drop(buffer);
        if let Some(made) = summary.graph {
            self.counters.graph_built(made);
        }
        let meta = SegmentMeta {
            id,
            file_id,
            len: summary.len,
            hash: summary.hash,
            rows: summary.rows,
            min_seqno: summary.min_seqno,
            max_seqno: summary.max_seqno,
        };
        let rows = RowsOf {
            collection: info.id,
            dimension: info.dimension,
            metric: info.metric,
        };
        // Garbage until something names it.
        let pin = FilePin::new(path.clone(), &self.garbage);
        let read_back = self.opener.open(rows, &meta).and_then(|segment| {
            let verified = segment.verify();
            verified.map_err(|error| Error::in_segment(&path, error))?;
            let deleted = Arc::default();
            Ok(Written {
                file: SegmentFile::open(Opened { segment, deleted }, meta, pin),
                graph: summary.graph,
            })
        });
        read_back.map_err(|error| match error {
            Error::Io { .. } => error,
            // Not the database's damage but this output's: it is written again.
            other => Error::io(&path, "reading back", std::io::Error::other(other)),
        })
    }

    /// What flushes and merges hold while one of them makes a graph; else 0.
    pub(crate) fn graph_build_bytes(&self) -> usize {
        match self.graph_builds.bytes() {
            0 => 0,
            _ => self.builds.bytes(),
        }
    }

    fn fresh_file_id(&self, path: &Path) -> Result<FileId> {
        let id = self.directory.env().entropy().file_id();
        id.map(FileId)
            .map_err(|error| Error::io(path, "choosing an id for", error))
    }

    /// Writes the changed deletion vectors of one edit as one file, and returns
    /// the edit's fields on them with the file's pin.
    pub(crate) fn write_deletions(
        &self,
        collection: CollectionId,
        changed: &BTreeMap<SegmentId, Arc<DeletionVector>>,
        job: &Job<'_>,
    ) -> Result<(Vec<Field>, Option<FilePin>)> {
        if changed.is_empty() {
            return Ok((Vec::new(), None));
        }
        let number = self.numbers.take();
        let name = FileName::Deletions(number);
        let path = name.path(self.directory.path());
        let file_id = self.fresh_file_id(&path)?;
        let vectors: Vec<_> = changed
            .iter()
            .map(|(id, vector)| (*id, &**vector))
            .collect();
        let (bytes, locations) =
            deletion::encode(file_id, &vectors).map_err(|error| Error::in_segment(&path, error))?;
        publish_file(&self.directory, name, |out| {
            std::io::Write::write_all(out, &bytes)
                .map_err(|error| Error::io(&path, "writing", error))
        })?;
        job.wrote(bytes.len() as u64);
        let fields = changed.keys().zip(locations).map(|(&segment, at)| {
            let meta = DeletionMeta {
                file: number,
                file_id,
                offset: at.offset,
                len: at.len,
                hash: at.hash,
            };
            Field::SetDeletions(collection, segment, meta)
        });
        Ok((fields.collect(), Some(FilePin::new(path, &self.garbage))))
    }
}

/// An output whose bytes somebody is told of.
struct Told<'a, W> {
    out: &'a mut W,
    moved: &'a dyn Fn(u64),
}

impl<W: std::io::Write> std::io::Write for Told<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        (self.moved)(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Reads one deletion vector of a segment with `rows` rows.
pub(crate) fn read_deletions(
    env: &dyn Env,
    dir: &Path,
    segment: &SegmentMeta,
    meta: &DeletionMeta,
) -> Result<DeletionVector> {
    let path = FileName::Deletions(meta.file).path(dir);
    let bytes = read_start(env, &path, meta.offset.saturating_add(meta.len))?;
    let location = deletion::DvLocation {
        offset: meta.offset,
        len: meta.len,
        hash: meta.hash,
    };
    deletion::decode(&bytes, meta.file_id, location, segment.id, segment.rows)
        .map_err(|error| Error::in_segment(&path, error))
}

/// The first `len` bytes of a file, or all that it has: what it says of its own length
/// is no reason to allocate.
fn read_start(env: &dyn Env, path: &Path, len: u64) -> Result<Vec<u8>> {
    let file = match env.storage().open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::corruption(
                path,
                0,
                "a file that the manifest names is missing",
            ));
        }
        other => other.map_err(|error| Error::io(path, "opening", error))?,
    };
    let read = || {
        let len = file.len()?.min(len);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let len = file.read_at(0, &mut bytes)?;
        bytes.truncate(len);
        Ok(bytes)
    };
    read().map_err(|error| Error::io(path, "reading", error))
}
