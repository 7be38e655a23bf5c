//! Which segments are out of use, for whoever wants to know.
//!
//! Owns the public report and the look at all segments. Invariant: reports what
//! queries meet, and changes nothing. Must not know: how damage is found.

use esker_segment::{CollectionId, SegmentId};

use crate::core::Core;
use crate::error::{Error, Result};
use crate::view::CollectionView;

/// A segment that turned out to be damaged. Queries that need it fail with
/// `error`, unless they ask for `SearchOptions::skip_quarantined`; merges leave it
/// alone; nothing of it is deleted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QuarantinedSegment {
    /// Name of the collection whose rows it holds.
    pub collection: String,
    /// Its number, which is in the name of its file.
    pub segment: SegmentId,
    /// Rows in the file.
    pub rows: u64,
    /// Rows that were not superseded; all of them if it is the deletion vector that
    /// cannot be read, because nobody knows which ones live.
    pub live_rows: u64,
    /// The first damage that was found: the file, the place, and what.
    pub error: Error,
}

/// A segment that a search left out: see `SearchOptions::skip_quarantined`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedSegment {
    /// Its number; `Db::quarantined` says what is wrong with it.
    pub segment: SegmentId,
    /// Rows in it that may have been answers: those not superseded by what is
    /// flushed; all, if its deletion vector is what cannot be read.
    pub live_rows: u64,
}

impl Core {
    /// The live segments that are out of use, by collection, oldest first.
    pub(crate) fn quarantined(&self) -> Vec<QuarantinedSegment> {
        let (view, _) = self.published.get();
        let mut found = Vec::new();
        for (&id, collection) in &view.collections {
            let Some(info) = self.info(id) else { continue };
            for segment in &collection.version.segments {
                if let Some(error) = segment.file.quarantined() {
                    found.push(QuarantinedSegment {
                        collection: info.name.clone(),
                        segment: segment.id(),
                        rows: u64::from(segment.file.meta.rows),
                        live_rows: segment.live_rows(),
                        error: error.clone(),
                    });
                }
            }
        }
        found
    }

    /// Opens what nobody has opened yet of a collection that is about to be dropped:
    /// snapshots still read it, and its deletion vectors, which are kept in memory
    /// once they are read, go at once. What cannot be opened, snapshots cannot read.
    pub(crate) fn read_for_snapshots(&self, id: CollectionId) {
        let (view, _) = self.published.get();
        let segments = view.collections.get(&id).map(|c| &c.version.segments);
        for segment in segments.into_iter().flatten() {
            let _ = segment.read();
        }
    }
}

/// That no live segment of a collection is out of use.
pub(crate) fn check_sound(collection: &CollectionView) -> Result<()> {
    let mut segments = collection.version.segments.iter();
    let error = segments.find_map(|segment| segment.file.quarantined());
    error.map_or(Ok(()), |error| Err(error.clone()))
}
