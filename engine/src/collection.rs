//! The handle of one collection.
//!
//! Owns nothing but a name for part of a database: every method delegates.

use std::ops::RangeBounds;
use std::sync::Arc;

use esker_segment::{CodeKind, CollectionId, Key, Metric, SeqNo};
use esker_wal::FrameBuf;

use crate::batch::WriteBatch;
use crate::core::CollectionInfo;
use crate::db::Handle;
use crate::error::Result;
use crate::options::{Residency, SearchOptions, WriteOptions};
use crate::read::{Reader, Record};
use crate::scan::{Scan, prefix_range};
use crate::search::SearchResult;

/// One named set of rows of a fixed dimension and metric. Cheap to clone; all
/// clones are the same collection.
#[derive(Clone)]
pub struct Collection {
    pub(crate) handle: Arc<Handle>,
    pub(crate) info: Arc<CollectionInfo>,
}

impl Collection {
    /// The name it was created with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Its id, unique for the life of the database.
    #[must_use]
    pub fn id(&self) -> CollectionId {
        self.info.id
    }

    /// Components of each vector.
    #[must_use]
    pub fn dimension(&self) -> u32 {
        self.info.dimension
    }

    /// How distances are computed.
    #[must_use]
    pub fn metric(&self) -> Metric {
        self.info.metric
    }

    /// How segments compress rows for searches.
    #[must_use]
    pub fn codes(&self) -> CodeKind {
        self.info.codes
    }

    /// Where it keeps what searches touch at random.
    #[must_use]
    pub fn residency(&self) -> Residency {
        self.info.residency()
    }

    /// Changes where it keeps what searches touch at random, until the database is
    /// closed. Copies are made and given back in the background; a search, flush
    /// or merge that runs and a snapshot keep those that they found, and nothing is given
    /// back before a running merge has ended.
    pub fn set_residency(&self, residency: Residency) {
        self.info.set_residency(residency);
        self.handle.core.forgive_copies(self.info.id);
        self.handle.core.signals.compact.notify();
    }

    pub(crate) fn info(&self) -> &Arc<CollectionInfo> {
        &self.info
    }

    pub(crate) fn database_identity(&self) -> u64 {
        self.handle.core.identity
    }

    /// An empty frame in memory that the database has to spare.
    pub(crate) fn spare_frame(&self, kind: u8) -> FrameBuf {
        self.handle.core.spare_frames.take(kind)
    }

    pub(crate) fn check_usable(&self) -> Result<()> {
        self.handle.core.check_writable()?;
        self.info.check_writable()
    }

    /// Adds or replaces a row, with the database's default durability. Returns
    /// the write's SeqNo.
    ///
    /// # Errors
    /// `Invalid` for a key or vector that breaks a rule; otherwise as `Db::write`.
    pub fn put(&self, key: impl Into<Key>, vector: &[f32]) -> Result<SeqNo> {
        let mut batch = WriteBatch::new();
        batch.put(self, key, vector)?;
        self.write(batch)
    }

    /// As [`Collection::put`], with a payload of up to 16 MiB.
    ///
    /// # Errors
    /// As [`Collection::put`].
    pub fn put_with_payload(
        &self,
        key: impl Into<Key>,
        vector: &[f32],
        payload: &[u8],
    ) -> Result<SeqNo> {
        let mut batch = WriteBatch::new();
        batch.put_with_payload(self, key, vector, payload)?;
        self.write(batch)
    }

    /// Deletes a key; one that is absent is fine.
    ///
    /// # Errors
    /// `Invalid` for an empty or oversized key; otherwise as `Db::write`.
    pub fn delete(&self, key: impl Into<Key>) -> Result<SeqNo> {
        let mut batch = WriteBatch::new();
        batch.delete(self, key)?;
        self.write(batch)
    }

    fn write(&self, batch: WriteBatch) -> Result<SeqNo> {
        self.handle.write(batch, WriteOptions::new(), true)
    }

    fn read<T>(&self, read: impl FnOnce(&Reader<'_>) -> Result<T>) -> Result<T> {
        self.handle.core.check_open()?;
        let (view, at) = self.handle.core.published.get();
        read(&Reader::new(&view, at, &self.info)?)
    }

    /// The row of a key, if there is one.
    ///
    /// # Errors
    /// `Corruption` when a segment that may have the answer is damaged: the same error
    /// for every call that needs this segment, see `Db::quarantined`; `Io` when one
    /// cannot be read, `Closed`, `Invalid` once the collection was dropped.
    pub fn get(&self, key: impl Into<Key>) -> Result<Option<Record>> {
        let key = key.into();
        self.read(|reader| reader.get(&key))
    }

    /// Whether the key has a row.
    ///
    /// # Errors
    /// As [`Collection::get`].
    pub fn contains(&self, key: impl Into<Key>) -> Result<bool> {
        let key = key.into();
        self.read(|reader| reader.contains(&key))
    }

    /// The exact number of rows. Costs a lookup for each key not flushed yet.
    ///
    /// # Errors
    /// As [`Collection::get`].
    pub fn len(&self) -> Result<u64> {
        self.read(|reader| reader.len())
    }

    /// Whether there is no row.
    ///
    /// # Errors
    /// As [`Collection::get`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The nearest rows to `query`, a vector of the collection's dimension:
    /// approximate, by the graphs of segments, unless
    /// [`SearchOptions::exact`]. Distances are exact, only live rows answer, and
    /// k of them do where there are k. Ties in distance are ordered by key.
    ///
    /// # Errors
    /// `Invalid` for k = 0 or a query that no row could be; otherwise as
    /// [`Collection::get`].
    pub fn search(&self, query: &[f32], options: &SearchOptions) -> Result<SearchResult> {
        let core = &self.handle.core;
        self.read(|reader| reader.search(query, options, core.env.clock(), &core.scratches))
    }

    /// The rows of a key range as of now, in key order. Writes made while it is
    /// read do not show.
    ///
    /// # Errors
    /// As [`Collection::get`]; each item may fail alike.
    pub fn scan(&self, range: impl RangeBounds<Key>) -> Result<Scan> {
        self.handle.core.check_open()?;
        let (view, at) = self.handle.core.published.get();
        let (start, end) = (range.start_bound().cloned(), range.end_bound().cloned());
        Scan::new(view, at, Arc::clone(&self.info), start, end)
    }

    /// The rows whose keys begin with `prefix`, in key order.
    ///
    /// # Errors
    /// As [`Collection::scan`].
    pub fn prefix(&self, prefix: &[u8]) -> Result<Scan> {
        self.scan(prefix_range(prefix))
    }
}

impl std::fmt::Debug for Collection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collection")
            .field("name", &self.info.name)
            .field("dimension", &self.info.dimension)
            .field("metric", &self.info.metric)
            .finish_non_exhaustive()
    }
}
