//! Turning the oldest frozen memtable of a collection into a segment.
//!
//! Owns the build of a flush and its commit. Invariants: memtables of a
//! collection commit oldest first; every key of the memtable is resolved against
//! every segment that is live at the commit, so a key never has two live rows;
//! the log is synced before the edit, so a segment never outruns it; the memtable
//! is dropped only after the edit is durable. Must not know: merging. What an open
//! flushes while it replays a log has the same parts, in `recovery::room`.

mod contents;

use std::sync::Arc;

use esker_segment::{CollectionId, SeqNo};
use esker_wal::mutants::planted;

use crate::commit::VersionChange;
use crate::core::{CollectionInfo, Core};
use crate::error::{Error, Result};
use crate::events::{Event, FlushFailure, FlushReport, Job, Kind};
use crate::manifest::Field;
use crate::memtable::Memtable;
use crate::segments::Written;
use crate::sync::{AtomicUsize, Ordering, PinArc};
use crate::view::{CollectionView, ReadView, Version};

pub(crate) use contents::{Contents, MemtableRows, Superseded, changed_deletions, resolve_since};

/// A memtable that is flushed, and the version that this began from.
struct Flushing<'a> {
    info: &'a CollectionInfo,
    memtable: &'a Memtable,
    base: &'a Version,
    job: Job<'a>,
}

/// Somebody who waits for flushes.
struct FlushCaller<'a>(&'a AtomicUsize);

impl<'a> FlushCaller<'a> {
    fn of(core: &'a Core) -> Self {
        core.flush_callers.fetch_add(1, Ordering::AcqRel);
        Self(&core.flush_callers)
    }
}

impl Drop for FlushCaller<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Core {
    /// Flushes one frozen memtable if there is one. Nothing is lost on an error:
    /// the memtable and its log stay.
    pub(crate) fn flush_step(&self) -> Result<bool> {
        let _exclusive = self.flushing.lock();
        self.check_writable()?;
        let Some((info, memtable, version)) = self.next_flush() else {
            return Ok(false);
        };
        let flushing = Flushing {
            info: &info,
            memtable: &memtable,
            base: &version,
            job: Job::begin(Kind::Flush, &self.counters, self.env.clock()),
        };
        let result = self.flush_memtable(&flushing);
        self.tell_of_failure(&flushing, &result);
        if let Err(error) = &result
            && error.is_damage()
        {
            self.set_damaged(&info, error);
        }
        result.map(|_| true)
    }

    fn tell_of_failure(&self, flushing: &Flushing<'_>, flushed: &Result<bool>) {
        let error = match flushed {
            Ok(true) => return,
            Ok(false) => Error::invalid("the collection was dropped"),
            Err(error) => error.clone(),
        };
        let Flushing { info, job, .. } = flushing;
        let time = job.end();
        self.tell(|| Event::FlushFailed(FlushFailure::new(info, job, time, error)));
    }

    /// Freezes and flushes all that there is, for a caller who waits for it.
    pub(crate) fn flush_now(&self) -> Result<()> {
        self.check_writable()?;
        let _waits = FlushCaller::of(self);
        self.freeze_all();
        let flushed = self.flush_all();
        self.signals.compact.notify();
        flushed
    }

    /// Flushes all that is frozen. A collection that turns out to be damaged takes no
    /// more writes; the others are flushed before it is told of.
    pub(crate) fn flush_all(&self) -> Result<()> {
        loop {
            match self.flush_step() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        self.garbage.collect(self.storage());
        self.check_undamaged()
    }

    /// The rows cannot leave the log as long as a segment is damaged: the collection
    /// takes no more of them, and those it has hold nobody else back.
    fn set_damaged(&self, info: &CollectionInfo, error: &Error) {
        *info.damaged.lock() = Some(error.clone());
        self.group.with_leadership(|| self.freeze(info.id));
        let (view, _) = self.published.get();
        if let Some(collection) = view.collections.get(&info.id) {
            collection.set_frozen_aside();
        }
    }

    /// The frozen memtable that pins the oldest log file.
    fn next_flush(&self) -> Option<(Arc<CollectionInfo>, PinArc<Memtable>, Arc<Version>)> {
        let (view, _) = self.published.get();
        let (id, collection) = view
            .collections
            .iter()
            .filter(|(id, c)| {
                !c.frozen.is_empty() && self.info(**id).is_some_and(|i| i.damaged.lock().is_none())
            })
            .min_by_key(|(_, c)| c.frozen.first().map(|m| m.first_log()))?;
        let newest = planted("flush.oldest_first").then(|| collection.frozen.last());
        let memtable = PinArc::clone(newest.unwrap_or(collection.frozen.first())?);
        Some((self.info(*id)?, memtable, Arc::clone(&collection.version)))
    }

    /// False if the collection was dropped meanwhile.
    fn flush_memtable(&self, flushing: &Flushing<'_>) -> Result<bool> {
        let contents = Contents::of(flushing.memtable);
        let _held = self.outputs.builds.hold(contents.heap_bytes());
        let mut superseded = Superseded::new();
        resolve_since(
            &contents,
            &Version::default(),
            flushing.base,
            &mut superseded,
        )?;
        let output = if contents.has_no_rows() {
            None
        } else {
            Some(self.write_flushed(flushing, &contents)?)
        };
        let graphs = &self.options.graph;
        let report = FlushReport::of(flushing.info, &contents, output.as_ref(), graphs);
        let done = |superseded_rows| {
            let time = flushing.job.end();
            self.tell(|| {
                Event::FlushDone(FlushReport {
                    superseded_rows,
                    bytes_written: flushing.job.bytes_written(),
                    time,
                    ..report
                })
            });
        };
        self.commit_flush(flushing, &contents, superseded, output, done)
    }

    /// Writes the rows, with their graph unless others wait for the flush or come
    /// to wait for it, or a short merge is due that takes the rows in: a bulk load would
    /// build graph after graph to throw them away, and stall meanwhile. The policy
    /// sees to it that what is left without a graph gets it; where merges are off,
    /// nothing is left.
    fn write_flushed(&self, flushing: &Flushing<'_>, contents: &Contents) -> Result<Written> {
        let Flushing {
            info,
            memtable,
            job,
            ..
        } = flushing;
        let wrote = |bytes| job.wrote(bytes);
        let closing = || self.cancel.load(Ordering::Relaxed);
        let rows = MemtableRows::new(memtable, contents, &closing, &self.outputs.builds);
        let others =
            || self.options.auto_compact && self.others_wait() || self.full_merge_announced(info);
        let due = self.is_merge_due(info, contents.rows());
        if !others() && !due && self.has_room_for_graph(info, memtable, contents.rows())? {
            let cpu = &self.outputs.cpu;
            let _working = cpu.begin();
            let dropped = || info.dropped.load(Ordering::Acquire);
            let is_over = || closing() || others() || dropped();
            let give_up = || {
                let others_wait = || !self.options.auto_compact && self.others_wait();
                let caller_waits = || self.flush_callers.load(Ordering::Acquire) > 0;
                let waits = || self.budget.holds_writers() || caller_waits() || others_wait();
                match waits() {
                    true => cpu.forgive(),
                    false => cpu.ask(&|| is_over() || waits()),
                }
                is_over()
            };
            let rows = MemtableRows::new(memtable, contents, &give_up, &self.outputs.builds);
            match self
                .outputs
                .write_segment(info, &rows, true, &wrote, || None)
            {
                Err(Error::Closed) if !closing() => {}
                written => return written,
            }
        }
        self.outputs
            .write_segment(info, &rows, false, &wrote, || None)
    }

    /// Whether the disk seems to hold the rows with a graph. Where it may not, only the rows
    /// are written: a flush that fails is tried again and again, and would build the
    /// graph each time before the disk is asked.
    fn has_room_for_graph(
        &self,
        info: &CollectionInfo,
        memtable: &Memtable,
        rows: u64,
    ) -> Result<bool> {
        let needed = self.bytes_of_output(info, memtable.used_bytes() as u64, rows);
        Ok(self.free_bytes()?.is_none_or(|free| free >= needed))
    }

    /// Whether more memtables are frozen than the one being flushed, those of
    /// damaged collections aside.
    fn others_wait(&self) -> bool {
        let (view, _) = self.published.get();
        let flushable = |id: &CollectionId| {
            let info = self.info(*id);
            info.is_some_and(|info| info.damaged.lock().is_none())
        };
        let collections = view.collections.iter().filter(|(id, _)| flushable(id));
        collections.map(|(_, c)| c.frozen.len()).sum::<usize>() > 1
    }

    /// Whether a new segment of this many rows would at once be merged, and soon. Not while merges are
    /// paused, and not while as many run as may: until one is done, an hour perhaps, searches
    /// would scan all that comes.
    fn is_merge_due(&self, info: &CollectionInfo, rows: u64) -> bool {
        let (view, _) = self.published.get();
        let collection = view.collections.get(&info.id);
        self.options.auto_compact
            && !self.merges.is_paused()
            && self.running.has_room_for(info.id)
            && collection.is_some_and(|c| self.is_due(&c.version, &[], rows))
    }

    /// False if the collection was dropped. `done` is told how many rows the flush
    /// superseded, before anybody can merge what it wrote.
    fn commit_flush(
        &self,
        flushing: &Flushing<'_>,
        contents: &Contents,
        mut superseded: Superseded,
        output: Option<Written>,
        done: impl FnOnce(u64),
    ) -> Result<bool> {
        let &Flushing {
            memtable,
            base,
            ref job,
            ..
        } = flushing;
        let id = flushing.info.id;
        let mut manifest = self.manifest.lock();
        let (view, _) = self.published.get();
        let Some(collection) = view.collections.get(&id) else {
            // Dropped meanwhile: the output is nobody's.
            return Ok(false);
        };
        if !planted("flush.resolve_again") {
            resolve_since(contents, base, &collection.version, &mut superseded)?;
        }
        if !planted("flush.sync_log_first") {
            self.sync_log_through(memtable.last_seqno())?;
        }
        if planted("flush.mark_superseded") {
            superseded.clear();
        }
        // What a merge has replaced since holds them no longer.
        superseded.retain(|id, _| collection.version.segments.iter().any(|s| s.id() == *id));
        let changed = changed_deletions(&collection.version, &superseded)?;
        let rows = superseded.values().map(|rows| rows.len() as u64).sum();
        let first_log = self.first_log_without(Some(memtable));
        if planted("flush.log_until_edit") {
            self.release_logs(first_log);
            self.garbage.collect(self.storage());
        }
        let drop_memtable = |collection: &mut CollectionView| collection.drop_frozen(memtable);
        if planted("flush.memtable_until_edit") {
            let all = |view: &mut ReadView| view.collections.get_mut(&id).map(drop_memtable);
            self.published.update(all);
        }
        let flushed = match planted("flush.flushed_seqno") {
            true => SeqNo(self.group.next_seqno().saturating_sub(1)),
            false => memtable.last_seqno(),
        };
        let change = VersionChange {
            collection: id,
            removed: &[],
            added: output.map(|output| output.file),
            deletions: changed,
            fields: vec![Field::Flushed(id, flushed), Field::FirstLog(first_log)],
            job,
        };
        self.commit_version(&mut manifest, change, drop_memtable)?;
        // Who begins a merge takes the guard before it says so (`begin_merge`).
        done(rows);
        drop(manifest);
        memtable.release_to_pins();
        self.release_logs(first_log);
        self.counters.flushed();
        self.signals.compact.notify();
        Ok(true)
    }

    /// Makes log files older than `first` garbage.
    fn release_logs(&self, first: u64) {
        let released = self.log.release_below(first);
        released.into_iter().for_each(|path| self.garbage.add(path));
    }

    /// The oldest log file that any memtable but `without` needs.
    pub(crate) fn first_log_without(&self, without: Option<&Memtable>) -> u64 {
        // Read before the memtables: a group that is logged but not yet applied
        // is in the file that is current now, or in a later one.
        let (current, _) = self.log.end();
        let (view, _) = self.published.get();
        match planted("flush.log_of_others") {
            true => current,
            false => view.first_log(current, without),
        }
    }
}
