//! That no more can be written, and why.
//!
//! Owns the first cause. Invariants: once set it stays; whoever waits for memory
//! that will not come is woken after it is set, so that it finds it. Must not know:
//! what went wrong.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::memory::MemoryBudget;
use crate::sync::OnceLock;

pub(crate) struct Poison {
    cause: OnceLock<String>,
    budget: Arc<MemoryBudget>,
}

impl Poison {
    pub(crate) fn new(budget: &Arc<MemoryBudget>) -> Self {
        Self {
            cause: OnceLock::new(),
            budget: Arc::clone(budget),
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.cause.get().is_some()
    }

    /// That writing is still possible.
    pub(crate) fn check(&self) -> Result<()> {
        match self.cause.get() {
            Some(cause) => Err(Error::Poisoned {
                cause: cause.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Refuses every later write, and returns the error that says so: the cause is
    /// the first one's.
    pub(crate) fn set(&self, cause: String) -> Error {
        let cause = self.cause.get_or_init(|| cause).clone();
        self.budget.wake();
        Error::Poisoned { cause }
    }
}
