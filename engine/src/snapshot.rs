//! Reads pinned at a SeqNo.
//!
//! Owns the public [`Snapshot`] and the registry that bounds what snapshots keep
//! alive. Invariants: a snapshot answers the same for as long as it lives; memory
//! that it pins is charged outside the budget, so writers never stall on it.
//! Must not know: how reads work.

use std::collections::VecDeque;
use std::ops::RangeBounds;
use std::sync::{Arc, Weak};

use esker_segment::{Key, SeqNo};

use crate::collection::Collection;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::options::SearchOptions;
use crate::read::{Reader, Record};
use crate::scan::{Scan, prefix_range};
use crate::search::SearchResult;
use crate::sync::{Mutex, PinArc};
use crate::view::ReadView;

/// The whole database as it was at one SeqNo.
///
/// Cheap to take; while it lives it keeps the memtables and segment files that it
/// reads. An expired one (see `Options::expire_oldest_snapshot`) answers
/// `SnapshotExpired`.
#[derive(Clone)]
pub struct Snapshot {
    core: Arc<Core>,
    pin: Arc<Pin>,
}

struct Pin {
    seqno: SeqNo,
    view: Mutex<Option<PinArc<ReadView>>>,
}

/// Snapshots, oldest first.
#[derive(Default)]
pub(crate) struct SnapshotRegistry(Mutex<VecDeque<Weak<Pin>>>);

impl SnapshotRegistry {
    /// Gives up the oldest living snapshot's view. False if there is none.
    fn expire_oldest(&self) -> bool {
        let mut pins = self.0.lock();
        while let Some(pin) = pins.pop_front() {
            if let Some(view) = pin.upgrade().and_then(|pin| pin.view.lock().take()) {
                drop(pins);
                drop(view);
                return true;
            }
        }
        false
    }

    fn add(&self, pin: &Arc<Pin>) {
        let mut pins = self.0.lock();
        pins.retain(|pin| pin.strong_count() > 0);
        pins.push_back(Arc::downgrade(pin));
    }

    /// Living snapshots.
    pub(crate) fn count(&self) -> usize {
        self.0
            .lock()
            .iter()
            .filter(|pin| pin.strong_count() > 0)
            .count()
    }
}

impl Snapshot {
    pub(crate) fn take(core: &Arc<Core>) -> Result<Self> {
        core.check_open()?;
        let limit = core.options.snapshot_limit();
        while core.budget.pinned() > limit {
            if !core.options.expire_oldest_snapshot || !core.snapshots.expire_oldest() {
                return Err(Error::Busy(format!(
                    "snapshots already keep {} bytes of flushed rows in memory, more than \
                     snapshot_memory ({limit}); drop one",
                    core.budget.pinned()
                )));
            }
        }
        let (view, seqno) = core.published.get();
        let pin = Arc::new(Pin {
            seqno,
            view: Mutex::new(Some(view)),
        });
        core.snapshots.add(&pin);
        Ok(Self {
            core: Arc::clone(core),
            pin,
        })
    }

    /// The last write that this snapshot sees.
    #[must_use]
    pub fn seqno(&self) -> SeqNo {
        self.pin.seqno
    }

    fn view(&self, collection: &Collection) -> Result<PinArc<ReadView>> {
        if collection.database_identity() != self.core.identity {
            return Err(Error::invalid("the collection belongs to another database"));
        }
        self.core.check_open()?;
        self.pin.view.lock().clone().ok_or(Error::SnapshotExpired)
    }

    fn read<T>(
        &self,
        collection: &Collection,
        read: impl FnOnce(&Reader<'_>) -> Result<T>,
    ) -> Result<T> {
        let view = self.view(collection)?;
        read(&Reader::new(&view, self.pin.seqno, collection.info())?)
    }

    /// The row of a key, if there was one.
    ///
    /// # Errors
    /// `Corruption` or `Io` when a segment cannot be read, `Closed`, `SnapshotExpired`.
    pub fn get(&self, collection: &Collection, key: impl Into<Key>) -> Result<Option<Record>> {
        let key = key.into();
        self.read(collection, |reader| reader.get(&key))
    }

    /// Whether the key had a row.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn contains(&self, collection: &Collection, key: impl Into<Key>) -> Result<bool> {
        let key = key.into();
        self.read(collection, |reader| reader.contains(&key))
    }

    /// The exact number of rows.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn len(&self, collection: &Collection) -> Result<u64> {
        self.read(collection, |reader| reader.len())
    }

    /// The nearest rows to `query`.
    ///
    /// # Errors
    /// As `Collection::search`.
    pub fn search(
        &self,
        collection: &Collection,
        query: &[f32],
        options: &SearchOptions,
    ) -> Result<SearchResult> {
        let core = &self.core;
        self.read(collection, |reader| {
            reader.search(query, options, core.env.clock(), &core.scratches)
        })
    }

    /// The rows of a key range, in key order.
    ///
    /// # Errors
    /// As [`Snapshot::get`]; each item may fail alike.
    pub fn scan(&self, collection: &Collection, range: impl RangeBounds<Key>) -> Result<Scan> {
        let (start, end) = (range.start_bound().cloned(), range.end_bound().cloned());
        let view = self.view(collection)?;
        Scan::new(
            view,
            self.pin.seqno,
            Arc::clone(collection.info()),
            start,
            end,
        )
    }

    /// The rows whose keys begin with `prefix`, in key order.
    ///
    /// # Errors
    /// As [`Snapshot::scan`].
    pub fn prefix(&self, collection: &Collection, prefix: &[u8]) -> Result<Scan> {
        self.scan(collection, prefix_range(prefix))
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("seqno", &self.pin.seqno)
            .finish_non_exhaustive()
    }
}
