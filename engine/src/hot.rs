//! Copies of what searches touch at random, within their own limit.
//!
//! Owns the account of these copies and the step that makes or gives back one.
//! Invariants: no more is copied than the limit allows; a copy goes with its segment's
//! reader, which another replaces when nobody asks for copies any more, and never under
//! a search; a lack of memory or a failed read leaves a segment as it was and is tried
//! again ever more seldom, damage takes it out of use. One copy is made at a time, by
//! whoever comes first; nobody waits for it.
//! Must not know: what is in a copy.

use std::cmp::Reverse;
use std::sync::Arc;

use esker_segment::CollectionId;

use crate::core::Core;
use crate::error::Result;
use crate::options::Residency;
use crate::segment_file::LiveSegment;
use crate::sync::counter::AtomicUsize;
use crate::sync::{AtomicBool, Ordering};
use crate::view::{CollectionView, Version};

/// Bytes that copies may take, and take.
pub(crate) struct HotMemory {
    limit: usize,
    used: AtomicUsize,
    /// Set while somebody makes a copy.
    copying: AtomicBool,
}

/// Bytes of one segment's copies.
pub(crate) struct HotCharge {
    memory: Arc<HotMemory>,
    bytes: usize,
}

impl Drop for HotCharge {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Whoever has it makes a copy.
struct Copying<'a>(&'a AtomicBool);

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Doublings of the steps that pass by a copy that failed: 512 of them at most, some
/// minutes of a thread that has nothing else to do.
const MOST_DOUBLINGS: usize = 9;

/// When a copy that failed is tried again: at the next step, then at every second,
/// every fourth, so that a bad sector is not read all the time. One thread at a time.
#[derive(Default)]
pub(crate) struct Retry {
    failures: AtomicUsize,
    /// Steps that pass it by.
    waits: AtomicUsize,
}

impl Retry {
    pub(crate) fn is_due(&self) -> bool {
        let waits = self.waits.load(Ordering::Relaxed);
        self.waits.store(waits.saturating_sub(1), Ordering::Relaxed);
        waits == 0
    }

    pub(crate) fn failed(&self) {
        let before = self.failures.fetch_add(1, Ordering::Relaxed);
        let waits = (1 << before.min(MOST_DOUBLINGS)) - 1;
        self.waits.store(waits, Ordering::Relaxed);
    }

    pub(crate) fn forget(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.waits.store(0, Ordering::Relaxed);
    }
}

impl HotMemory {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            copying: AtomicBool::new(false),
        })
    }

    /// Bytes of all copies, those of segments that only snapshots still hold too.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Room for copies of so many bytes, if there is.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: usize) -> Option<HotCharge> {
        let add = |used: usize| used.checked_add(bytes).filter(|all| *all <= self.limit);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .ok()?;
        Some(HotCharge {
            memory: Arc::clone(self),
            bytes,
        })
    }

    fn begin(&self) -> Option<Copying<'_>> {
        let busy = self.copying.swap(true, Ordering::Acquire);
        (!busy).then(|| Copying(&self.copying))
    }
}

impl Core {
    /// Gives back the copies that no collection asks for any more; if there are none,
    /// copies what searches touch of one segment, if one is to be copied and there is
    /// room. The largest first: searches spend most of their time there.
    ///
    /// # Errors
    /// Damage that the copy met, once: the segment is out of use then.
    pub(crate) fn warm_step(&self) -> Result<bool> {
        if self.hot.limit == 0 || self.cancel.load(Ordering::Acquire) {
            return Ok(false);
        }
        let Some(_alone) = self.hot.begin() else {
            return Ok(false);
        };
        if self.cool() {
            return Ok(true);
        }
        let (view, _) = self.published.get();
        let mut wanted: Vec<(usize, &LiveSegment)> = Vec::new();
        for (&id, collection) in &view.collections {
            if self.info(id).map(|info| info.residency()) == Some(Residency::Hot) {
                let segments = collection.version.segments.iter();
                wanted.extend(segments.map(|s| (s.file.hot_bytes_wanted(), s)));
            }
        }
        wanted.retain(|(bytes, _)| *bytes > 0);
        wanted.sort_by_key(|(bytes, segment)| (Reverse(*bytes), segment.id()));
        let cancelled = || self.cancel.load(Ordering::Relaxed);
        for (_, segment) in wanted {
            if segment.file.copy_is_due() && segment.file.warm(&self.hot, &cancelled)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Replaces the readers that have copies in collections that ask for none; whether
    /// there were any. Searches that run, and snapshots, keep the old ones.
    fn cool(&self) -> bool {
        let is_copied = |c: &CollectionView| c.version.segments.iter().any(|s| s.file.is_copied());
        let mapped = |id| {
            let info = self.info(id);
            info.is_some_and(|info| info.residency() == Residency::Mapped)
        };
        let (view, _) = self.published.get();
        let collections = view.collections.iter();
        let ids: Vec<_> = collections
            .filter(|(id, c)| is_copied(c) && mapped(**id))
            .map(|(id, _)| *id)
            .collect();
        drop(view);
        for &id in &ids {
            // No version changes meanwhile.
            let _manifest = self.manifest.lock();
            let (view, _) = self.published.get();
            let Some(collection) = view.collections.get(&id) else {
                continue;
            };
            let segments = &collection.version.segments;
            let segments = segments.iter().map(LiveSegment::cold).collect();
            let version = Arc::new(Version { segments });
            drop(view);
            self.published.update(|view| {
                if let Some(collection) = view.collections.get_mut(&id) {
                    collection.version = version;
                }
            });
        }
        !ids.is_empty()
    }

    /// Lets copies of a collection that failed be tried at once.
    pub(crate) fn forgive_copies(&self, id: CollectionId) {
        let (view, _) = self.published.get();
        let collection = view.collections.get(&id).into_iter();
        let segments = collection.flat_map(|c| &c.version.segments);
        segments.for_each(|segment| segment.file.forgive_copy());
    }

    /// Copies what there is to copy. Damage ends it, and is told to whoever asks for the
    /// segment; the rest is left to the next step.
    pub(crate) fn warm_all(&self) {
        while matches!(self.warm_step(), Ok(true)) {}
    }
}

#[cfg(test)]
mod tests {
    use super::{HotMemory, Retry};

    #[test]
    fn what_fails_is_tried_ever_more_seldom() {
        let retry = Retry::default();
        let steps = (1..=4_000).filter(|_| {
            let due = retry.is_due();
            if due {
                retry.failed();
            }
            due
        });
        let tried: Vec<u32> = steps.collect();
        let doubled = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 1_536];
        assert_eq!(tried[..doubled.len()], doubled);
        assert_eq!(tried.len(), 12 + (4_000 - 1_536) / 512);
        retry.forget();
        assert!(retry.is_due() && retry.is_due());
    }

    #[test]
    fn no_more_than_the_limit_is_given_and_all_of_it_comes_back() {
        let memory = HotMemory::new(100);
        let a = memory.reserve(60).expect("fits");
        assert!(memory.reserve(41).is_none());
        assert!(memory.reserve(usize::MAX).is_none());
        let b = memory.reserve(40).expect("fits exactly");
        assert_eq!(memory.used(), 100);
        drop(a);
        assert_eq!(memory.used(), 40);
        drop(b);
        assert_eq!(memory.used(), 0);
        let copying = memory.begin().expect("nobody else");
        assert!(memory.begin().is_none());
        drop(copying);
        assert!(memory.begin().is_some());
    }
}
