//! Settings, validated once where they enter.
//!
//! Owns every default as a named constant with its reason. Invariant: everything in
//! [`Options`] may differ from one open to the next.
//! Injected components ([`Env`]) stand apart from data settings.

mod collection;
mod compact;
mod events;
mod graph;
mod recovery;
mod residency;
mod search;
#[cfg(feature = "testing")]
mod testing;
mod verify;
mod verify_on_open;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::env::{Env, StdEnv};
use crate::error::{Error, Result};

pub use collection::CollectionOptions;
pub use compact::{CompactOptions, DEFAULT_BACKGROUND_MERGES, MAX_BACKGROUND_MERGES};
pub(crate) use events::EventCallback;
pub use graph::{
    DEFAULT_ALPHA, DEFAULT_GRAPH_MIN_ROWS, DEFAULT_L_BUILD, DEFAULT_MAX_DEGREE, GraphOptions,
};
pub(crate) use recovery::ProgressCallback;
pub use recovery::RecoveryProgress;
pub use residency::Residency;
pub use search::{DEFAULT_L_SEARCH, SearchOptions};
pub use verify::{CancelToken, DEFAULT_SCRUB_BYTES_PER_SECOND, VerifyOptions, VerifyProgress};
pub use verify_on_open::VerifyOnOpen;

/// Memory for memtables. A few frozen memtables per core beside the active ones.
pub const DEFAULT_MEMORY_BUDGET: usize = 256 << 20;
/// A scan of this much takes about 200 microseconds, the most a search should
/// spend on unflushed rows (16k rows of 128 dimensions).
pub const DEFAULT_MEMTABLE_BYTES: usize = 8 << 20;
/// Large enough that a rotation, which costs two syncs, is rare.
pub const DEFAULT_LOG_FILE_BYTES: u64 = 64 << 20;
/// Bounds replay at open, and what an idle collection may pin.
pub const DEFAULT_MAX_LOG_BYTES: u64 = 512 << 20;
/// Largest default batch; also never more than a quarter of the memory budget.
pub const DEFAULT_MAX_BATCH_BYTES: usize = 64 << 20;
/// Largest payload of one row.
pub const MAX_PAYLOAD_BYTES: usize = 16 << 20;
/// Segments of one size class before they are merged: the classic balance of
/// write amplification against searches that visit every segment.
pub const DEFAULT_MERGE_WIDTH: usize = 4;
/// Segments with a graph that a search has to visit. At 100 million rows one takes a fifth
/// longer with eight, and a fifth less with three, which write twice as much (decision 17).
pub const DEFAULT_MAX_GRAPH_SEGMENTS: usize = 5;
/// Share of deleted rows at which a segment is rewritten alone.
pub const DEFAULT_DELETION_RATIO: f64 = 0.3;
/// Verified blocks kept in memory under [`MapMode::Pread`].
pub const DEFAULT_BLOCK_CACHE_BYTES: usize = 32 << 20;

/// What an acknowledgement of a write promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On the disk: survives kill and power loss. The default.
    Sync,
    /// In the operating system's hands, and on the disk within this time, even
    /// when no further write comes. A power loss may take the newest writes.
    Periodic(Duration),
    /// In the operating system's hands: survives a kill of the process; a power
    /// loss may take the newest writes, never a hole.
    Os,
}

/// Who does the background work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// Threads of the database's own.
    Threads,
    /// Nobody, until `Db::run_background_step` is called; a writer that would
    /// stall does the work itself. For hosts with their own scheduler, and tests.
    Manual,
}

/// How segments are read.
///
/// Either way every block is verified before it can influence an answer, a file's
/// length is checked against the manifest before anything else of it, and nothing is
/// ever written through a map or cut off a file that has a name. What differs is how
/// a read can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapMode {
    /// Memory maps: fastest, and blocks are verified once, at their first touch.
    ///
    /// A page that cannot be read kills the process with SIGBUS (on Windows, an
    /// exception), which no library can turn into an error: a disk that fails the
    /// read of a mapped page, at its first touch or whenever the system has dropped
    /// the page since; a network or removable disk that is gone; a file that somebody
    /// else truncates while it is mapped. Somebody else who writes to a mapped file
    /// changes bytes after they were verified, which is undefined behaviour. The
    /// directory's lock keeps other openers of the database out, not other programs.
    Mmap,
    /// `pread` through a cache of verified blocks ([`Options::block_cache_bytes`]):
    /// an I/O error is [`Error::Io`], a file that shrank or changed is
    /// [`Error::Corruption`], and every block is verified each time that it comes
    /// from the device. A search takes about three times as long while the cache
    /// holds what it touches, because every access goes through it, and longer where
    /// blocks must be read again.
    ///
    /// For network and removable disks, for hosts that must outlive a failing disk,
    /// and for directories that other programs can write to.
    Pread,
}

/// Settings of a database.
///
/// ```
/// use esker::{Durability, Options};
/// let options = Options::new()
///     .memory_budget(128 << 20)
///     .default_durability(Durability::Os);
/// assert!(options.validate().is_ok());
/// assert!(Options::new().memory_budget(1).validate().is_err());
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) create_if_missing: bool,
    pub(crate) default_durability: Durability,
    pub(crate) memory_budget: usize,
    pub(crate) memtable_bytes: usize,
    pub(crate) log_file_bytes: u64,
    pub(crate) max_log_bytes: u64,
    pub(crate) max_batch_bytes: Option<usize>,
    pub(crate) snapshot_memory: Option<usize>,
    pub(crate) expire_oldest_snapshot: bool,
    pub(crate) background: Background,
    pub(crate) map_mode: MapMode,
    pub(crate) block_cache_bytes: usize,
    pub(crate) residency: Residency,
    pub(crate) residency_of: BTreeMap<String, Residency>,
    pub(crate) hot_memory: Option<usize>,
    pub(crate) auto_compact: bool,
    pub(crate) merge_width: usize,
    pub(crate) max_graph_segments: usize,
    pub(crate) deletion_ratio: f64,
    pub(crate) background_merges: usize,
    pub(crate) background_cpu: Option<f64>,
    pub(crate) merge_bytes_per_second: Option<u64>,
    pub(crate) graph: GraphOptions,
    pub(crate) build_threads: Option<usize>,
    pub(crate) recovery_progress: Option<ProgressCallback>,
    pub(crate) events: Option<EventCallback>,
    pub(crate) verify_on_open: VerifyOnOpen,
    pub(crate) scrub_interval: Option<Duration>,
    pub(crate) scrub_bytes_per_second: u64,
    pub(crate) env: Arc<dyn Env>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            create_if_missing: true,
            default_durability: Durability::Sync,
            memory_budget: DEFAULT_MEMORY_BUDGET,
            memtable_bytes: DEFAULT_MEMTABLE_BYTES,
            log_file_bytes: DEFAULT_LOG_FILE_BYTES,
            max_log_bytes: DEFAULT_MAX_LOG_BYTES,
            max_batch_bytes: None,
            snapshot_memory: None,
            expire_oldest_snapshot: false,
            background: Background::Threads,
            map_mode: default_map_mode(),
            block_cache_bytes: DEFAULT_BLOCK_CACHE_BYTES,
            residency: Residency::default(),
            residency_of: BTreeMap::new(),
            hot_memory: None,
            auto_compact: true,
            merge_width: DEFAULT_MERGE_WIDTH,
            max_graph_segments: DEFAULT_MAX_GRAPH_SEGMENTS,
            deletion_ratio: DEFAULT_DELETION_RATIO,
            background_merges: DEFAULT_BACKGROUND_MERGES,
            background_cpu: None,
            merge_bytes_per_second: None,
            graph: GraphOptions::default(),
            build_threads: None,
            recovery_progress: None,
            events: None,
            verify_on_open: VerifyOnOpen::default(),
            scrub_interval: None,
            scrub_bytes_per_second: DEFAULT_SCRUB_BYTES_PER_SECOND,
            env: Arc::new(StdEnv::new()),
        }
    }
}

/// How segments are read unless the host says otherwise.
#[cfg(not(feature = "testing"))]
const fn default_map_mode() -> MapMode {
    MapMode::Mmap
}

#[cfg(feature = "testing")]
use testing::default_map_mode;

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether opening a directory without a database makes one. Default: yes.
    #[must_use]
    pub fn create_if_missing(mut self, yes: bool) -> Self {
        self.create_if_missing = yes;
        self
    }

    /// Durability of writes that name none. Default: [`Durability::Sync`].
    #[must_use]
    pub fn default_durability(mut self, durability: Durability) -> Self {
        self.default_durability = durability;
        self
    }

    /// Bytes for memtables and the block cache. Merges come on top (`MemoryStats::builds`):
    /// all together they hold as much again at most, beside the edges and codes of the graph that they
    /// make and about a hundred bytes a row; where vectors would not fit, these are read
    /// in place, and a graph built from nothing takes up to two and a half times as long.
    /// So do
    /// hot copies ([`Options::hot_memory`]). Writers are
    /// slowed near it and stalled at it. An open that replays a log longer than it takes
    /// half as much again at most, unless the log holds larger batches than this budget
    /// allows, or the budget is below a few MiB. At least 64 KiB; default [`DEFAULT_MEMORY_BUDGET`].
    #[must_use]
    pub fn memory_budget(mut self, bytes: usize) -> Self {
        self.memory_budget = bytes;
        self
    }

    /// Bytes of one memtable before it is frozen and flushed. At least 1 KiB, at
    /// most half of the budget; default [`DEFAULT_MEMTABLE_BYTES`].
    #[must_use]
    pub fn memtable_bytes(mut self, bytes: usize) -> Self {
        self.memtable_bytes = bytes;
        self
    }

    /// Bytes of one log file before the next is begun. At least 4 KiB; default
    /// [`DEFAULT_LOG_FILE_BYTES`].
    #[must_use]
    pub fn log_file_bytes(mut self, bytes: u64) -> Self {
        self.log_file_bytes = bytes;
        self
    }

    /// Bytes of all log files together before the collection that pins the
    /// oldest is flushed. At least two log files; default [`DEFAULT_MAX_LOG_BYTES`].
    #[must_use]
    pub fn max_log_bytes(mut self, bytes: u64) -> Self {
        self.max_log_bytes = bytes;
        self
    }

    /// Largest batch in encoded bytes. Default: the smaller of
    /// [`DEFAULT_MAX_BATCH_BYTES`] and a quarter of the budget.
    #[must_use]
    pub fn max_batch_bytes(mut self, bytes: usize) -> Self {
        self.max_batch_bytes = Some(bytes);
        self
    }

    /// Bytes of flushed memtables that snapshots may keep alive; beyond it
    /// `snapshot()` answers `Busy`. Default: a quarter of the budget.
    #[must_use]
    pub fn snapshot_memory(mut self, bytes: usize) -> Self {
        self.snapshot_memory = Some(bytes);
        self
    }

    /// Whether the oldest snapshot is expired, instead of refusing a new one,
    /// when `snapshot_memory` is exceeded. Default: no.
    #[must_use]
    pub fn expire_oldest_snapshot(mut self, yes: bool) -> Self {
        self.expire_oldest_snapshot = yes;
        self
    }

    /// Who flushes and compacts. Default: [`Background::Threads`].
    #[must_use]
    pub fn background(mut self, background: Background) -> Self {
        self.background = background;
        self
    }

    /// How segments are read. Default: [`MapMode::Mmap`].
    #[must_use]
    pub fn map_mode(mut self, mode: MapMode) -> Self {
        self.map_mode = mode;
        self
    }

    /// Whether segments are merged in the background. Without it every flush builds
    /// the graph of its rows itself, and holds writers to that speed; with it a
    /// flush that writers wait for leaves that to a merge. Default: yes.
    #[must_use]
    pub fn auto_compact(mut self, yes: bool) -> Self {
        self.auto_compact = yes;
        self
    }

    /// Segments of one size class that trigger a merge; 2 to 64, default
    /// [`DEFAULT_MERGE_WIDTH`].
    #[must_use]
    pub fn merge_width(mut self, segments: usize) -> Self {
        self.merge_width = segments;
        self
    }

    /// Segments of a collection that are large enough for a graph; beyond as many some
    /// are merged where least is written again. Searches visit each of them, and rows are
    /// rewritten the more often the fewer they are. 1 to 64, default
    /// [`DEFAULT_MAX_GRAPH_SEGMENTS`].
    #[must_use]
    pub fn max_graph_segments(mut self, segments: usize) -> Self {
        self.max_graph_segments = segments;
        self
    }

    /// Share of deleted rows (0 to 1, exclusive) at which a segment is rewritten, one that
    /// has a graph at the latest when half of it is deleted; default
    /// [`DEFAULT_DELETION_RATIO`].
    #[must_use]
    pub fn deletion_ratio(mut self, ratio: f64) -> Self {
        self.deletion_ratio = ratio;
        self
    }

    /// How the graphs of new segments are built.
    #[must_use]
    pub fn graph(mut self, graph: GraphOptions) -> Self {
        self.graph = graph;
        self
    }

    /// Threads that build one graph, 1 to 256; the graph does not depend on
    /// them. Default: as many as the machine has processors, or one under
    /// [`Background::Manual`].
    #[must_use]
    pub fn build_threads(mut self, threads: usize) -> Self {
        self.build_threads = Some(threads);
        self
    }

    /// The outside world; tests inject a simulated one.
    #[must_use]
    pub fn env(mut self, env: Arc<dyn Env>) -> Self {
        self.env = env;
        self
    }

    pub(crate) fn batch_limit(&self) -> usize {
        self.max_batch_bytes
            .unwrap_or(DEFAULT_MAX_BATCH_BYTES.min(self.memory_budget / 4))
    }

    pub(crate) fn snapshot_limit(&self) -> usize {
        self.snapshot_memory.unwrap_or(self.memory_budget / 4)
    }

    /// Bytes that memtables may take.
    pub(crate) fn memtable_budget(&self) -> usize {
        self.memory_budget - self.cache_limit()
    }

    /// Checks every setting against its stated range.
    ///
    /// # Errors
    /// `Invalid`, naming the setting and its range.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, text: &str| {
            if ok {
                Ok(())
            } else {
                Err(Error::invalid(text))
            }
        };
        check(
            self.memory_budget >= 64 << 10,
            "memory_budget must be at least 64 KiB",
        )?;
        check(
            (1 << 10..=self.memory_budget / 2).contains(&self.memtable_bytes),
            "memtable_bytes must be at least 1 KiB and at most half of memory_budget",
        )?;
        check(
            self.log_file_bytes >= 4 << 10,
            "log_file_bytes must be at least 4 KiB",
        )?;
        check(
            self.max_log_bytes / 2 >= self.log_file_bytes,
            "max_log_bytes must be at least twice log_file_bytes",
        )?;
        check(
            (1..=esker_wal::MAX_PAYLOAD.min(self.memory_budget / 2)).contains(&self.batch_limit()),
            "max_batch_bytes must be at least 1, at most 128 MiB and at most half of memory_budget",
        )?;
        check(
            (2..=64).contains(&self.merge_width),
            "merge_width must be from 2 to 64",
        )?;
        check(
            (1..=64).contains(&self.max_graph_segments),
            "max_graph_segments must be from 1 to 64",
        )?;
        check(
            self.deletion_ratio > 0.0 && self.deletion_ratio < 1.0,
            "deletion_ratio must lie between 0 and 1, exclusive",
        )?;
        check(
            self.build_threads.is_none_or(|n| (1..=256).contains(&n)),
            "build_threads must be from 1 to 256",
        )?;
        self.validate_merges()?;
        self.validate_scrub()?;
        self.graph.validate()
    }
}

/// Settings of one write.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    pub(crate) durability: Option<Durability>,
}

impl WriteOptions {
    /// The database's defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the acknowledgement promises, instead of the database's default.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }
}
