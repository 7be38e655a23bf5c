//! The public handle of a database.
//!
//! Owns opening, closing and collections; delegates the rest. Invariant: the
//! database closes when the last handle of any kind is gone, or at `close`.
//! Must not know: formats.

mod close;
mod merges;
mod verify;

use std::path::Path;
use std::sync::Arc;

use esker_segment::{CollectionId, SeqNo};

use crate::background::Threads;
use crate::batch::WriteBatch;
use crate::collection::Collection;
use crate::core::{CollectionInfo, Core};
use crate::error::{Error, Result};
use crate::manifest::{CollectionMeta, CommitError, Field, MAX_NAME_LEN};
use crate::options::{Background, CollectionOptions, CompactOptions, Options, WriteOptions};
use crate::quarantine::QuarantinedSegment;
use crate::recovery::RecoveryReport;
use crate::snapshot::Snapshot;
use crate::stats::Stats;
use crate::sync::{Mutex, Ordering};
use crate::view::CollectionView;
use crate::write::ticket::Ticket;

pub use merges::MergePause;

/// An open database. Cheap to clone and share between threads; all clones are one
/// database, which closes when the last of them and of its collections is gone.
#[derive(Clone)]
pub struct Db {
    handle: Arc<Handle>,
}

/// What handles share: the database, its threads, and its end.
pub(crate) struct Handle {
    pub(crate) core: Arc<Core>,
    threads: Mutex<Threads>,
    closing: Mutex<()>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Whoever wants to know whether it closed cleanly calls `close`.
        let _ = self.close();
    }
}

impl Handle {
    pub(crate) fn write(
        &self,
        batch: WriteBatch,
        options: WriteOptions,
        may_wait: bool,
    ) -> Result<SeqNo> {
        if batch.is_empty() {
            self.core.check_writable()?;
            return Ok(self.core.published.get().1);
        }
        let ticket = self.core.enqueue(batch, options, may_wait);
        let written = ticket.and_then(|ticket| self.core.group.wait(&*self.core, &ticket));
        self.core.deliver_own_events();
        written.map(SeqNo)
    }
}

impl Db {
    /// Opens the database in directory `path`, making one if there is none and
    /// the options allow it. The directory itself may be made, its parent not.
    ///
    /// # Errors
    /// `Busy` when it is open elsewhere; `Invalid` for a setting out of range, or
    /// a directory that holds something else; `Corruption` naming file and
    /// offset; `Incompatible` for a newer format; `Io`.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        options.validate()?;
        let background = options.background;
        let core = Arc::new(crate::recovery::open(path.as_ref(), options)?);
        let threads = match background {
            Background::Manual => Threads::none(),
            Background::Threads => Threads::start(&core).map_err(|source| Error::Io {
                file: None,
                doing: "starting a thread",
                source: Arc::new(source),
            })?,
        };
        core.deliver_own_events();
        Ok(Self {
            handle: Arc::new(Handle {
                core,
                threads: Mutex::new(threads),
                closing: Mutex::new(()),
            }),
        })
    }

    /// What opening found and did.
    #[must_use]
    pub fn recovery_report(&self) -> &RecoveryReport {
        &self.handle.core.report
    }

    /// The collection of this name.
    ///
    /// # Errors
    /// `Invalid` if there is none; `Closed`.
    pub fn collection(&self, name: &str) -> Result<Collection> {
        self.handle.core.check_open()?;
        match self.handle.core.find_collection(name) {
            Some(info) => Ok(Collection {
                handle: Arc::clone(&self.handle),
                info,
            }),
            None => Err(Error::Invalid(format!(
                "there is no collection {name:?}; create it with create_collection"
            ))),
        }
    }

    /// The names of all collections, sorted.
    #[must_use]
    pub fn collections(&self) -> Vec<String> {
        let collections = self.handle.core.collections.read();
        let mut names: Vec<_> = collections.values().map(|info| info.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Makes a collection, durably; one that exists with the same settings is
    /// returned as it is.
    ///
    /// # Errors
    /// `Invalid` for an empty or long (over 255 bytes) name or a dimension out of
    /// range; `Incompatible` if it exists with another dimension, metric or codes; `Io`;
    /// `Poisoned`; `Closed`.
    pub fn create_collection(&self, name: &str, options: CollectionOptions) -> Result<Collection> {
        let core = &self.handle.core;
        options.validate()?;
        if name.is_empty() || name.len() > MAX_NAME_LEN {
            return Err(Error::Invalid(format!(
                "a collection's name has 1 to {MAX_NAME_LEN} bytes, not {}",
                name.len()
            )));
        }
        core.check_writable()?;
        let mut manifest = core.manifest.lock();
        if let Some(info) = core.find_collection(name) {
            return self.existing(info, options);
        }
        let id = CollectionId(manifest.state().next_collection);
        let meta = CollectionMeta {
            id,
            name: name.to_owned(),
            dimension: options.dimension,
            metric: options.metric,
            codes: options.codes,
        };
        let info = Arc::new(CollectionInfo::new(&meta, &core.options));
        core.commit(&mut manifest, meta.fields().collect())
            .map_err(CommitError::into_error)?;
        let active = info.new_memtable(&core.budget);
        let fresh = CollectionView {
            active,
            frozen: Vec::new(),
            version: Arc::default(),
        };
        // Into the view first: whoever finds the collection may write to it at once.
        core.published
            .update(|view| view.collections.insert(id, fresh));
        core.collections.write().insert(id, Arc::clone(&info));
        Ok(Collection {
            handle: Arc::clone(&self.handle),
            info,
        })
    }

    fn existing(
        &self,
        info: Arc<CollectionInfo>,
        options: CollectionOptions,
    ) -> Result<Collection> {
        if info.dropped.load(Ordering::Acquire) {
            return Err(Error::Invalid(format!(
                "dropping collection {:?} failed with an unknown outcome; drop it again first",
                info.name
            )));
        }
        if (info.dimension, info.metric, info.codes)
            != (options.dimension, options.metric, options.codes)
        {
            return Err(Error::Incompatible {
                file: self.handle.core.dir.clone(),
                what: format!(
                    "collection {:?} has dimension {}, metric {} and codes {}, not {}, {} and {}; \
                     open it with its own settings or choose another name",
                    info.name,
                    info.dimension,
                    info.metric,
                    info.codes,
                    options.dimension,
                    options.metric,
                    options.codes
                ),
            });
        }
        Ok(Collection {
            handle: Arc::clone(&self.handle),
            info,
        })
    }

    /// Removes a collection and all its rows, durably. Snapshots taken before
    /// still read it.
    ///
    /// # Errors
    /// `Invalid` if there is none of this name; `Io`; `Poisoned`; `Closed`.
    pub fn drop_collection(&self, name: &str) -> Result<()> {
        let core = &self.handle.core;
        core.check_writable()?;
        let mut manifest = core.manifest.lock();
        let Some(info) = core.find_collection(name) else {
            return Err(Error::Invalid(format!("there is no collection {name:?}")));
        };
        core.read_for_snapshots(info.id);
        // Writes acknowledged after the drop must find the collection gone.
        info.dropped.store(true, Ordering::Release);
        let edit = vec![Field::DropCollection(info.id)];
        if let Err(error) = core.commit(&mut manifest, edit) {
            // In doubt, a crash may yet reveal the drop: writes acknowledged now
            // would be lost with it. Dropping again settles it.
            if matches!(error, CommitError::Clean(_)) {
                info.dropped.store(false, Ordering::Release);
            }
            return Err(error.into_error());
        }
        core.collections.write().remove(&info.id);
        // Between groups, so that no leader still fills the memtables.
        let gone = core.group.with_leadership(|| {
            core.published
                .update(|view| view.collections.remove(&info.id))
        });
        drop(manifest);
        if let Some(gone) = gone {
            gone.memtables()
                .for_each(|memtable| memtable.release_to_pins());
            gone.version
                .segments
                .iter()
                .for_each(|s| s.file.pin.mark_obsolete());
        }
        core.signals.flush.notify();
        Ok(())
    }

    /// Writes a batch with the default durability. Returns the SeqNo of its last
    /// operation (of the last visible write, for an empty batch).
    ///
    /// # Errors
    /// `Invalid`: nothing was written. `Io`: the log could not be written; the
    /// batch did not take effect in this process, and after a crash may be found
    /// or not. `Poisoned`: a sync failed, now or before; reads go on.
    /// `Corruption`: a collection whose segments are damaged takes no writes.
    /// `Closed`.
    pub fn write(&self, batch: WriteBatch) -> Result<SeqNo> {
        self.write_with(batch, WriteOptions::new())
    }

    /// Writes a batch. Slowed when the memory budget is nearly used, and stalled
    /// while it is used up.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub fn write_with(&self, batch: WriteBatch, options: WriteOptions) -> Result<SeqNo> {
        self.handle.write(batch, options, true)
    }

    /// As [`Db::write_with`], but never waits for memory.
    ///
    /// # Errors
    /// As [`Db::write`], and `Busy` where that would stall: nothing was written.
    pub fn try_write(&self, batch: WriteBatch, options: WriteOptions) -> Result<SeqNo> {
        self.handle.write(batch, options, false)
    }

    /// Queues a batch and returns at once, for hosts that cannot keep a thread
    /// waiting for each write. Never waits for memory.
    ///
    /// # Errors
    /// As [`Db::try_write`]; failures of the write itself come from the ticket.
    pub fn submit(&self, batch: WriteBatch, options: WriteOptions) -> Result<Ticket> {
        let core = &self.handle.core;
        let ticket = core.enqueue(batch, options, false)?;
        core.signals.log.notify();
        Ok(Ticket {
            core: Arc::clone(core),
            ticket,
        })
    }

    /// Makes every write so far durable, whatever its own durability.
    ///
    /// # Errors
    /// `Poisoned` when the sync fails; `Closed`.
    pub fn sync(&self) -> Result<()> {
        self.handle.core.check_writable()?;
        self.handle.core.sync_log()
    }

    /// Pins the database as it is now, for reads that agree with each other.
    ///
    /// # Errors
    /// `Busy` when snapshots already pin more than `snapshot_memory`; `Closed`.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::take(&self.handle.core)
    }

    /// Turns everything in memory into segments, and waits for it.
    ///
    /// # Errors
    /// As [`Db::write`], and whatever keeps a segment from being written.
    pub fn flush(&self) -> Result<()> {
        let core = &self.handle.core;
        let flushed = core.flush_now();
        core.deliver_own_events();
        flushed
    }

    /// Flushes, then merges the segments that each collection has then into one
    /// without deleted rows, with a graph if it is large enough, and waits for it.
    ///
    /// # Errors
    /// As [`Db::flush`]. `Corruption` comes after all else was merged: damaged
    /// segments are left as they are.
    pub fn compact(&self) -> Result<()> {
        self.compact_with(&CompactOptions::new())
    }

    /// The segments that turned out to be damaged since the database was opened.
    /// Nothing of this is kept: after the next open, damage is found again where it
    /// is touched, or by [`Db::verify`].
    #[must_use]
    pub fn quarantined(&self) -> Vec<QuarantinedSegment> {
        self.handle.core.quarantined()
    }

    /// What it has done since it was opened, and what it holds. The debt of merges takes
    /// time in proportion to the segments: milliseconds for thousands.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.handle.core.stats()
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.handle.core.dir
    }

    /// Ends background work, makes every write durable and marks a clean end.
    /// Every handle of the database answers `Closed` from then on. Dropping the
    /// last handle does the same, without telling whether it worked.
    ///
    /// # Errors
    /// `Poisoned` or `Io` when the clean end could not be marked: acknowledged
    /// writes are as safe as their durability, and the next open recovers.
    pub fn close(&self) -> Result<()> {
        self.handle.close()
    }

    /// Does one piece of background work; false if there was none. For
    /// [`Background::Manual`].
    ///
    /// # Errors
    /// Whatever failed; the work is done again at a later call.
    pub fn run_background_step(&self) -> Result<bool> {
        let core = &self.handle.core;
        core.check_open()?;
        let worked = core.run_background_step();
        core.deliver_own_events();
        worked
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db")
            .field("path", &self.handle.core.dir)
            .finish_non_exhaustive()
    }
}
