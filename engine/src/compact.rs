//! Merging segments in the background.
//!
//! Owns the plan's execution and its commit. Invariants: one merge at a time, so
//! running merges never share an input; deletions made while a merge ran are
//! carried over to its output at the commit; inputs are unlinked after the
//! manifest durably stopped naming them and their last reader is gone; nothing is
//! copied of a segment that does not verify, and one that is out of use is left
//! alone while the others go on being merged.
//! Must not know: how rows are merged, or chosen.

mod room;
mod watch;

use std::cell::Cell;
use std::sync::Arc;

use esker_compaction::{
    GraphDescription, GraphState, MAX_ROWS, MergeInput, MergedRows, Plan, Policy,
    SegmentDescription, carry_over,
};
use esker_segment::{CollectionId, DeletionVector, SegmentId};
use esker_wal::mutants::planted;

use crate::commit::VersionChange;
use crate::core::{CollectionInfo, Core};
use crate::error::{Error, Result};
use crate::files::discard;
use crate::merges::{Leave, MergeControl};
use crate::options::CancelToken;
use crate::quarantine::check_sound;
use crate::rate::NAP;
use crate::segment_file::{LiveSegment, Readable, SegmentFile};
use crate::sync::{AtomicBool, Ordering};
use crate::view::{CollectionView, Version};

pub(crate) use watch::FullMerge;
use watch::{Asked, MergeWatch, Origin};

/// Bytes that a verification reads between two questions, at most.
const VERIFIED_PIECE: u64 = 1 << 20;

impl Core {
    fn policy(&self) -> Policy {
        Policy {
            merge_width: self.options.merge_width,
            deletion_ratio: self.options.deletion_ratio,
            max_graph_segments: self.options.max_graph_segments,
            max_rows: MAX_ROWS,
        }
    }

    /// Does the most pressing merge, if one is due.
    pub(crate) fn compact_step(&self) -> Result<bool> {
        if !self.options.auto_compact || self.merges.is_paused() || self.poison.is_set() {
            return Ok(false);
        }
        let _exclusive = self.compacting.lock();
        let asked = Asked {
            origin: Origin::Background,
            only: None,
            leave: self.merges.in_background(),
        };
        // One merge at a time: none has any of them.
        self.merge_one(&asked, |policy, segments| policy.choose(segments, &[]))
    }

    /// Makes background merges give way and flushes leave graphs out, until the
    /// guard is dropped: what they made would be merged again.
    pub(crate) fn announce_full_merge(&self, only: Option<Arc<CollectionInfo>>) -> FullMerge<'_> {
        FullMerge::announce(self, only)
    }

    pub(crate) fn full_merge_announced(&self, info: &CollectionInfo) -> bool {
        let announced = [&self.full_merges, &info.full_merges];
        announced
            .iter()
            .any(|count| count.load(Ordering::Acquire) > 0)
    }

    /// Merges the segments that each collection has now into one, or those of one
    /// collection.
    pub(crate) fn compact_all(
        &self,
        announced: FullMerge<'_>,
        cancel: Option<&CancelToken>,
    ) -> Result<()> {
        let asked = Asked {
            origin: Origin::Caller,
            only: announced.only(),
            leave: MergeControl::for_caller(cancel),
        };
        let _exclusive = self.right_to_merge(cancel, &asked.leave)?;
        drop(announced);
        // What is flushed meanwhile is left for the next: this one ends.
        let end = self.numbers.peek();
        let choose = |policy: &Policy, segments: &[SegmentDescription]| {
            let old: Vec<_> = segments.iter().filter(|s| s.id.0 < end).copied().collect();
            policy.full(&old)
        };
        loop {
            let before = self.quarantined().len();
            self.check_cancelled(&asked.leave)?;
            match self.merge_one(&asked, choose) {
                Ok(true) => {}
                Ok(false) if self.merges.is_cancelled(&asked.leave) => {}
                Ok(false) => break,
                // The damaged one is left out from now on.
                Err(error) if error.is_damage() && self.quarantined().len() > before => {}
                Err(error) => return Err(error),
            }
        }
        let (view, _) = self.published.get();
        let mut merged = view.collections.iter().filter(|(id, _)| asked.is_for(**id));
        merged.try_for_each(|(_, collection)| check_sound(collection))
    }

    pub(crate) fn check_cancelled(&self, leave: &Leave) -> Result<()> {
        match self.merges.is_cancelled(leave) {
            true => Err(Error::Busy("the compaction was cancelled".to_owned())),
            false => Ok(()),
        }
    }

    /// The right to merge, once whoever has it is done with it.
    fn right_to_merge(
        &self,
        cancel: Option<&CancelToken>,
        leave: &Leave,
    ) -> Result<impl Sized + use<'_>> {
        if cancel.is_none() {
            return Ok(self.compacting.lock());
        }
        loop {
            if let Some(exclusive) = self.compacting.try_lock() {
                return Ok(exclusive);
            }
            self.check_open()?;
            self.check_cancelled(leave)?;
            self.env.clock().sleep(NAP);
        }
    }

    /// Does the merge whose oldest input has waited longest; one that lacks room keeps no
    /// other back.
    fn merge_one(
        &self,
        asked: &Asked,
        choose: impl Fn(&Policy, &[SegmentDescription]) -> Option<Plan>,
    ) -> Result<bool> {
        let (view, _) = self.published.get();
        let policy = self.policy();
        let mut plans = Vec::new();
        for (&id, collection) in &view.collections {
            let Some(info) = self.info(id).filter(|_| asked.is_for(id)) else {
                continue;
            };
            if asked.origin == Origin::Caller {
                look_at_all(collection)?;
            }
            let segments = self.describe_all(&collection.version);
            if let Some(plan) = choose(&policy, &segments) {
                let oldest = plan.inputs.iter().min().copied();
                plans.push((oldest, info, plan));
            }
        }
        drop(view);
        plans.sort_by_key(|(oldest, _, _)| *oldest);
        let mut lacking = None;
        for (_, info, plan) in plans {
            let inputs = self.planned_inputs(info.id, &plan);
            match self.merge(&info, &inputs, asked) {
                Err(error @ Error::Busy(_)) => lacking = lacking.or(Some(error)),
                done => return done,
            }
        }
        lacking.map_or(Ok(false), Err)
    }

    /// Whether a new segment of this many rows, made of `inputs` or of none,
    /// would at once be due for a merge.
    pub(crate) fn is_due(&self, version: &Version, inputs: &[LiveSegment], rows: u64) -> bool {
        const NEW: SegmentId = SegmentId(u64::MAX);
        let mut segments = self.describe_all(version);
        segments.retain(|s| !inputs.iter().any(|input| input.id() == s.id));
        segments.push(SegmentDescription {
            id: NEW,
            rows,
            live_rows: rows,
            bytes: 0,
            graph: match self.options.graph.wanted(rows) {
                true => GraphState::Unopened,
                false => GraphState::Unwanted,
            },
        });
        let plan = self.policy().choose(&segments, &[]);
        plan.is_some_and(|plan| plan.inputs.contains(&NEW))
    }

    /// What there is to choose from: not what is out of use.
    fn describe_all(&self, version: &Version) -> Vec<SegmentDescription> {
        let segments = version.segments.iter();
        let all = planted("merge.leave_out_damaged");
        let usable = segments.filter(|s| all || s.file.quarantined().is_none());
        usable.map(|s| self.describe(s)).collect()
    }

    fn describe(&self, segment: &LiveSegment) -> SegmentDescription {
        let live_rows = segment.live_rows();
        SegmentDescription {
            id: segment.id(),
            rows: u64::from(segment.file.meta.rows),
            live_rows,
            bytes: segment.file.meta.len,
            graph: self.graph_of(&segment.file, live_rows),
        }
    }

    fn graph_of(&self, file: &SegmentFile, live_rows: u64) -> GraphState {
        // One that nobody has opened is not opened to find out.
        let graph = file.opened().map(|opened| opened.segment.stats().graph);
        match graph {
            Some(Some(graph)) => GraphState::Present(GraphDescription {
                generation: graph.generation,
                sampled_recall: graph.sampled_recall,
                sampled_rows: graph.sampled_rows,
                built_recall: Some(graph.built_recall),
            }),
            _ if !self.options.graph.wanted(live_rows) => GraphState::Unwanted,
            Some(None) => GraphState::Missing,
            None => GraphState::Unopened,
        }
    }

    /// The plan's inputs with the deletions that they have now.
    fn planned_inputs(&self, id: CollectionId, plan: &Plan) -> Vec<LiveSegment> {
        let (view, _) = self.published.get();
        let segments = view
            .collections
            .get(&id)
            .map(|c| c.version.segments.as_slice());
        let planned = |s: &&LiveSegment| plan.inputs.contains(&s.id());
        segments
            .unwrap_or_default()
            .iter()
            .filter(planned)
            .cloned()
            .collect()
    }

    /// Merges `inputs`; false if the merge gave way to another.
    fn merge(&self, info: &CollectionInfo, inputs: &[LiveSegment], asked: &Asked) -> Result<bool> {
        self.check_headroom(info, inputs)?;
        let watch = MergeWatch {
            core: self,
            info,
            origin: asked.origin,
            leave: asked.leave.clone(),
            first_new: self.numbers.peek(),
            rows: inputs.iter().map(LiveSegment::live_rows).sum(),
            builds: AtomicBool::new(false),
        };
        let output = match self.write_merged(info, inputs, &watch) {
            // Cancelled, but not because the database closes. What it was for may
            // be over by now.
            Err(Error::Closed) if !self.cancel.load(Ordering::Acquire) => {
                // What outran it is due at once.
                return Ok(watch.is_outrun());
            }
            other => other?,
        };
        self.commit_merge(info.id, inputs, output)?;
        Ok(true)
    }

    /// Verifies the inputs and writes what is live in them; `None` if nothing is.
    fn write_merged(
        &self,
        info: &CollectionInfo,
        inputs: &[LiveSegment],
        watch: &MergeWatch<'_>,
    ) -> Result<Option<SegmentFile>> {
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
                watch.moved(piece);
                cancelled()
            };
            verify_input(input, &paced)?;
            watch.moved(left.get());
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
        let mut rows = rows.metered(&self.outputs.builds);
        if self.options.graph.reuse {
            // The seed is of no account.
            rows = rows.keeping_a_graph(&self.options.graph.params(SegmentId(0)));
        }
        let write = |graph| {
            watch.builds.store(graph, Ordering::Relaxed);
            self.outputs
                .write_segment(info, &rows, graph, &|bytes| watch.moved(bytes), || {
                    path(rows.failed_input())
                })
                .map_err(|error| failed(rows.failed_input(), error))
                .map(Some)
        };
        if rows.is_empty() {
            return Ok(None);
        }
        if self.merge_builds_graph(watch, inputs) {
            match write(true) {
                // By itself it would only lose the graph that it has.
                Err(Error::Closed) if watch.is_outrun() && inputs.len() > 1 => {}
                written => return written,
            }
        }
        write(false)
    }

    /// Not if the output would be merged again at once.
    fn merge_builds_graph(&self, watch: &MergeWatch<'_>, inputs: &[LiveSegment]) -> bool {
        let (view, _) = self.published.get();
        let collection = view.collections.get(&watch.info.id);
        watch.origin == Origin::Caller
            || inputs.len() == 1
            || !collection.is_some_and(|c| self.is_due(&c.version, inputs, watch.rows))
    }

    fn commit_merge(
        &self,
        id: CollectionId,
        inputs: &[LiveSegment],
        output: Option<SegmentFile>,
    ) -> Result<()> {
        let mut manifest = self.manifest.lock();
        let (view, _) = self.published.get();
        let Some(collection) = view.collections.get(&id) else {
            return Ok(());
        };
        let deleted = match &output {
            Some(output) if !planted("merge.carry_over") => {
                deleted_meanwhile(&collection.version, inputs, output)?
            }
            _ => DeletionVector::default(),
        };
        let removed: Vec<_> = inputs.iter().map(LiveSegment::id).collect();
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
        };
        if planted("merge.inputs_until_edit") {
            let paths = inputs.iter().map(|s| s.file.pin.path());
            paths.for_each(|path| discard(self.storage(), path));
        }
        self.commit_version(&mut manifest, change, |_| {})?;
        drop(manifest);
        inputs.iter().for_each(|s| s.file.pin.mark_obsolete());
        self.counters.merged();
        // The new segment may be due for a merge itself.
        self.signals.compact.notify();
        self.signals.flush.notify();
        Ok(())
    }
}

/// Opens every segment of a collection that nobody has opened yet, so that it is known
/// which rows are dead and what lacks a graph. Those that are damaged are left out later.
fn look_at_all(collection: &CollectionView) -> Result<()> {
    let mut segments = collection.version.segments.iter();
    segments.try_for_each(|segment| match segment.read() {
        Err(error) if !error.is_damage() => Err(error),
        _ => Ok(()),
    })
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
