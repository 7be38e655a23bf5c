//! What all version edits so far add up to.
//!
//! Owns the one function that applies an edit, used when replaying and when
//! running alike, so the two cannot differ. Invariants: an edit that does not fit
//! (an unknown collection, a reused id) is an error.
//! Must not know: open files, readers, threads.

use std::collections::{BTreeMap, BTreeSet};

use esker_segment::{CollectionId, SegmentId, SeqNo};
use esker_wal::mutants::planted;

use super::edit::{CollectionMeta, DeletionMeta, Edit, Field, Seal, SegmentMeta};
use crate::files::FileName;

/// The persisted state of a database.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ManifestState {
    pub(crate) collections: BTreeMap<CollectionId, CollectionState>,
    /// The oldest log file that recovery needs; 0 before the first edit.
    pub(crate) first_log: u64,
    pub(crate) next_file: u64,
    pub(crate) next_collection: u32,
    pub(crate) last_seqno: SeqNo,
    /// Present only as the last edit before a clean close.
    pub(crate) seal: Option<Seal>,
}

/// One collection's part of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CollectionState {
    pub(crate) meta: CollectionMeta,
    pub(crate) flushed: SeqNo,
    pub(crate) segments: BTreeMap<SegmentId, SegmentState>,
}

/// A live segment and its deletions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SegmentState {
    pub(crate) meta: SegmentMeta,
    pub(crate) deletions: Option<DeletionMeta>,
}

/// File names are built from twelve decimal digits.
const MAX_FILE_NUMBER: u64 = 999_999_999_999;

impl ManifestState {
    /// Applies an edit. After an error the state is of no further use: whoever
    /// must keep it applies the edit to a copy.
    pub(crate) fn apply(&mut self, edit: &Edit) -> Result<(), String> {
        self.seal = None;
        edit.0.iter().try_for_each(|field| self.apply_field(field))
    }

    /// Whether the counters leave room to go on, and agree with each other.
    pub(crate) fn check_counters(&self) -> Result<(), String> {
        /// Room for numbers, so that names keep their twelve digits.
        const MARGIN: u64 = 1_000_000;
        if self.next_file > MAX_FILE_NUMBER - MARGIN {
            return Err("file numbers are used up".to_owned());
        }
        if self.last_seqno.0 > u64::MAX / 2 {
            return Err("SeqNos are used up".to_owned());
        }
        let ahead = self
            .collections
            .values()
            .find(|c| c.flushed > self.last_seqno);
        match ahead {
            Some(c) => Err(format!(
                "collection {} was flushed beyond the last SeqNo",
                c.meta.id
            )),
            None => Ok(()),
        }
    }

    fn apply_field(&mut self, field: &Field) -> Result<(), String> {
        match field {
            Field::CreateCollection(meta) => self.create(meta)?,
            Field::SetCodes(id, kind) => self.collection(*id)?.meta.codes = *kind,
            Field::DropCollection(id) => {
                self.collections
                    .remove(id)
                    .ok_or_else(|| format!("dropping no collection {id}"))?;
            }
            Field::AddSegment(collection, meta) => {
                let state = SegmentState {
                    meta: *meta,
                    deletions: None,
                };
                if self
                    .collection(*collection)?
                    .segments
                    .insert(meta.id, state)
                    .is_some()
                {
                    return Err(format!("segment {} added twice", meta.id));
                }
            }
            Field::RemoveSegment(collection, segment) => {
                let removed = self.collection(*collection)?.segments.remove(segment);
                removed.ok_or_else(|| format!("removing no segment {segment}"))?;
            }
            Field::SetDeletions(collection, segment, meta) => {
                let found = self.collection(*collection)?.segments.get_mut(segment);
                found
                    .ok_or_else(|| format!("deletions for no segment {segment}"))?
                    .deletions = Some(*meta);
            }
            Field::Flushed(collection, seqno) => {
                let state = self.collection(*collection)?;
                if *seqno < state.flushed {
                    return Err(format!("collection {collection} flushed backwards"));
                }
                state.flushed = *seqno;
            }
            Field::FirstLog(number) => self.first_log = *number,
            Field::NextFile(number) => {
                if *number < self.next_file || *number > MAX_FILE_NUMBER {
                    return Err(format!("next file number {number} out of order"));
                }
                self.next_file = *number;
            }
            Field::NextCollection(id) => self.next_collection = self.next_collection.max(*id),
            Field::LastSeqNo(seqno) => self.last_seqno = self.last_seqno.max(*seqno),
            Field::Seal(seal) => self.seal = Some(*seal),
        }
        Ok(())
    }

    fn create(&mut self, meta: &CollectionMeta) -> Result<(), String> {
        let id = meta.id;
        if id.0 < self.next_collection
            || self.collections.values().any(|c| c.meta.name == meta.name)
        {
            return Err(format!("collection {id} created twice"));
        }
        self.next_collection =
            id.0.checked_add(1)
                .ok_or_else(|| "collection ids are exhausted".to_owned())?;
        let state = CollectionState {
            meta: meta.clone(),
            flushed: SeqNo(0),
            segments: BTreeMap::new(),
        };
        self.collections.insert(id, state);
        Ok(())
    }

    fn collection(&mut self, id: CollectionId) -> Result<&mut CollectionState, String> {
        self.collections
            .get_mut(&id)
            .ok_or_else(|| format!("no collection {id}"))
    }

    /// The edit that makes this state from an empty one.
    pub(crate) fn to_edit(&self) -> Edit {
        let mut fields = Vec::new();
        for (&id, collection) in &self.collections {
            fields.extend(collection.meta.fields());
            fields.push(Field::Flushed(id, collection.flushed));
            for (&segment, state) in &collection.segments {
                fields.push(Field::AddSegment(id, state.meta));
                if let Some(deletions) = state.deletions {
                    fields.push(Field::SetDeletions(id, segment, deletions));
                }
            }
        }
        if !planted("manifest.next_collection") {
            fields.push(Field::NextCollection(self.next_collection));
        }
        fields.push(Field::NextFile(self.next_file));
        fields.push(Field::FirstLog(self.first_log));
        fields.push(Field::LastSeqNo(self.last_seqno));
        fields.extend(self.seal.map(Field::Seal));
        Edit(fields)
    }

    /// Numbers of the deletion-vector files that are named.
    pub(crate) fn deletion_files(&self) -> BTreeSet<u64> {
        self.segments()
            .filter_map(|(_, s)| Some(s.deletions?.file))
            .collect()
    }

    /// Whether a file other than a log is part of the database whose manifest has this
    /// number.
    pub(crate) fn names(&self, file: FileName, manifest: u64) -> bool {
        match file {
            FileName::Current | FileName::Lock => true,
            FileName::Manifest(number) => number == manifest,
            FileName::Segment(number) => self.segments().any(|(_, s)| s.meta.id.0 == number),
            FileName::Deletions(number) => self
                .segments()
                .any(|(_, s)| s.deletions.is_some_and(|d| d.file == number)),
            FileName::Log(_)
            | FileName::UnfinishedSegment(_)
            | FileName::UnfinishedDeletions(_)
            | FileName::Temporary => false,
        }
    }

    /// Every live segment with its collection.
    pub(crate) fn segments(&self) -> impl Iterator<Item = (CollectionId, &SegmentState)> {
        self.collections
            .iter()
            .flat_map(|(&id, c)| c.segments.values().map(move |segment| (id, segment)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use esker_segment::{FileId, Metric};

    fn meta(id: u64) -> SegmentMeta {
        SegmentMeta {
            id: SegmentId(id),
            file_id: FileId([1; 16]),
            len: 10,
            hash: 20,
            rows: 3,
            min_seqno: SeqNo(1),
            max_seqno: SeqNo(3),
        }
    }

    fn created() -> ManifestState {
        let mut state = ManifestState::default();
        let collection = CollectionMeta {
            id: CollectionId(0),
            name: "a".into(),
            dimension: 2,
            metric: Metric::L2,
            codes: esker_segment::CodeKind::default(),
        };
        state
            .apply(&Edit(vec![Field::CreateCollection(collection)]))
            .expect("fits");
        state
    }

    #[test]
    fn a_snapshot_edit_makes_the_same_state() {
        let mut state = created();
        let c = CollectionId(0);
        let deletions = DeletionMeta {
            file: 8,
            file_id: FileId([2; 16]),
            offset: 1,
            len: 2,
            hash: 3,
        };
        state
            .apply(&Edit(vec![
                Field::AddSegment(c, meta(5)),
                Field::SetDeletions(c, SegmentId(5), deletions),
                Field::Flushed(c, SeqNo(3)),
                Field::NextFile(9),
                Field::FirstLog(4),
                Field::LastSeqNo(SeqNo(7)),
                Field::Seal(Seal {
                    log: 4,
                    end: 128,
                    chain_crc: 9,
                }),
            ]))
            .expect("fits");
        let mut copy = ManifestState::default();
        copy.apply(&state.to_edit()).expect("fits");
        assert_eq!(copy, state);
        assert_eq!(copy.deletion_files().into_iter().collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn an_edit_that_does_not_fit_is_refused() {
        let before = created();
        let c = CollectionId(0);
        for bad in [
            vec![Field::AddSegment(c, meta(5)), Field::AddSegment(c, meta(5))],
            vec![Field::AddSegment(CollectionId(9), meta(5))],
            vec![Field::Flushed(c, SeqNo(9)), Field::Flushed(c, SeqNo(8))],
            vec![
                Field::AddSegment(c, meta(5)),
                Field::RemoveSegment(c, SegmentId(6)),
            ],
            vec![Field::CreateCollection(before.collections[&c].meta.clone())],
            vec![Field::NextFile(MAX_FILE_NUMBER + 1)],
        ] {
            assert!(before.clone().apply(&Edit(bad)).is_err());
        }
    }

    #[test]
    fn counters_that_leave_no_room_are_refused() {
        assert_eq!(created().check_counters(), Ok(()));
        for bad in [
            Field::NextFile(MAX_FILE_NUMBER),
            Field::LastSeqNo(SeqNo(u64::MAX)),
            Field::Flushed(CollectionId(0), SeqNo(1)),
        ] {
            let mut state = created();
            state.apply(&Edit(vec![bad])).expect("fits");
            assert!(state.check_counters().is_err());
        }
    }
}
