//! The state that every handle of one open database shares.
//!
//! Owns the parts and the order in which their locks may be taken:
//! `flushing`, then a claim of `running`, then `manifest` (the commit lock), then the
//! rest, each briefly. Invariants: every durable change of state goes through
//! [`Core::commit`]; once poisoned, no write, flush or merge is begun.
//! Must not know: the public handles.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use esker_segment::{CodeKind, CollectionId, Metric, SeqNo};
use esker_wal::GroupCommit;
use esker_wal::mutants::planted;

use crate::background::{Signals, Thread};
use crate::dir::Directory;
use crate::env::{Env, Storage, StorageLock};
use crate::error::{Error, Result};
use crate::events::Events;
use crate::gc::Garbage;
use crate::hot::HotMemory;
use crate::manifest::{CollectionMeta, CommitError, Edit, Field, Manifest};
use crate::memory::MemoryBudget;
use crate::memtable::Memtable;
use crate::merges::MergeControl;
use crate::options::{Options, Residency};
use crate::poison::Poison;
use crate::recovery::RecoveryReport;
use crate::running::RunningMerges;
use crate::search::ScratchPool;
use crate::segments::Outputs;
use crate::snapshot::SnapshotRegistry;
use crate::stats::Counters;
use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, PinArc, RwLock};
use crate::verify::Scrubber;
use crate::view::Published;
use crate::write::frames::SpareFrames;
use crate::write::log::{FileNumbers, Log};
use crate::write::pipeline::PipelineState;
use crate::write::ticket::DurableWaiters;

/// A collection as its handles know it.
#[derive(Debug)]
pub(crate) struct CollectionInfo {
    pub(crate) id: CollectionId,
    pub(crate) name: String,
    pub(crate) dimension: u32,
    pub(crate) metric: Metric,
    pub(crate) codes: CodeKind,
    pub(crate) dropped: AtomicBool,
    /// Callers that wait for a full merge of it.
    pub(crate) full_merges: AtomicUsize,
    /// Set when a flush met damage in this collection: it takes no more writes,
    /// because they could never leave the log.
    pub(crate) damaged: Mutex<Option<Error>>,
    residency: Mutex<Residency>,
}

impl CollectionInfo {
    pub(crate) fn new(meta: &CollectionMeta, options: &Options) -> Self {
        Self {
            id: meta.id,
            name: meta.name.clone(),
            dimension: meta.dimension,
            metric: meta.metric,
            codes: meta.codes,
            dropped: AtomicBool::new(false),
            full_merges: AtomicUsize::new(0),
            damaged: Mutex::new(None),
            residency: Mutex::new(options.residency_named(&meta.name)),
        }
    }

    pub(crate) fn residency(&self) -> Residency {
        *self.residency.lock()
    }

    pub(crate) fn set_residency(&self, residency: Residency) {
        *self.residency.lock() = residency;
    }

    /// An empty memtable for the collection, charged to the budget.
    pub(crate) fn new_memtable(&self, budget: &Arc<MemoryBudget>) -> PinArc<Memtable> {
        PinArc::new(Memtable::new(self.dimension, self.metric, budget.charge(0)))
    }

    /// That writes to the collection can be taken.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.dropped.load(Ordering::Acquire) {
            return Err(Error::Invalid(format!(
                "collection {:?} was dropped; create it again",
                self.name
            )));
        }
        self.damaged.lock().clone().map_or(Ok(()), Err)
    }
}

/// One open database.
pub(crate) struct Core {
    /// Tells open databases of this process apart; never given out twice.
    pub(crate) identity: u64,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) dir: PathBuf,
    pub(crate) directory: Arc<Directory>,
    pub(crate) options: Options,
    pub(crate) numbers: Arc<FileNumbers>,
    pub(crate) log: Log,
    pub(crate) group: GroupCommit<Core>,
    pub(crate) pipeline: PipelineState,
    pub(crate) spare_frames: SpareFrames,
    pub(crate) published: Published,
    pub(crate) collections: RwLock<BTreeMap<CollectionId, Arc<CollectionInfo>>>,
    /// The commit lock.
    pub(crate) manifest: Mutex<Manifest>,
    pub(crate) flushing: Mutex<()>,
    pub(crate) running: RunningMerges,
    pub(crate) budget: Arc<MemoryBudget>,
    pub(crate) hot: Arc<HotMemory>,
    pub(crate) garbage: Arc<Garbage>,
    pub(crate) outputs: Outputs,
    pub(crate) snapshots: SnapshotRegistry,
    pub(crate) waiters: DurableWaiters,
    pub(crate) counters: Arc<Counters>,
    pub(crate) signals: Signals,
    pub(crate) events: Events,
    /// The last failure of each thread that a retry may mend, until one succeeds.
    pub(crate) failures: Mutex<BTreeMap<Thread, Error>>,
    pub(crate) report: RecoveryReport,
    pub(crate) poison: Poison,
    pub(crate) closed: AtomicBool,
    /// Asks running flushes and merges to give up.
    pub(crate) cancel: AtomicBool,
    pub(crate) merges: MergeControl,
    /// Callers that wait for a full merge of all collections.
    pub(crate) full_merges: AtomicUsize,
    /// Callers that wait for flushes.
    pub(crate) flush_callers: AtomicUsize,
    pub(crate) scratches: ScratchPool,
    pub(crate) scrubber: Scrubber,
    /// Held until the last handle and thread are gone, or until `close`.
    pub(crate) lock: Mutex<Option<Box<dyn StorageLock>>>,
}

/// Dropped only by a panic while an edit is written: the file may hold the edit, the
/// state in memory does not, and another edit would contradict it.
struct PoisonOnUnwind<'a>(&'a Core);

impl Drop for PoisonOnUnwind<'_> {
    fn drop(&mut self) {
        self.0.poison("a commit panicked".to_owned());
    }
}

impl Core {
    pub(crate) fn storage(&self) -> &dyn Storage {
        self.env.storage()
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        self.poison.check()
    }

    /// Refuses every later write, and returns the error that says so.
    pub(crate) fn poison(&self, cause: String) -> Error {
        let error = self.poison.set(cause);
        // Callbacks are run by the log's thread: locks may be held here.
        self.signals.log.notify();
        error
    }

    /// Makes an edit durable. The manifest guard proves that the commit lock is
    /// held. The counters that every edit carries are added here.
    pub(crate) fn commit(
        &self,
        manifest: &mut Manifest,
        fields: Vec<Field>,
    ) -> std::result::Result<(), CommitError> {
        self.check_open().map_err(CommitError::Clean)?;
        self.commit_closing(manifest, fields)
    }

    /// As [`Core::commit`], also while the database closes.
    pub(crate) fn commit_closing(
        &self,
        manifest: &mut Manifest,
        mut fields: Vec<Field>,
    ) -> std::result::Result<(), CommitError> {
        // Under the commit lock: whoever held it before may have poisoned, and an edit
        // behind one whose sync failed could vouch for what is lost.
        if !planted("commit.check_poison") {
            self.poison.check().map_err(CommitError::Clean)?;
        }
        fields.push(Field::NextFile(self.numbers.peek()));
        fields.push(Field::LastSeqNo(SeqNo(
            self.group.next_seqno().saturating_sub(1),
        )));
        let before = manifest.state().deletion_files();
        let unwinding = PoisonOnUnwind(self);
        let result = manifest.commit(&self.directory, &Edit(fields), || self.numbers.take());
        std::mem::forget(unwinding);
        match result {
            Ok(()) => {
                let after = manifest.state().deletion_files();
                for file in before.difference(&after) {
                    self.garbage
                        .add(crate::files::FileName::Deletions(*file).path(&self.dir));
                }
                Ok(())
            }
            Err(CommitError::Unknown(error)) if !planted("commit.poison") => {
                Err(CommitError::Unknown(self.poison(error.to_string())))
            }
            Err(other) => Err(other),
        }
    }

    /// The first damage that keeps a collection from being flushed.
    pub(crate) fn check_undamaged(&self) -> Result<()> {
        let collections = self.collections.read();
        collections
            .values()
            .find_map(|info| info.damaged.lock().clone())
            .map_or(Ok(()), Err)
    }

    /// The handle's information on a live collection.
    pub(crate) fn find_collection(&self, name: &str) -> Option<Arc<CollectionInfo>> {
        self.collections
            .read()
            .values()
            .find(|info| info.name == name)
            .cloned()
    }

    pub(crate) fn info(&self, id: CollectionId) -> Option<Arc<CollectionInfo>> {
        self.collections.read().get(&id).cloned()
    }
}
