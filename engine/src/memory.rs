//! Bytes of memtables and builds, counted against one budget.
//!
//! Owns the counters and the wait of a stalled writer. Invariants: every byte is
//! charged to exactly one account, the budget's or the snapshots'; a [`Charge`]
//! gives back what it holds when it is dropped, so no path can leak bytes.
//! Must not know: who flushes.

use std::sync::Arc;
use std::time::Duration;

use crate::sync::{AtomicUsize, Condvar, Mutex, Ordering, counter};

/// The budget of one database.
pub(crate) struct MemoryBudget {
    limit: usize,
    used: AtomicUsize,
    /// Flushed memtables that a snapshot or a running read still pins.
    pinned: AtomicUsize,
    /// Who waits for bytes.
    waiting: counter::AtomicUsize,
    /// Rises with every release, so a waiter cannot miss one.
    releases: Mutex<u64>,
    released: Condvar,
}

impl MemoryBudget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            pinned: AtomicUsize::new(0),
            waiting: counter::AtomicUsize::new(0),
            releases: Mutex::new(0),
            released: Condvar::new(),
        })
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn pinned(&self) -> usize {
        self.pinned.load(Ordering::Relaxed)
    }

    /// An account of `bytes`.
    pub(crate) fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Charge {
            budget: Arc::clone(self),
            held: AtomicUsize::new(bytes),
            pinned: AtomicUsize::new(0),
        }
    }

    /// A charge of `bytes` if they fit, or if nothing else is charged: one batch
    /// larger than what is left must not wait for ever.
    pub(crate) fn try_reserve(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                let after = used.saturating_add(bytes);
                (after <= self.limit || used == 0).then_some(after)
            })
            .ok()?;
        Some(Charge {
            budget: Arc::clone(self),
            held: AtomicUsize::new(bytes),
            pinned: AtomicUsize::new(0),
        })
    }

    /// A charge of `bytes`, as soon as they fit. Whenever they do not, `stalled`
    /// makes room, waits for it with the release count that it is given, or gives up.
    pub(crate) fn reserve<E>(
        self: &Arc<Self>,
        bytes: usize,
        mut stalled: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<Charge, E> {
        let mut waiting = None;
        loop {
            // Before the look: what is released after it ends the wait at once.
            let seen = self.releases();
            if let Some(charge) = self.try_reserve(bytes) {
                return Ok(charge);
            }
            waiting.get_or_insert_with(|| Waiting::new(&self.waiting));
            stalled(seen)?;
        }
    }

    /// Whether so much is used that writers are slowed: more than seven eighths.
    pub(crate) fn is_nearly_used(&self) -> bool {
        self.used() > self.limit() / 8 * 7
    }

    /// Whether writers are slowed, or wait.
    pub(crate) fn holds_writers(&self) -> bool {
        self.is_nearly_used() || self.waiting.load(Ordering::Relaxed) > 0
    }

    fn releases(&self) -> u64 {
        *self.releases.lock()
    }

    /// Waits until more was released than `seen`, or for `timeout`.
    pub(crate) fn wait(&self, seen: u64, timeout: Duration) {
        let mut releases = self.releases.lock();
        if *releases == seen {
            self.released.wait_for(&mut releases, timeout);
        }
    }

    /// Lets waiters look again, as after an error of the flush they wait for.
    pub(crate) fn wake(&self) {
        *self.releases.lock() += 1;
        self.released.notify_all();
    }
}

/// Somebody waits for bytes.
struct Waiting<'a>(&'a counter::AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a counter::AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes held from a [`MemoryBudget`].
pub(crate) struct Charge {
    budget: Arc<MemoryBudget>,
    held: AtomicUsize,
    /// 1 once the bytes stand in the snapshots' account.
    pinned: AtomicUsize,
}

impl Charge {
    /// An empty account of the same budget.
    pub(crate) fn another(&self) -> Self {
        self.budget.charge(0)
    }

    fn account(&self) -> &AtomicUsize {
        if self.pinned.load(Ordering::Relaxed) == 0 {
            &self.budget.used
        } else {
            &self.budget.pinned
        }
    }

    /// Bytes held now.
    pub(crate) fn bytes(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether the bytes stand in the snapshots' account.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Relaxed) != 0
    }

    /// Sets what is held. Called by one thread at a time.
    pub(crate) fn set(&self, bytes: usize) {
        let before = self.held.swap(bytes, Ordering::Relaxed);
        if bytes >= before {
            self.account().fetch_add(bytes - before, Ordering::Relaxed);
        } else {
            self.account().fetch_sub(before - bytes, Ordering::Relaxed);
        }
    }

    /// Moves the bytes out of the budget into the account of what snapshots pin:
    /// a flushed memtable no longer holds writers back.
    pub(crate) fn release_to_pins(&self) {
        if self.pinned.swap(1, Ordering::Relaxed) == 0 {
            let held = self.bytes();
            self.budget.pinned.fetch_add(held, Ordering::Relaxed);
            self.budget.used.fetch_sub(held, Ordering::Relaxed);
            self.budget.wake();
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account().fetch_sub(self.bytes(), Ordering::Relaxed);
        self.budget.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryBudget;

    #[test]
    fn every_byte_is_in_one_account_and_comes_back() {
        let budget = MemoryBudget::new(100);
        let a = budget.charge(60);
        assert!(budget.try_reserve(41).is_none());
        let b = budget.try_reserve(40).expect("fits");
        assert_eq!((budget.used(), budget.pinned()), (100, 0));
        a.set(10);
        a.release_to_pins();
        a.release_to_pins();
        assert_eq!((budget.used(), budget.pinned()), (40, 10));
        a.set(20);
        drop(b);
        assert_eq!((budget.used(), budget.pinned()), (0, 20));
        drop(a);
        assert_eq!((budget.used(), budget.pinned()), (0, 0));
        assert!(
            budget.try_reserve(1_000).is_some(),
            "a lone batch is never refused for ever"
        );
    }
}
