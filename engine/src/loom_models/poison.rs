//! Poison and wake: when a sync fails, everybody who waits is told.
//!
//! The engine's group commit, poison and memory budget, with a log that cannot be
//! synced. Time does not pass in a model, so a wait that only its timeout would end
//! is a deadlock here.

use std::time::Duration;

use esker_wal::{CommitSink, GroupCommit, Sequenced};
use loom::sync::Arc;
use loom::thread;

use super::explore;
use crate::error::{Error, Result};
use crate::memory::{Charge, MemoryBudget};
use crate::poison::Poison;
use crate::sync::{AtomicU64, Ordering};

const LIMIT: usize = 10;

/// What the pipeline of a database does when its log fails.
struct Sink {
    poison: Poison,
    visible: AtomicU64,
}

impl CommitSink for Sink {
    /// A batch's bytes in the budget.
    type Request = Charge;
    type Error = Error;

    fn weight(_: &Charge) -> usize {
        1
    }
    fn wants_sync(_: &Charge) -> bool {
        true
    }
    fn append(&self, _: &mut [Sequenced<Charge>]) -> Result<()> {
        self.poison.check()
    }
    fn sync(&self) -> Result<()> {
        Err(self.poison.set("a failed sync".to_owned()))
    }
    /// Their memory is the memtable's from now on; here it is simply free.
    fn apply(&self, _: Vec<Sequenced<Charge>>) {}
    fn publish(&self, last: u64) {
        self.visible.store(last, Ordering::SeqCst);
    }
    /// Over at once in a model, whoever came meanwhile.
    fn patience(&self) -> Duration {
        Duration::from_millis(1)
    }
    fn leader_panicked(&self) -> Error {
        self.poison.set("a panic".to_owned())
    }
}

struct Database {
    group: GroupCommit<Sink>,
    sink: Sink,
    budget: std::sync::Arc<MemoryBudget>,
}

impl Database {
    fn new() -> Arc<Self> {
        let budget = MemoryBudget::new(LIMIT);
        Arc::new(Self {
            group: GroupCommit::new(1),
            sink: Sink {
                poison: Poison::new(&budget),
                visible: AtomicU64::new(0),
            },
            budget,
        })
    }

    /// As a writer does it: memory first, waiting for it, then the group.
    fn write(&self, bytes: usize) -> Result<u64> {
        let charge = self.budget.reserve(bytes, |seen| {
            self.sink.poison.check()?;
            self.budget.wait(seen, Duration::MAX);
            Ok::<_, Error>(())
        })?;
        let ticket = self.group.enqueue(charge, 1);
        self.group.wait(&self.sink, &ticket)
    }
}

fn poisoned(result: Result<u64>) -> bool {
    matches!(result, Err(Error::Poisoned { cause }) if cause == "a failed sync")
}

/// Two members of a group, or of two: both are told, whoever leads.
#[test]
fn loom_a_failed_sync_reaches_every_waiter_of_the_group() {
    explore(|| {
        let db = Database::new();
        let others: Vec<_> = (0..2)
            .map(|_| {
                let db = Arc::clone(&db);
                thread::spawn(move || db.write(1))
            })
            .collect();
        assert!(poisoned(db.write(1)));
        for other in others {
            assert!(poisoned(other.join().unwrap()));
        }
        assert_eq!(db.sink.visible.load(Ordering::SeqCst), 0);
        assert_eq!(db.budget.used(), 0, "a failed batch keeps its bytes");
    });
}

/// The memory is held by a memtable that will never be flushed: a writer that
/// stalls on it, or is about to, must hear of the poison.
#[test]
fn loom_a_stalled_writer_wakes_when_a_sync_fails() {
    explore(|| {
        let db = Database::new();
        let frozen = db.budget.charge(LIMIT - 1);
        let stalled: Vec<_> = (0..2)
            .map(|_| {
                let db = Arc::clone(&db);
                thread::spawn(move || db.write(2))
            })
            .collect();
        assert!(poisoned(db.write(1)));
        for writer in stalled {
            assert!(poisoned(writer.join().unwrap()));
        }
        drop(frozen);
    });
}

/// As a failed sync of the manifest poisons: no batch gives its memory back then, so
/// the poison itself must wake who waits for some.
#[test]
fn loom_poison_alone_wakes_stalled_writers() {
    explore(|| {
        let db = Database::new();
        let frozen = db.budget.charge(LIMIT);
        let stalled: Vec<_> = (0..2)
            .map(|_| {
                let db = Arc::clone(&db);
                thread::spawn(move || db.write(1))
            })
            .collect();
        db.sink.poison.set("a failed sync".to_owned());
        for writer in stalled {
            assert!(poisoned(writer.join().unwrap()));
        }
        drop(frozen);
    });
}

/// Memory that comes back wakes who waits for it, without any poison.
#[test]
fn loom_released_memory_wakes_a_stalled_writer() {
    explore(|| {
        let budget = MemoryBudget::new(LIMIT);
        let frozen = budget.charge(LIMIT);
        let stalled = {
            let budget = std::sync::Arc::clone(&budget);
            thread::spawn(move || {
                let charge = budget.reserve(1, |seen| {
                    budget.wait(seen, Duration::MAX);
                    Ok::<_, ()>(())
                });
                charge.unwrap().bytes()
            })
        };
        frozen.release_to_pins();
        assert_eq!(stalled.join().unwrap(), 1);
        drop(frozen);
        assert_eq!((budget.used(), budget.pinned()), (0, 0));
    });
}
