//! Who does parallel work.
//!
//! Owns the seam by which the engine lends threads to a build; this crate has
//! none. Invariant: results do not depend on how many threads there are.

use std::sync::{Mutex, PoisonError};

/// Runs tasks, at once or one after another.
pub trait Executor: Sync {
    /// Calls `task` once with every number below `count`, and returns when all
    /// calls have ended. A panic of a call is passed on.
    fn run(&self, count: usize, task: &(dyn Fn(usize) + Sync));
}

/// The calling thread alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inline;

impl Executor for Inline {
    fn run(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(task);
    }
}

/// The results of `f` for every number below `count`, in order.
pub(crate) fn map<T: Send>(
    executor: &dyn Executor,
    count: usize,
    f: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let slots: Vec<Mutex<Option<T>>> = (0..count).map(|_| Mutex::new(None)).collect();
    executor.run(count, &|n| {
        let result = f(n);
        if let Some(slot) = slots.get(n) {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }
    });
    slots
        .into_iter()
        .filter_map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner))
        .collect()
}
