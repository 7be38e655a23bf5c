//! Merging segments in the background.
//!
//! Owns the plan's execution and its commit. Invariants: running merges never share an
//! input; commits come one after another; deletions made while a merge ran are
//! carried over to its output at the commit; inputs are unlinked after the
//! manifest durably stopped naming them and their last reader is gone; nothing is
//! copied of a segment that does not verify, and one that is out of use is left
//! alone while the others go on being merged.
//! Must not know: how rows are merged, or chosen.

mod choose;
mod debt;
mod describe;
mod report;
mod room;
mod watch;

use std::cell::Cell;
use std::sync::Arc;

use esker_compaction::{MergeInput, MergedRows, carry_over};
use esker_segment::{DeletionVector, SegmentId};
use esker_wal::mutants::planted;

use crate::commit::VersionChange;
use crate::core::{CollectionInfo, Core};
use crate::error::{Error, Result};
use crate::events::{Job, Kind};
use crate::files::discard;
use crate::running::Claim;
use crate::segment_file::{LiveSegment, Readable, SegmentFile};
use crate::sync::{AtomicBool, Mutex, Ordering};
use crate::view::Version;

use choose::Chosen;
use report::{Merged, Output};
use watch::{Asked, MergeWatch, Origin};

/// Bytes that a verification reads between two questions, at most.
const VERIFIED_PIECE: u64 = 1 << 20;

impl Core {
    /// Merges what was chosen and claimed; false if the merge gave way to another.
    fn merge(&self, chosen: &Chosen, claim: &Claim<'_>, asked: &Asked) -> Result<bool> {
        let Chosen { info, inputs, .. } = chosen;
        let _working = self.outputs.cpu.begin();
        let plan = self.begin_merge(info, chosen.reason, inputs);
        let watch = MergeWatch {
            core: self,
            info,
            claim,
            origin: asked.origin,
            leave: asked.leave.clone(),
            first_new: self.numbers.peek(),
            rows: inputs.iter().map(LiveSegment::live_rows).sum(),
            builds: AtomicBool::new(false),
            job: &Job::begin(Kind::Merge, &self.counters, self.env.clock()),
            ended: Mutex::new(None),
        };
        let merged = self.merge_inputs(inputs, &watch);
        claim.end_output();
        self.end_merge(plan, &watch, &merged);
        match merged {
            // Cancelled, but not because the database closes. What it was for may
            // be over by now; what outran it is due at once, and so are other collections
            // where one was dropped.
            Err(Error::Closed) if !self.cancel.load(Ordering::Acquire) => {
                Ok(watch.was_dropped() || watch.was_outrun())
            }
            merged => merged.map(|_| true),
        }
    }

    /// What became of the inputs; `None` if their collection was dropped.
    fn merge_inputs(
        &self,
        inputs: &[LiveSegment],
        watch: &MergeWatch<'_>,
    ) -> Result<Option<Merged>> {
        self.check_writable()?;
        self.check_headroom(watch.info, inputs, watch.claim)?;
        let output = self.write_merged(watch.info, inputs, watch)?;
        self.commit_merge(inputs, output, watch)
    }

    /// Verifies the inputs and writes what is live in them; `None` if nothing is.
    fn write_merged(
        &self,
        info: &CollectionInfo,
        inputs: &[LiveSegment],
        watch: &MergeWatch<'_>,
    ) -> Result<Option<Output>> {
        let read: Vec<_> = inputs
            .iter()
            .map(LiveSegment::read)
            .collect::<Result<_>>()?;
        let cancelled = || watch.is_cancelled();
        for (input, file) in read.iter().zip(inputs) {
            let left = Cell::new(file.file.meta.len);
            // Asked before each piece that is read.
            let paced = || {
                let piece = left.get().min(VERIFIED_PIECE);
                left.set(left.get() - piece);
                watch.read(piece);
                cancelled()
            };
            verify_input(input, &paced)?;
            watch.read(left.get());
        }
        let failed = |at: Option<usize>, error: Error| match at.and_then(|at| inputs.get(at)) {
            Some(input) => input.file.quarantine(error),
            None => error,
        };
        let path = |at: Option<usize>| Some(inputs.get(at?)?.file.pin.path().clone());
        let rows = read.iter().map(|s| MergeInput {
            segment: s.segment,
            deleted: s.deleted,
        });
        let rows = MergedRows::new(rows.collect(), &cancelled).map_err(|(error, at)| {
            let path = path(at).unwrap_or_else(|| self.dir.clone());
            failed(at, Error::in_segment(&path, error))
        })?;
        let rows = rows.within(self.options.merge_memory());
        let mut rows = rows.metered(&self.outputs.builds);
        if self.options.graph.reuse {
            // The seed is of no account.
            rows = rows.keeping_a_graph(&self.options.graph.params(SegmentId(0)));
        }
        let write = |graph| {
            watch.builds.store(graph, Ordering::Relaxed);
            watch.claim.begin_output();
            self.outputs
                .write_segment(info, &rows, graph, &|bytes| watch.wrote(bytes), || {
                    path(rows.failed_input())
                })
                .map_err(|error| failed(rows.failed_input(), error))
                .map(|written| Some(Output::new(written, &rows, &self.options.graph)))
        };
        if rows.is_empty() {
            return Ok(None);
        }
        if self.merge_builds_graph(watch, inputs) {
            match write(true) {
                // By itself it would only lose the graph that it has.
                Err(Error::Closed) if watch.was_outrun() && inputs.len() > 1 => {}
                written => return written,
            }
        }
        *watch.ended.lock() = None;
        write(false)
    }

    /// Not if the output would be merged again at once, and that would soon be done.
    fn merge_builds_graph(&self, watch: &MergeWatch<'_>, inputs: &[LiveSegment]) -> bool {
        let (view, _) = self.published.get();
        let collection = view.collections.get(&watch.info.id);
        watch.origin == Origin::Caller
            || inputs.len() == 1
            || !collection.is_some_and(|c| self.is_due(&c.version, inputs, watch.rows))
    }

    fn commit_merge(
        &self,
        inputs: &[LiveSegment],
        output: Option<Output>,
        watch: &MergeWatch<'_>,
    ) -> Result<Option<Merged>> {
        let id = watch.info.id;
        let mut merged = Merged::new(output.as_ref());
        let output = output.map(|output| output.written.file);
        let mut manifest = self.manifest.lock();
        let (view, _) = self.published.get();
        let Some(collection) = view.collections.get(&id) else {
            return Ok(None);
        };
        let deleted = match &output {
            Some(output) if !planted("merge.carry_over") => {
                deleted_meanwhile(&collection.version, inputs, output)?
            }
            _ => DeletionVector::default(),
        };
        merged.rows_superseded = deleted.len();
        let removed: Vec<_> = inputs.iter().map(LiveSegment::id).collect();
        if let Some(output) = &output {
            // Nobody merges it before it was told where it comes from.
            watch.claim.keep(output.meta.id);
        }
        let of_output = output.as_ref().filter(|_| !deleted.is_empty());
        let change = VersionChange {
            collection: id,
            removed: &removed,
            deletions: of_output
                .map(|output| (output.meta.id, Arc::new(deleted)))
                .into_iter()
                .collect(),
            added: output,
            fields: Vec::new(),
            job: watch.job,
        };
        if planted("merge.inputs_until_edit") {
            let paths = inputs.iter().map(|s| s.file.pin.path());
            paths.for_each(|path| discard(self.storage(), path));
        }
        self.commit_version(&mut manifest, change, |_| {})?;
        drop(manifest);
        inputs.iter().for_each(|s| s.file.pin.mark_obsolete());
        // The new segment may be due for a merge itself.
        self.signals.compact.notify();
        self.signals.flush.notify();
        Ok(Some(merged))
    }
}

/// Reads the whole of an input again before anything of it is copied: a block that was
/// verified when somebody first touched it may have rotted on the disk since, and a copy
/// would get a checksum of its own.
fn verify_input(input: &Readable<'_>, cancelled: &dyn Fn() -> bool) -> Result<()> {
    if planted("merge.verify_inputs") {
        return Ok(());
    }
    let verified = input.segment.verify_blocks(cancelled);
    verified.map_err(|error| input.failed(error))
}

/// What the inputs lost since the merge was planned, as rows of the output. An input
/// that turned out to be damaged since ends the merge: it may be what was copied.
pub(crate) fn deleted_meanwhile(
    version: &Version,
    inputs: &[LiveSegment],
    output: &SegmentFile,
) -> Result<DeletionVector> {
    let mut lost = Vec::new();
    for input in inputs {
        let Some(now) = version.segments.iter().find(|s| s.id() == input.id()) else {
            continue;
        };
        let (then, now) = (input.read()?, now.read()?);
        lost.push((then, now.deleted.since(then.deleted)));
    }
    let merge_inputs: Vec<_> = lost
        .iter()
        .map(|(input, deleted)| MergeInput {
            segment: input.segment,
            deleted,
        })
        .collect();
    let carried = carry_over(&merge_inputs, &output.reader()?.segment);
    carried.map_err(|(error, at)| match at.and_then(|at| lost.get(at)) {
        Some((input, _)) => input.failed(error),
        // Not the database's damage but this output's: it is written again.
        None => {
            let error = std::io::Error::other(error);
            Error::io(output.pin.path(), "reading back", error)
        }
    })
}
