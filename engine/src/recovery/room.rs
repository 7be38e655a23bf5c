//! Flushing while a log is replayed, so that any log fits the memory budget.
//!
//! Owns when a replay flushes, and what. Invariants: memtables of a collection are
//! flushed oldest first, each key resolved against every segment that the collection
//! has by then, so a key never has two live rows; nothing that is written here is
//! named before the fresh manifest, which names all of it at once, so a crash leaves
//! what was there before; fresh log files stay as long as a memtable needs them.
//! A memtable may end in the middle of a batch: nobody reads before the open is done,
//! and the manifest and the log together hold the whole of it.
//! Must not know: frames.

use std::collections::BTreeMap;
use std::sync::Arc;

use esker_segment::{CollectionId, SegmentId};
use esker_wal::mutants::planted;

use super::Opening;
use crate::batch::Operation;
use crate::core::CollectionInfo;
use crate::error::{Error, Result};
use crate::events::{Event, FlushReport, Job, Kind};
use crate::files::discard;
use crate::flush::{Contents, MemtableRows, Superseded, changed_deletions, resolve_since};
use crate::gc::FilePin;
use crate::manifest::{Edit, Field, ManifestState};
use crate::memtable::Memtable;
use crate::sync::PinArc;
use crate::view::Version;
use crate::write::log::Log;

/// Rough heap bytes of an operation beside its key, vector and payload.
const OPERATION_BYTES: usize = 256;
/// Budgets below this are not kept within a step: first blocks of memtables alone
/// take 64 KiB for each collection, and every row would become a segment.
const LEAST_BUDGET: usize = 1 << 20;

/// What is left to do for the budget's sake.
#[derive(Default)]
pub(super) struct Room {
    /// Estimated bytes of the operations since the last look at the budget.
    grown: usize,
    /// Segments whose deletion vectors in the view are not those of a file.
    changed: BTreeMap<CollectionId, Vec<SegmentId>>,
}

impl Opening {
    /// What memtables may take before they are flushed: half of their budget. The
    /// rest is for a frame and its copy, and for what a flush needs.
    fn room(&self) -> usize {
        self.budget.limit() / 2
    }

    /// Takes an operation that was replayed into account, and flushes if it is time:
    /// looked at in steps, because a flush makes a segment of however few rows there
    /// are.
    pub(super) fn note_growth(
        &mut self,
        operation: &Operation<'_>,
        state: &mut ManifestState,
        log: &Log,
    ) -> Result<()> {
        let bytes = match operation {
            Operation::Put {
                key,
                vector,
                payload,
                ..
            } => 2 * key.len() + vector.len() + payload.map_or(0, <[u8]>::len),
            Operation::Delete { key, .. } => key.len(),
        };
        self.room.grown += bytes + OPERATION_BYTES;
        let step = self.room() / 8;
        if self.room.grown >= step || self.budget.used() > self.budget.limit().max(LEAST_BUDGET) {
            self.make_room(state, log)?;
        }
        Ok(())
    }

    /// Flushes until the memtables that are left take no more than they may.
    pub(super) fn make_room(&mut self, state: &mut ManifestState, log: &Log) -> Result<()> {
        self.room.grown = 0;
        while self.budget.used() > self.room() {
            let Some(id) = self.next_to_flush() else {
                break;
            };
            self.flush_oldest(id, state)?;
            self.release_logs(log);
        }
        Ok(())
    }

    /// The collection whose frozen memtable pins the oldest log file; without one,
    /// the collection whose rows take the most, so that segments are few.
    fn next_to_flush(&self) -> Option<CollectionId> {
        let collections = self.view.collections.iter();
        let frozen = collections
            .clone()
            .filter(|(id, c)| !c.frozen.is_empty() && !self.is_damaged(**id))
            .min_by_key(|(_, c)| c.frozen.first().map(|m| m.first_log()));
        let active = || {
            collections
                .filter(|(_, c)| !c.active.is_empty())
                .max_by_key(|(_, c)| c.active.charged_bytes())
        };
        frozen.or_else(active).map(|(&id, _)| id)
    }

    fn is_damaged(&self, id: CollectionId) -> bool {
        let info = self.collections.get(&id);
        info.is_some_and(|info| info.damaged.lock().is_some())
    }

    /// Freezes what the collection's active memtable holds. A damaged collection's is
    /// set aside at once, or others would be flushed for its sake.
    pub(super) fn freeze(&mut self, id: CollectionId) {
        let Some(info) = self.collections.get(&id) else {
            return;
        };
        if let Some(collection) = self.view.collections.get_mut(&id)
            && !collection.active.is_empty()
        {
            collection.freeze(info.new_memtable(&self.budget));
            if info.damaged.lock().is_some() {
                collection.set_frozen_aside();
            }
        }
    }

    fn flush_oldest(&mut self, id: CollectionId, state: &mut ManifestState) -> Result<()> {
        if self.is_damaged(id) {
            self.set_aside(id);
            return Ok(());
        }
        let oldest = |this: &Self| {
            let collection = this.view.collections.get(&id)?;
            let memtable = PinArc::clone(collection.frozen.first()?);
            let info = Arc::clone(this.collections.get(&id)?);
            Some((info, memtable, Arc::clone(&collection.version)))
        };
        let found = oldest(self).or_else(|| {
            self.freeze(id);
            oldest(self)
        });
        let Some((info, memtable, version)) = found else {
            return Ok(());
        };
        match self.flush(&info, &memtable, &version, state) {
            // Nothing of it is lost, and the other collections can do without it.
            Err(error) if error.is_damage() => {
                *info.damaged.lock() = Some(error);
                self.report.damaged_collections.push(info.name.clone());
                self.set_aside(id);
                Ok(())
            }
            flushed => flushed,
        }
    }

    /// The rows of a damaged collection stay in memory and in the log, whatever they
    /// take. They are charged to the snapshots, to hold nobody else back.
    fn set_aside(&mut self, id: CollectionId) {
        self.freeze(id);
        if let Some(collection) = self.view.collections.get(&id) {
            collection.set_frozen_aside();
        }
    }

    /// As [`Opening::set_aside`], for every collection that turned out to be damaged.
    pub(super) fn set_damaged_aside(&mut self) {
        let ids: Vec<_> = self.collections.keys().copied().collect();
        for id in ids {
            if self.is_damaged(id) {
                self.set_aside(id);
            }
        }
    }

    /// Makes a segment of the oldest memtable, which nothing names yet, and takes it
    /// into the view and the state. Where merges will see to graphs, they are left to
    /// them; elsewhere every flush builds its own, this one too.
    fn flush(
        &mut self,
        info: &CollectionInfo,
        memtable: &Memtable,
        version: &Version,
        state: &mut ManifestState,
    ) -> Result<()> {
        let (counters, env) = (Arc::clone(&self.counters), Arc::clone(&self.options.env));
        let job = Job::begin(Kind::Flush, &counters, env.clock());
        let contents = Contents::of(memtable);
        let mut superseded = Superseded::new();
        resolve_since(&contents, &Version::default(), version, &mut superseded)?;
        if planted("open.flush_resolves") {
            superseded.clear();
        }
        let flushed = match planted("open.flush_seqno") {
            true => state.last_seqno,
            false => memtable.last_seqno(),
        };
        let mut fields = vec![Field::Flushed(info.id, flushed)];
        let mut output = None;
        if !contents.has_no_rows() {
            let rows = MemtableRows::new(memtable, &contents, &|| false, &self.outputs.builds);
            let with_graph = !self.options.auto_compact;
            let segment = self.outputs.write_segment(
                info,
                &rows,
                with_graph,
                &|bytes| job.wrote(bytes),
                || None,
            )?;
            fields.push(Field::AddSegment(info.id, segment.file.meta));
            output = Some(segment);
        }
        let report = FlushReport::of(info, &contents, output.as_ref(), &self.options.graph);
        // Not earlier: together they may take as much as the memtable. Nor later, when
        // something was taken into the state: damage may still end this.
        let deletions = changed_deletions(version, &superseded)?;
        self.report.flushed_segments += usize::from(output.is_some());
        apply(state, fields)?;
        let changed = self.room.changed.entry(info.id).or_default();
        changed.extend(deletions.keys());
        if let Some(collection) = self.view.collections.get_mut(&info.id) {
            collection.version =
                Arc::new(version.with(&[], output.map(|output| output.file), deletions));
            collection.drop_frozen(memtable);
        }
        self.counters.flushed();
        let time = job.end();
        self.events.push(|| {
            Event::FlushDone(FlushReport {
                while_opening: true,
                superseded_rows: superseded.values().map(|rows| rows.len() as u64).sum(),
                bytes_written: job.bytes_written(),
                time,
                ..report
            })
        });
        Ok(())
    }

    /// Removes fresh log files that no memtable needs any more. Nothing names them.
    pub(super) fn release_logs(&self, log: &Log) {
        // What is replayed now is in the current file, even if no row of it is in a
        // memtable yet.
        let (current, _) = log.end();
        let first = match planted("open.flush_keeps_log") {
            true => current,
            false => self.view.first_log(current, None),
        };
        for path in log.release_below(first) {
            discard(self.storage(), &path);
        }
    }

    /// Writes the deletion vectors that flushes changed, and puts them into the state.
    /// The pins hold the files until the manifest names them.
    pub(super) fn write_deletions(&mut self, state: &mut ManifestState) -> Result<Vec<FilePin>> {
        let mut pins = Vec::new();
        let job = Job::begin(Kind::Flush, &self.counters, self.options.env.clock());
        if planted("open.flush_deletions") {
            self.room.changed.clear();
        }
        for (id, segments) in std::mem::take(&mut self.room.changed) {
            let Some(collection) = self.view.collections.get(&id) else {
                continue;
            };
            let live = collection.version.segments.iter();
            let vectors = live
                .filter(|segment| segments.contains(&segment.id()))
                .filter_map(|segment| {
                    // Known, because a flush changed it.
                    let deleted = segment.known_deletions()?;
                    Some((segment.id(), Arc::clone(deleted)))
                })
                .collect();
            let (fields, pin) = self.outputs.write_deletions(id, &vectors, &job)?;
            apply(state, fields)?;
            pins.extend(pin);
        }
        job.end();
        Ok(pins)
    }

    /// Marks what the fresh manifest names, which may not be removed any more.
    pub(super) fn mark_named(&self, deletions: &[FilePin]) {
        let collections = self.view.collections.values();
        let segments = collections.flat_map(|c| &c.version.segments);
        segments.for_each(|segment| segment.file.pin.mark_named());
        deletions.iter().for_each(FilePin::mark_named);
    }

    /// Removes what a failed open wrote, as far as that works: on a full disk the next
    /// one needs the room. The rest is swept by the next open that succeeds.
    pub(super) fn abandon(&mut self, log: &Log, deletions: Vec<FilePin>) {
        drop(deletions);
        self.view.collections.clear();
        self.garbage.collect(self.storage());
        for path in log.abandon() {
            discard(self.storage(), &path);
        }
    }
}

fn apply(state: &mut ManifestState, fields: Vec<Field>) -> Result<()> {
    state
        .apply(&Edit(fields))
        .map_err(|what| Error::invalid(format!("an edit that does not fit: {what}")))
}
