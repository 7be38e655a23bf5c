//! Changing which segments a collection has.
//!
//! Owns the one way in which a version changes: outputs durable, edit durable,
//! view swapped, in this order, under the commit lock. Invariants: outputs that no
//! edit names are garbage; those of an edit in doubt stay; a view never shows what
//! is not durable. Must not know: why the version changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use esker_segment::{CollectionId, DeletionVector, SegmentId};
use esker_wal::mutants::planted;

use crate::core::Core;
use crate::error::Result;
use crate::events::Job;
use crate::gc::FilePin;
use crate::manifest::{CommitError, Field, Manifest};
use crate::segment_file::SegmentFile;
use crate::view::CollectionView;

/// What one edit does to a collection's segments.
pub(crate) struct VersionChange<'a> {
    pub(crate) collection: CollectionId,
    pub(crate) removed: &'a [SegmentId],
    pub(crate) added: Option<SegmentFile>,
    /// New deletion vectors, of the added segment or of ones that stay.
    pub(crate) deletions: BTreeMap<SegmentId, Arc<DeletionVector>>,
    /// What else the edit says.
    pub(crate) fields: Vec<Field>,
    /// The work that it is the end of.
    pub(crate) job: &'a Job<'a>,
}

impl Core {
    /// Makes the change durable and then visible; `also` changes the rest of the
    /// collection's view in the same swap. The manifest is the commit lock's.
    pub(crate) fn commit_version(
        &self,
        manifest: &mut Manifest,
        mut change: VersionChange<'_>,
        also: impl FnOnce(&mut CollectionView),
    ) -> Result<()> {
        let id = change.collection;
        let removed = change.removed.iter();
        let mut fields: Vec<_> = removed.map(|&s| Field::RemoveSegment(id, s)).collect();
        fields.extend(change.added.as_ref().map(|s| Field::AddSegment(id, s.meta)));
        let (deletions, file) = self
            .outputs
            .write_deletions(id, &change.deletions, change.job)?;
        fields.extend(deletions);
        fields.extend(change.fields);
        // In doubt, a crash may reveal the edit: what it names stays. From here on it
        // may be in doubt, also if a panic ends the commit.
        let segment = change.added.as_ref().map(|segment| &*segment.pin);
        let outputs = || segment.into_iter().chain(&file);
        outputs().for_each(FilePin::mark_named);
        let committed = self.commit(manifest, fields);
        let undone = matches!(committed, Err(CommitError::Clean(_)));
        if undone || committed.is_err() && planted("commit.keep_in_doubt") {
            outputs().for_each(FilePin::mark_obsolete);
        }
        committed.map_err(CommitError::into_error)?;
        if let Some(segment) = &mut change.added {
            segment.came_in_a_pause = self.merges.is_paused();
        }
        self.published.update(|view| {
            let Some(collection) = view.collections.get_mut(&id) else {
                return;
            };
            let version = &collection.version;
            collection.version =
                Arc::new(version.with(change.removed, change.added, change.deletions));
            also(collection);
        });
        Ok(())
    }
}
