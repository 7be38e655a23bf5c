//! Opening a directory: creating a database in it, or recovering the one there.
//!
//! Owns the order of an open: lock; `CURRENT` and manifest; every named file is
//! there and itself; logs replayed in a chain; the replayed tail written to fresh
//! log files and synced, because the page cache may hold what the disk does not,
//! and flushed where it exceeds the memory budget; a fresh manifest; only then are
//! unnamed files removed and anything served.
//! Invariants: until the fresh manifest is in place nothing that the old one names
//! is touched, so a crash anywhere in here, again and again, loses nothing;
//! recovering twice equals recovering once. Must not know: threads, writers.
#![deny(clippy::indexing_slicing)]

mod directory;
mod progress;
mod replay;
mod room;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use esker_segment::SeqNo;
use esker_wal::GroupCommit;
use esker_wal::mutants::planted;

use crate::background::Signals;
use crate::core::{CollectionInfo, Core};
use crate::dir::Directory;
use crate::env::StorageLock;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::files::{FileName, discard, own_files};
use crate::gc::{FilePin, Garbage};
use crate::hot::HotMemory;
use crate::manifest::{CommitError, Current, Manifest, ManifestState, replay_manifest};
use crate::memory::MemoryBudget;
use crate::merges::MergeControl;
use crate::options::Options;
use crate::poison::Poison;
use crate::running::RunningMerges;
use crate::search::ScratchPool;
use crate::segment_file::LiveSegment;
use crate::segments::Outputs;
use crate::snapshot::SnapshotRegistry;
use crate::stats::Counters;
use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, RwLock, counter};
use crate::verify::Scrubber;
use crate::view::{CollectionView, Published, ReadView, Version};
use crate::write::frames::SpareFrames;
use crate::write::log::{FileNumbers, Log, LogError};
use crate::write::pipeline::PipelineState;
use crate::write::ticket::DurableWaiters;

pub(crate) use directory::{check_never_made, lock as lock_directory};
pub(crate) use replay::{ChainedLog, find_chain, inspect_frame};

/// What an open found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// The directory held no database; one was made.
    pub created: bool,
    /// The last close was clean: log and manifest ended where it said.
    pub clean: bool,
    /// Log files read.
    pub logs: usize,
    /// Batches in them, flushed ones included.
    pub batches: u64,
    /// Operations that no segment held yet.
    pub operations: u64,
    /// Segments written because the log's rows exceeded the memory budget.
    pub flushed_segments: usize,
    /// Collections whose rows in the log could not be flushed, because a segment that
    /// holds their older rows is damaged. They take no writes; what was replayed is
    /// kept in memory, beyond the budget if need be, and in the log.
    pub damaged_collections: Vec<String>,
    /// An incomplete end of the newest log, which no acknowledged `Sync` write
    /// was in.
    pub torn_tail: Option<TornTail>,
    /// Bytes of an incomplete end of the manifest.
    pub manifest_dropped_bytes: u64,
    /// Leftover files of this engine that were removed.
    pub removed_files: usize,
    /// The last write that was recovered.
    pub last_seqno: SeqNo,
}

/// Where a log broke off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The log file.
    pub file: PathBuf,
    /// Where the last whole frame ends.
    pub offset: u64,
    /// Bytes after it that were not zero.
    pub dropped_bytes: u64,
}

/// Highest number of an existing file that leaves enough of twelve digits.
const MAX_FILE_NUMBER: u64 = 999_000_000_000;

/// What an open builds before there is a [`Core`].
struct Opening {
    options: Options,
    dir: PathBuf,
    directory: Arc<Directory>,
    budget: Arc<MemoryBudget>,
    garbage: Arc<Garbage>,
    counters: Arc<Counters>,
    events: Events,
    numbers: Arc<FileNumbers>,
    outputs: Outputs,
    room: room::Room,
    progress: progress::Progress,
    /// The lowest SeqNo that the next frame may have.
    next_seqno: u64,
    report: RecoveryReport,
    collections: BTreeMap<esker_segment::CollectionId, Arc<CollectionInfo>>,
    view: ReadView,
}

/// Opens the database in `dir`.
pub(crate) fn open(dir: &Path, mut options: Options) -> Result<Core> {
    let lock = directory::claim(dir, &options)?;
    let garbage = Arc::new(Garbage::default());
    let counters = Arc::new(Counters::default());
    let numbers = Arc::new(FileNumbers::new(1));
    let directory = Arc::new(Directory::new(Arc::clone(&options.env), dir.to_owned()));
    let opening = Opening {
        dir: dir.to_owned(),
        outputs: Outputs::new(&options, &directory, &numbers, &garbage, &counters),
        directory,
        budget: MemoryBudget::new(options.memtable_budget()),
        room: room::Room::default(),
        progress: progress::Progress::new(options.recovery_progress.clone()),
        next_seqno: 0,
        garbage,
        counters,
        // Nobody else holds it: it may hold a handle, and must go when the database closes.
        events: Events::new(options.events.take()),
        numbers,
        report: RecoveryReport::default(),
        collections: BTreeMap::new(),
        view: ReadView::default(),
        options,
    };
    match Current::read(opening.storage(), dir)? {
        Some(current) => opening.recover(current, lock),
        None => opening.create(lock),
    }
}

impl Opening {
    fn storage(&self) -> &dyn crate::env::Storage {
        self.options.env.storage()
    }

    fn create(mut self, lock: Box<dyn StorageLock>) -> Result<Core> {
        self.report.created = true;
        self.skip_used_numbers(1)?;
        let log = self.new_log()?;
        self.finish(log, ManifestState::default(), Vec::new(), lock)
    }

    fn recover(mut self, current: Current, lock: Box<dyn StorageLock>) -> Result<Core> {
        let env = Arc::clone(&self.options.env);
        let replayed = replay_manifest(&*env, &self.dir, &current)?;
        let state = replayed.state;
        self.report.clean = current.sealed.is_some();
        self.report.manifest_dropped_bytes = replayed.dropped_bytes;
        if self.report.clean && state.seal.is_none() {
            let path = FileName::Manifest(current.manifest).path(&self.dir);
            return Err(Error::corruption(
                &path,
                replayed.end.offset,
                "it lacks its last edit",
            ));
        }
        self.open_segments(&state)?;
        let chain = replay::find_chain(&*env, &self.dir, &state)?;
        self.skip_used_numbers(state.next_file)?;
        let log = self.new_log()?;
        match self.replay_all(&chain, state, &log) {
            Ok((state, deletions)) => self.finish(log, state, deletions, lock),
            Err(error) => {
                self.abandon(&log, Vec::new());
                Err(error)
            }
        }
    }

    /// Replays the chain; what it adds is durable afterwards, and named by nothing.
    fn replay_all(
        &mut self,
        chain: &[replay::ChainedLog],
        mut state: ManifestState,
        log: &Log,
    ) -> Result<(ManifestState, Vec<FilePin>)> {
        self.replay(chain, &mut state, log)?;
        self.make_room(&mut state, log)?;
        self.set_damaged_aside();
        self.release_logs(log);
        // Before anything names the segments: they must not outrun the log.
        if !planted("open.sync_tail") {
            log.sync().map_err(LogError::into_error)?;
        }
        let deletions = self.write_deletions(&mut state)?;
        Ok((state, deletions))
    }

    /// Leaves out every number that was ever given out, as far as can be known.
    fn skip_used_numbers(&self, next: u64) -> Result<()> {
        let names = own_files(self.storage(), &self.dir)?;
        let highest = names
            .iter()
            .map(|(_, name)| name.number())
            .max()
            .unwrap_or(0);
        if highest > MAX_FILE_NUMBER {
            return Err(Error::Invalid(format!(
                "a file in {} has number {highest}, which leaves none for new files; remove it \
                 if it is not the database's",
                self.dir.display()
            )));
        }
        let highest = match planted("open.numbers_above_files") {
            true => 0,
            false => highest,
        };
        self.numbers.skip_to(next.max(highest + 1));
        Ok(())
    }

    fn new_log(&self) -> Result<Log> {
        Log::create(
            Arc::clone(&self.directory),
            Arc::clone(&self.numbers),
            self.options.log_file_bytes,
        )
    }

    /// Looks at every segment and deletion vector that the manifest names, as far as
    /// the options ask for.
    fn open_segments(&mut self, state: &ManifestState) -> Result<()> {
        let verify = self.options.verify_on_open;
        for (&id, collection) in &state.collections {
            let mut segments = Vec::with_capacity(collection.segments.len());
            for segment in collection.segments.values() {
                let opener = &self.outputs.opener;
                let file = opener.open_named(&collection.meta, segment, verify)?;
                segments.push(LiveSegment::new(file));
            }
            let info = Arc::new(CollectionInfo::new(&collection.meta, &self.options));
            let active = info.new_memtable(&self.budget);
            let version = Arc::new(Version { segments });
            self.view.collections.insert(
                id,
                CollectionView {
                    active,
                    frozen: Vec::new(),
                    version,
                },
            );
            self.collections.insert(id, info);
        }
        Ok(())
    }

    /// Replaces the old manifest by one that names what there is now, removes
    /// what it does not name, and puts the parts together.
    fn finish(
        mut self,
        log: Log,
        mut state: ManifestState,
        deletions: Vec<FilePin>,
        lock: Box<dyn StorageLock>,
    ) -> Result<Core> {
        let env = Arc::clone(&self.options.env);
        let manifest_number = self.numbers.take();
        state.first_log = log.oldest();
        state.next_file = self.numbers.peek();
        state.seal = None;
        self.report.last_seqno = state.last_seqno;
        let last = state.last_seqno;
        if planted("open.sweep_after_manifest") {
            self.sweep(&state, manifest_number)?;
        }
        let manifest = match Manifest::create(&self.directory, manifest_number, state) {
            Ok(manifest) => manifest,
            Err(error) => {
                // Else it may be the live one, and what it names must stay.
                if matches!(error, CommitError::Clean(_)) {
                    self.abandon(&log, deletions);
                }
                return Err(error.into_error());
            }
        };
        self.mark_named(&deletions);
        self.report.removed_files = self.sweep(manifest.state(), manifest.number())?;
        let merges = MergeControl::new(&self.options, env.clock().now());
        static OPENED: counter::AtomicU64 = counter::AtomicU64::new(0);
        Ok(Core {
            identity: OPENED.fetch_add(1, Ordering::Relaxed),
            env,
            dir: self.dir,
            directory: self.directory,
            numbers: self.numbers,
            log,
            group: GroupCommit::new(last.0 + 1),
            pipeline: PipelineState::default(),
            spare_frames: SpareFrames::default(),
            published: Published::new(self.view, last),
            collections: RwLock::new(self.collections),
            manifest: Mutex::new(manifest),
            flushing: Mutex::new(()),
            running: RunningMerges::new(self.options.background_merges),
            poison: Poison::new(&self.budget),
            budget: self.budget,
            hot: HotMemory::new(self.options.hot_limit()),
            garbage: self.garbage,
            outputs: self.outputs,
            snapshots: SnapshotRegistry::default(),
            waiters: DurableWaiters::default(),
            counters: self.counters,
            signals: Signals::new(),
            events: self.events,
            failures: Mutex::new(BTreeMap::new()),
            report: self.report,
            closed: AtomicBool::new(false),
            cancel: AtomicBool::new(false),
            merges,
            full_merges: AtomicUsize::new(0),
            flush_callers: AtomicUsize::new(0),
            scratches: ScratchPool::default(),
            scrubber: Scrubber::default(),
            lock: Mutex::new(Some(lock).filter(|_| !planted("open.lock"))),
            options: self.options,
        })
    }

    /// Removes this engine's files that nothing names; foreign files stay.
    fn sweep(&self, state: &ManifestState, manifest: u64) -> Result<usize> {
        let mut removed = 0;
        for (name, file) in own_files(self.storage(), &self.dir)? {
            let needed = match file {
                FileName::Log(number) => number >= state.first_log,
                FileName::Segment(_) if planted("open.sweep_unnamed_only") => false,
                file => state.names(file, manifest),
            };
            if !needed {
                discard(self.storage(), &self.dir.join(name));
                removed += 1;
            }
        }
        Ok(removed)
    }
}
