//! What the tasks of one schedule did and saw, and what must follow from it.
//!
//! Owns the order: a counter of moments for what began before what, SeqNos for the
//! order of writes. Invariant: its lock is never held while the turn may pass.
//! Must not know: who writes.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use esker::{Durability, Key, Record, SeqNo};

use super::tally::{Tally, add};
use super::tasks::{COLLECTIONS, DIMENSION, METRIC};
use crate::oracle::{Change, Oracle, Outcome, Row};

/// Rows by collection and key, with the SeqNos that put them.
pub type Seen = BTreeMap<(String, Key), (u64, Row)>;

/// A write, as its task knows it.
pub struct Write {
    pub changes: Vec<Change>,
    pub durability: Durability,
    began: u64,
    /// When its outcome was known.
    ended: u64,
    /// The last of its SeqNos, if it got any.
    last: Option<u64>,
    outcome: Outcome,
}

#[derive(Default)]
struct Inner {
    moment: u64,
    writes: Vec<Write>,
    seen: Vec<(u64, Seen)>,
    /// A sync or a flush: when it began and when it had succeeded.
    synced: Vec<(u64, u64)>,
}

/// Everything that one schedule did.
#[derive(Default)]
pub struct History(Mutex<Inner>);

impl History {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A moment later than every one before.
    pub fn moment(&self) -> u64 {
        let mut inner = self.lock();
        inner.moment += 1;
        inner.moment
    }

    /// A write that began at `began` is over.
    pub fn wrote(
        &self,
        began: u64,
        changes: Vec<Change>,
        durability: Durability,
        last: Option<SeqNo>,
        outcome: Outcome,
    ) {
        let ended = self.moment();
        self.lock().writes.push(Write {
            changes,
            durability,
            began,
            ended,
            last: last.map(|seqno| seqno.0),
            outcome,
        });
    }

    /// A sync or flush that began at `began` succeeded.
    pub fn synced(&self, began: u64) {
        let ended = self.moment();
        self.lock().synced.push((began, ended));
    }

    /// The last SeqNo that was acknowledged by now.
    pub fn acked(&self) -> u64 {
        let inner = self.lock();
        let acked = inner.writes.iter().filter(|w| w.outcome == Outcome::Acked);
        acked.filter_map(|write| write.last).max().unwrap_or(0)
    }

    /// A snapshot at `seqno` showed these rows.
    pub fn saw(&self, seqno: SeqNo, rows: Seen) {
        self.lock().seen.push((seqno.0, rows));
    }

    /// Every snapshot showed exactly the acknowledged writes up to its SeqNo.
    ///
    /// # Panics
    /// When one did not.
    pub fn judge_snapshots(&self) {
        let inner = self.lock();
        for (seqno, seen) in &inner.seen {
            let expected = rows_at(&inner.writes, *seqno);
            assert!(
                *seen == expected,
                "a snapshot at {seqno} showed\n  {seen:?}\nnot\n  {expected:?}\n{}",
                list(&inner.writes)
            );
        }
    }

    /// What a database must hold that was left behind at `image`; `None` means at
    /// the end.
    pub fn oracle(&self, image: Option<u64>) -> Oracle {
        let inner = self.lock();
        let end = image.unwrap_or(u64::MAX);
        let mut oracle = Oracle::new();
        for name in COLLECTIONS {
            oracle.created(name, DIMENSION, METRIC, Outcome::Acked);
        }
        let mut writes: Vec<_> = inner.writes.iter().filter(|w| w.last.is_some()).collect();
        writes.sort_unstable_by_key(|write| write.last);
        let synced = inner.synced.iter().filter(|(_, ended)| *ended < end);
        let synced = synced.map(|(began, _)| *began).max().unwrap_or(0);
        for write in writes {
            let outcome = match write.outcome {
                _ if write.began > end => Outcome::Failed,
                Outcome::Acked if write.ended > end => Outcome::InFlight,
                known => known,
            };
            let id = oracle.record(write.changes.clone(), write.durability, outcome);
            if outcome == Outcome::Acked && write.ended < synced {
                oracle.durable_through(id);
            }
        }
        oracle
    }

    /// Adds what happened to the tally.
    pub fn count(&self, tally: &Tally) {
        let inner = self.lock();
        let errored = |write: &&Write| write.outcome == Outcome::Errored;
        let errored = inner.writes.iter().filter(errored).count();
        add(&tally.writes, inner.writes.len() as u64);
        add(&tally.errored, errored as u64);
        add(&tally.snapshots, inner.seen.len() as u64);
    }

    /// The writes, for people to read.
    pub fn explain(&self) -> String {
        list(&self.lock().writes)
    }
}

/// A record as it is compared.
pub fn seen(record: &Record) -> (u64, Row) {
    let row = Row::new(&record.vector, record.payload.as_deref());
    (record.seqno.0, row)
}

fn rows_at(writes: &[Write], seqno: u64) -> Seen {
    let mut acked: Vec<_> = writes
        .iter()
        .filter(|w| w.outcome == Outcome::Acked && w.last.is_some_and(|last| last <= seqno))
        .collect();
    acked.sort_unstable_by_key(|write| write.last);
    let mut rows = Seen::new();
    for write in acked {
        let count = write.changes.len() as u64;
        let first = write.last.unwrap_or(0) + 1 - count;
        for (i, change) in write.changes.iter().enumerate() {
            match change {
                Change::Put {
                    collection,
                    key,
                    row,
                } => {
                    let place = (collection.clone(), key.clone());
                    rows.insert(place, (first + i as u64, row.clone()));
                }
                Change::Delete { collection, key } => {
                    rows.remove(&(collection.clone(), key.clone()));
                }
            }
        }
    }
    rows
}

fn list(writes: &[Write]) -> String {
    let mut sorted: Vec<_> = writes.iter().collect();
    sorted.sort_unstable_by_key(|write| write.last);
    let lines = sorted.iter().map(|w| {
        let changes = w.changes.iter().map(|change| match change {
            Change::Put {
                collection,
                key,
                row,
            } => format!("{collection}/{key}={:?}", row.floats()),
            Change::Delete { collection, key } => format!("-{collection}/{key}"),
        });
        let changes: Vec<_> = changes.collect();
        format!(
            "{:?} {:?} {:?} at {}..{}: {}\n",
            w.last,
            w.outcome,
            w.durability,
            w.began,
            w.ended,
            changes.join(" ")
        )
    });
    lines.collect()
}
