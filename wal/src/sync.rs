//! The locks of group commit, in the flavour of the build.
//!
//! Owns the choice between parking_lot and, under `cfg(loom)` or `cfg(shuttle)`, a
//! checker's own. Invariant: nothing else in this crate names any of them. A lock
//! that a panicking thread held is simply free again; the protocol above deals with
//! the panic.

#[cfg(not(any(loom, shuttle)))]
mod flavour {
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::sync::Arc;
    use std::time::Duration;

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock()
    }

    pub(crate) fn wait<'a, T>(
        condvar: &Condvar,
        mut guard: MutexGuard<'a, T>,
    ) -> MutexGuard<'a, T> {
        condvar.wait(&mut guard);
        guard
    }

    /// Waits until notified or for `patience`; the flag says which: false for the latter.
    pub(crate) fn wait_for<'a, T>(
        _mutex: &'a Mutex<T>,
        condvar: &Condvar,
        mut guard: MutexGuard<'a, T>,
        patience: Duration,
    ) -> (MutexGuard<'a, T>, bool) {
        let in_time = !condvar.wait_for(&mut guard, patience).timed_out();
        (guard, in_time)
    }
}

#[cfg(any(loom, shuttle))]
mod flavour {
    #[cfg(loom)]
    pub(crate) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
    #[cfg(shuttle)]
    pub(crate) use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard};
    use std::sync::PoisonError;
    use std::time::Duration;

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// Neither checker has time: patience ends at once, after whatever others do in
    /// between. Nothing may depend on how long it lasts.
    pub(crate) fn wait_for<'a, T>(
        mutex: &'a Mutex<T>,
        _condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        _patience: Duration,
    ) -> (MutexGuard<'a, T>, bool) {
        drop(guard);
        #[cfg(loom)]
        loom::thread::yield_now();
        #[cfg(shuttle)]
        shuttle::thread::yield_now();
        (lock(mutex), false)
    }
}

pub(crate) use flavour::{Arc, Condvar, Mutex, MutexGuard, lock, wait, wait_for};
