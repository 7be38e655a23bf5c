//! Merging segments in the background.
//!
//! Owns the plan's execution and its commit. Invariants: one merge at a time, so
//! running merges never share an input; deletions made while a merge ran are
//! carried over to its output at the commit; inputs are unlinked after the
//! manifest durably stopped naming them and their last reader is gone.
//! Must not know: how rows are merged, or chosen.

use std::sync::Arc;

use esker_compaction::{
    MAX_ROWS, MergeInput, MergedRows, Plan, Policy, SegmentDescription, carry_over,
};
use esker_segment::{CollectionId, DeletionVector, SegmentId};
use esker_wal::mutants::planted;

use crate::commit::VersionChange;
use crate::core::{CollectionInfo, Core};
use crate::error::{Error, Result};
use crate::files::discard;
use crate::sync::{AtomicBool, Ordering};
use crate::view::{LiveSegment, SegmentFile, Version};

/// Free space that a merge leaves, beside its output.
const SPARE_BYTES: u64 = 16 << 20;

/// Who wants a merge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Background,
    /// Somebody waits for it.
    Caller,
}

/// Held while somebody waits for a full merge.
pub(crate) struct FullMerge<'a>(&'a Core);

impl Drop for FullMerge<'_> {
    fn drop(&mut self) {
        self.0.full_merges.fetch_sub(1, Ordering::AcqRel);
        self.0.signals.compact.notify();
    }
}

/// Whether a running merge is still wanted, and its graph.
struct MergeWatch<'a> {
    core: &'a Core,
    collection: CollectionId,
    origin: Origin,
    /// Segments from this number on came after the merge was planned.
    first_new: u64,
    rows: u64,
    /// Whether it builds a graph now.
    builds: AtomicBool,
}

impl MergeWatch<'_> {
    fn is_cancelled(&self) -> bool {
        let outrun = || self.builds.load(Ordering::Relaxed) && self.is_outrun();
        self.core.cancel.load(Ordering::Acquire) || self.gives_way() || outrun()
    }

    fn gives_way(&self) -> bool {
        self.origin == Origin::Background && self.core.full_merge_announced()
    }

    /// Whether as many rows came without a graph as this merge has. Without its
    /// graph it is done soon, and they are merged with it; otherwise segments
    /// would pile up for as long as the graph takes.
    fn is_outrun(&self) -> bool {
        let (view, _) = self.core.published.get();
        let collection = view.collections.get(&self.collection);
        let segments = collection.map_or(&[][..], |c| &c.version.segments);
        let new = segments
            .iter()
            .filter(|s| s.id().0 >= self.first_new && !s.file.segment.has_graph());
        let new_rows: u64 = new.map(LiveSegment::live_rows).sum();
        self.origin == Origin::Background && new_rows >= self.rows
    }
}

impl Core {
    fn policy(&self) -> Policy {
        Policy {
            merge_width: self.options.merge_width,
            deletion_ratio: self.options.deletion_ratio,
            max_rows: MAX_ROWS,
        }
    }

    /// Does the most pressing merge, if one is due.
    pub(crate) fn compact_step(&self) -> Result<bool> {
        if !self.options.auto_compact || self.poison.is_set() {
            return Ok(false);
        }
        let _exclusive = self.compacting.lock();
        self.merge_one(Origin::Background, |policy, segments| {
            policy.choose(segments)
        })
    }

    /// Makes background merges give way and flushes leave graphs out, until the
    /// guard is dropped: what they made would be merged again.
    pub(crate) fn announce_full_merge(&self) -> FullMerge<'_> {
        self.full_merges.fetch_add(1, Ordering::AcqRel);
        FullMerge(self)
    }

    pub(crate) fn full_merge_announced(&self) -> bool {
        self.full_merges.load(Ordering::Acquire) > 0
    }

    /// Merges the segments that each collection has now into one.
    pub(crate) fn compact_all(&self, announced: FullMerge<'_>) -> Result<()> {
        let _exclusive = self.compacting.lock();
        drop(announced);
        // What is flushed meanwhile is left for the next: this one ends.
        let end = self.numbers.peek();
        let choose = |policy: &Policy, segments: &[SegmentDescription]| {
            let old: Vec<_> = segments.iter().filter(|s| s.id.0 < end).copied().collect();
            policy.full(&old)
        };
        while self.merge_one(Origin::Caller, choose)? {}
        Ok(())
    }

    fn merge_one(
        &self,
        origin: Origin,
        choose: impl Fn(&Policy, &[SegmentDescription]) -> Option<Plan>,
    ) -> Result<bool> {
        let (view, _) = self.published.get();
        let policy = self.policy();
        for (&id, collection) in &view.collections {
            let Some(info) = self.info(id) else { continue };
            if origin == Origin::Background && info.unmergeable.load(Ordering::Relaxed) {
                continue;
            }
            let segments = self.describe_all(&collection.version);
            if let Some(plan) = choose(&policy, &segments) {
                drop(view);
                let inputs = self.planned_inputs(id, &plan);
                let merged = self.merge(&info, &inputs, origin);
                if matches!(merged, Err(Error::Corruption { .. })) {
                    info.unmergeable.store(true, Ordering::Relaxed);
                }
                return merged;
            }
        }
        Ok(false)
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
            lacks_graph: false,
        });
        let plan = self.policy().choose(&segments);
        plan.is_some_and(|plan| plan.inputs.contains(&NEW))
    }

    fn describe_all(&self, version: &Version) -> Vec<SegmentDescription> {
        version.segments.iter().map(|s| self.describe(s)).collect()
    }

    fn describe(&self, segment: &LiveSegment) -> SegmentDescription {
        let live_rows = segment.live_rows();
        SegmentDescription {
            id: segment.id(),
            rows: u64::from(segment.file.meta.rows),
            live_rows,
            bytes: segment.file.meta.len,
            lacks_graph: !segment.file.segment.has_graph() && self.options.graph.wanted(live_rows),
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
    fn merge(&self, info: &CollectionInfo, inputs: &[LiveSegment], origin: Origin) -> Result<bool> {
        self.check_headroom(inputs)?;
        let merge_inputs = inputs
            .iter()
            .map(|s| MergeInput {
                segment: &s.file.segment,
                deleted: &s.deleted,
            })
            .collect();
        let watch = MergeWatch {
            core: self,
            collection: info.id,
            origin,
            first_new: self.numbers.peek(),
            rows: inputs.iter().map(LiveSegment::live_rows).sum(),
            builds: AtomicBool::new(false),
        };
        let cancelled = || watch.is_cancelled();
        let path = |at: Option<usize>| Some(inputs.get(at?)?.file.pin.path().clone());
        let rows = MergedRows::new(merge_inputs, &cancelled).map_err(|(error, at)| {
            let path = path(at).unwrap_or_else(|| self.dir.clone());
            Error::in_segment(&path, error)
        });
        let output = rows.and_then(|rows| {
            let write = |graph| {
                watch.builds.store(graph, Ordering::Relaxed);
                self.outputs
                    .write_segment(info, &rows, graph, || path(rows.failed_input()))
                    .map(Some)
            };
            if rows.is_empty() {
                return Ok(None);
            }
            if self.merge_builds_graph(&watch, inputs) {
                match write(true) {
                    Err(Error::Closed) if watch.is_outrun() => {}
                    written => return written,
                }
            }
            write(false)
        });
        let output = match output {
            // Cancelled, but not because the database closes. What it was for may
            // be over by now.
            Err(Error::Closed) if !self.cancel.load(Ordering::Acquire) => return Ok(false),
            other => other?,
        };
        self.commit_merge(info.id, inputs, output)?;
        Ok(true)
    }

    /// Not if the output would be merged again at once.
    fn merge_builds_graph(&self, watch: &MergeWatch<'_>, inputs: &[LiveSegment]) -> bool {
        let (view, _) = self.published.get();
        let collection = view.collections.get(&watch.collection);
        watch.origin == Origin::Caller
            || !collection.is_some_and(|c| self.is_due(&c.version, inputs, watch.rows))
    }

    fn check_headroom(&self, inputs: &[LiveSegment]) -> Result<()> {
        let rows: u64 = inputs.iter().map(LiveSegment::live_rows).sum();
        let graph = rows * u64::from(self.options.graph.max_degree) * 4;
        let files: u64 = inputs.iter().map(|s| s.file.meta.len).sum();
        let needed = files + graph + SPARE_BYTES;
        let free = self.storage().available_space(&self.dir);
        match free.map_err(|error| Error::io(&self.dir, "measuring free space of", error))? {
            Some(free) if free < needed => Err(Error::Busy(format!(
                "a merge needs {needed} free bytes, {} has {free}; make room",
                self.dir.display()
            ))),
            _ => Ok(()),
        }
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

/// What the inputs lost since the merge was planned, as rows of the output.
pub(crate) fn deleted_meanwhile(
    version: &Version,
    inputs: &[LiveSegment],
    output: &SegmentFile,
) -> Result<DeletionVector> {
    let since: Vec<_> = inputs
        .iter()
        .filter_map(|input| {
            let now = version.segments.iter().find(|s| s.id() == input.id())?;
            Some((input, now.deleted.since(&input.deleted)))
        })
        .collect();
    let lost: Vec<_> = since
        .iter()
        .map(|(input, deleted)| MergeInput {
            segment: &input.file.segment,
            deleted,
        })
        .collect();
    carry_over(&lost, &output.segment).map_err(|error| Error::in_segment(output.pin.path(), error))
}
