//! The locks and atomics of the engine, in the flavour of the build.
//!
//! Owns the choice between parking_lot with the standard atomics, loom's under
//! `cfg(loom)` (every interleaving of a small model) and shuttle's under
//! `cfg(shuttle)` (seeded schedules of the whole engine). Invariants: nothing else
//! in this crate names any of them; in the usual build everything here is a
//! re-export. A lock that a panicking thread held is simply free again: what a
//! panic means is decided above. Must not know: what is protected.

/// Counts and statistics: nothing is decided by the order in which threads see
/// them, so model checkers need not look at them.
pub(crate) mod counter {
    /// A flag that hosts share with a call of theirs.
    pub(crate) use std::sync::atomic::AtomicBool;
    pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize};
}

#[cfg(not(any(loom, shuttle)))]
mod flavour {
    pub(crate) use parking_lot::{Condvar, Mutex, RwLock};
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
    pub(crate) use std::sync::{Arc as PinArc, OnceLock};
}

/// A checker's locks behind parking_lot's interface.
#[cfg(any(loom, shuttle))]
mod flavour {
    #[cfg(loom)]
    use loom::sync as checked;
    #[cfg(shuttle)]
    use shuttle::sync as checked;

    use std::fmt;
    use std::ops::{Deref, DerefMut};
    use std::sync::PoisonError;
    use std::time::Duration;

    pub(crate) use checked::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

    /// Pins of files, views and memtables: loom must see when the last one goes,
    /// because what their drop finds depends on it.
    #[cfg(loom)]
    pub(crate) use loom::sync::Arc as PinArc;
    #[cfg(shuttle)]
    pub(crate) use std::sync::Arc as PinArc;

    pub(crate) struct Mutex<T>(checked::Mutex<T>);

    /// Empty only while its thread waits for a condition variable.
    pub(crate) struct MutexGuard<'a, T>(Option<checked::MutexGuard<'a, T>>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(checked::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            let guard = self.0.try_lock().ok()?;
            Some(MutexGuard(Some(guard)))
        }
    }

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Self::new(T::default())
        }
    }

    impl<T> fmt::Debug for Mutex<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Mutex")
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            match &self.0 {
                Some(guard) => guard,
                None => unreachable!("the thread waits"),
            }
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            match &mut self.0 {
                Some(guard) => guard,
                None => unreachable!("the thread waits"),
            }
        }
    }

    pub(crate) struct Condvar(checked::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(checked::Condvar::new())
        }

        /// Neither checker has time, so the wait ends by a notification alone: one
        /// that is lost is a deadlock, and found.
        pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _timeout: Duration) {
            if let Some(held) = guard.0.take() {
                let again = self.0.wait(held);
                guard.0 = Some(again.unwrap_or_else(PoisonError::into_inner));
            }
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    pub(crate) struct RwLock<T>(checked::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(checked::RwLock::new(value))
        }

        pub(crate) fn read(&self) -> checked::RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn write(&self) -> checked::RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// A value that is set once. The checker sees the flag; the value behind it is
    /// set before the flag and never changes.
    pub(crate) struct OnceLock<T> {
        is_set: AtomicBool,
        value: std::sync::OnceLock<T>,
    }

    impl<T> OnceLock<T> {
        pub(crate) fn new() -> Self {
            Self {
                is_set: AtomicBool::new(false),
                value: std::sync::OnceLock::new(),
            }
        }

        pub(crate) fn get(&self) -> Option<&T> {
            if self.is_set.load(Ordering::Acquire) {
                self.value.get()
            } else {
                None
            }
        }

        pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
            let value = self.value.get_or_init(init);
            self.is_set.store(true, Ordering::Release);
            value
        }
    }
}

pub(crate) use flavour::{
    AtomicBool, AtomicU64, AtomicUsize, Condvar, Mutex, OnceLock, Ordering, PinArc, RwLock,
};
