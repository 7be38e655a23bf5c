//! Merging segments in the background.
//!
//! Owns the plan's execution and its commit. Invariants: one merge at a time, so
//! running merges never share an input; deletions made while a merge ran are
//! carried over to its output at the commit; inputs are unlinked after the
//! manifest durably stopped naming them and their last reader is gone.
//! Must not know: how rows are merged, or chosen.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use esker_compaction::{
    CANCELLED, MAX_ROWS, MergeInput, MergedRows, Plan, Policy, SegmentDescription, carry_over,
};
use esker_segment::{CollectionId, DeletionVector};

use crate::commit::VersionChange;
use crate::core::{CollectionInfo, Core};
use crate::error::{Error, Result};
use crate::view::{LiveSegment, SegmentFile, Version};

/// Free space that a merge leaves, beside its output.
const SPARE_BYTES: u64 = 16 << 20;

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
        if !self.options.auto_compact || self.poison.get().is_some() {
            return Ok(false);
        }
        let _exclusive = self.compacting.lock();
        self.merge_one(true, |policy, segments| policy.choose(segments))
    }

    /// Merges every collection into one segment.
    pub(crate) fn compact_all(&self) -> Result<()> {
        let _exclusive = self.compacting.lock();
        while self.merge_one(false, Policy::full)? {}
        Ok(())
    }

    fn merge_one(
        &self,
        skip_damaged: bool,
        choose: impl Fn(&Policy, &[SegmentDescription]) -> Option<Plan>,
    ) -> Result<bool> {
        let (view, _) = self.published.get();
        let policy = self.policy();
        for (&id, collection) in &view.collections {
            let Some(info) = self.info(id) else { continue };
            if skip_damaged && info.unmergeable.load(Ordering::Relaxed) {
                continue;
            }
            let segments: Vec<_> = collection.version.segments.iter().map(describe).collect();
            if let Some(plan) = choose(&policy, &segments) {
                drop(view);
                let inputs = self.planned_inputs(id, &plan);
                let merged = self.merge(&info, &inputs);
                if matches!(merged, Err(Error::Corruption { .. })) {
                    info.unmergeable.store(true, Ordering::Relaxed);
                }
                return merged.map(|()| true);
            }
        }
        Ok(false)
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

    fn merge(&self, info: &CollectionInfo, inputs: &[LiveSegment]) -> Result<()> {
        self.check_headroom(inputs)?;
        let merge_inputs = inputs
            .iter()
            .map(|s| MergeInput {
                segment: &s.file.segment,
                deleted: &s.deleted,
            })
            .collect();
        let rows = MergedRows::new(merge_inputs, &self.cancel);
        let origin = |at: Option<usize>| Some(inputs.get(at?)?.file.pin.path().clone());
        let result = rows
            .map_err(|(error, at)| {
                let path = origin(at).unwrap_or_else(|| self.dir.clone());
                Error::in_segment(&path, error)
            })
            .and_then(|rows| {
                if rows.is_empty() {
                    return Ok(None);
                }
                let written = self.write_segment(info, &rows, || origin(rows.failed_input()));
                written.map(Some)
            });
        let output = match result {
            Err(Error::Invalid(what)) if what == CANCELLED => return Err(Error::Closed),
            other => other?,
        };
        self.commit_merge(info.id, inputs, output)
    }

    fn check_headroom(&self, inputs: &[LiveSegment]) -> Result<()> {
        let needed: u64 = inputs.iter().map(|s| s.file.meta.len).sum::<u64>() + SPARE_BYTES;
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
            Some(output) => deleted_meanwhile(&collection.version, inputs, output)?,
            None => DeletionVector::default(),
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
fn deleted_meanwhile(
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

fn describe(segment: &LiveSegment) -> SegmentDescription {
    SegmentDescription {
        id: segment.id(),
        rows: u64::from(segment.file.meta.rows),
        live_rows: segment.live_rows(),
        bytes: segment.file.meta.len,
    }
}
