//! What can happen to a database, as plain values that shrink and print well.
//!
//! Owns the vocabulary of a case and the vectors and keys that small numbers stand
//! for. Must not know: how an operation is carried out.

use std::fmt;
use std::time::Duration;

use esker::{Background, Durability, GraphOptions, MapMode, Metric, Options};

use crate::load::unit;
use crate::oracle::{Change, Row};
use crate::rng::Rng;
use crate::sim::{Crash, Moment, SimEnv};

/// A whole run.
#[derive(Clone)]
pub struct Case {
    pub seed: u64,
    /// One for each open, in turn.
    pub settings: Vec<Settings>,
    /// Crashes while the database is first made.
    pub birth: Vec<CrashSpec>,
    pub ops: Vec<Op>,
}

/// Options of one open.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub memtable_bytes: usize,
    pub memory_budget: usize,
    pub log_file_bytes: u64,
    pub max_log_files: u64,
    pub pread: bool,
    pub auto_compact: bool,
    pub merge_width: usize,
    /// Whether every segment gets a graph, however small.
    pub graph: bool,
}

impl Settings {
    /// The engine's options.
    #[must_use]
    pub fn options(&self, env: &SimEnv) -> Options {
        let graph = GraphOptions::new().max_degree(8).l_build(24);
        let graph = graph.min_rows(if self.graph { 1 } else { u32::MAX });
        Options::new()
            .graph(graph)
            .memory_budget(self.memory_budget)
            .memtable_bytes(self.memtable_bytes)
            .log_file_bytes(self.log_file_bytes)
            .max_log_bytes(self.log_file_bytes * self.max_log_files.max(2))
            .snapshot_memory(1 << 20)
            .map_mode(if self.pread {
                MapMode::Pread
            } else {
                MapMode::Mmap
            })
            .auto_compact(self.auto_compact)
            .merge_width(self.merge_width)
            // One at a time, unless something is merged in the middle of a merge.
            .background_merges(3)
            .background(Background::Manual)
            .env(env.env())
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Op {
    Write(WriteSpec),
    /// A batch of many rows.
    Bulk(BulkSpec),
    /// Several batches are queued before any is waited for.
    Submit(Vec<WriteSpec>),
    Sync,
    Flush,
    Compact,
    /// So many background steps, as far as there is work.
    Steps(u8),
    /// Time passes, then background steps until there is nothing to do.
    Idle {
        millis: u16,
    },
    Snapshot,
    /// Drops the oldest snapshot.
    Release,
    /// Background merges wait from now on, or go on if they do already.
    Pause,
    DropCollection(u8),
    /// Something happens in the middle of something else.
    Cross(Crossing),
    /// A merge is planned, then a flush; the merge commits first.
    Entangle(Vec<WriteSpec>),
    Verify,
    /// A clean close, then an open.
    Reopen,
    /// The machine stops at a later call; what it is and what is left.
    Crash(CrashSpec),
    /// Later calls fail.
    Fail(FaultSpec),
}

/// What interrupts what.
#[derive(Clone, Debug)]
pub struct Crossing {
    pub place: Place,
    pub outer: Box<Op>,
    pub inner: Vec<Inside>,
}

/// Where an operation is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before a segment's file is made; its rows are read again after that.
    SegmentCreate,
    /// Before the first byte of a segment, whose flush or merge has been planned.
    SegmentWrite,
    /// Before a segment is synced.
    SegmentSync,
    /// Before a log file is synced: only reads, which must not see the group.
    LogSync,
}

/// What can happen in the middle of a flush or a merge.
#[derive(Clone, Debug)]
pub enum Inside {
    Write(WriteSpec),
    /// A flush in the middle of a merge; nothing in the middle of a flush.
    Flush,
    /// A background merge is told to end, while it is paused or while it runs.
    EndMerges {
        paused: bool,
    },
    /// Background steps in the middle of a merge. What follows is done in the middle of the
    /// merge that they begin.
    Merge,
}

/// A batch.
#[derive(Clone)]
pub struct WriteSpec {
    pub changes: Vec<ChangeSpec>,
    pub durability: Durability,
    pub how: How,
}

/// Through which call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Write,
    Try,
    Submit,
}

/// Rows of neighbouring keys.
#[derive(Clone, Copy, Debug)]
pub struct BulkSpec {
    pub collection: u8,
    pub first: u16,
    pub rows: u16,
    /// Where the vectors are drawn from; `None` deletes the rows.
    pub seed: Option<u16>,
    pub durability: Durability,
}

impl BulkSpec {
    /// The batch that it stands for.
    #[must_use]
    pub fn write(&self) -> WriteSpec {
        let change = |key: u16| ChangeSpec {
            collection: self.collection,
            key: BULK_KEYS + key,
            value: self
                .seed
                .map(|seed| DRAWN + (u32::from(seed) << 12) + u32::from(key)),
            payload: None,
        };
        WriteSpec {
            changes: (self.first..self.first + self.rows).map(change).collect(),
            durability: self.durability,
            how: How::Write,
        }
    }
}

/// Keys from this one on are those of [`BulkSpec`].
const BULK_KEYS: u16 = 100;
/// Values from this one on stand for vectors without a pattern.
const DRAWN: u32 = 256;

/// One operation of a batch, in small numbers.
#[derive(Clone, Copy)]
pub struct ChangeSpec {
    pub collection: u8,
    pub key: u16,
    /// `None` deletes.
    pub value: Option<u32>,
    /// Bytes of payload; `None` for none.
    pub payload: Option<u16>,
}

/// A crash to come, and those during the recovery from it.
#[derive(Clone)]
pub struct CrashSpec {
    /// Effects from now on until the machine stops; zero is now.
    pub after: u16,
    pub moment: Moment,
    pub crash: Crash,
    pub again: Vec<CrashSpec>,
}

/// Failures to come.
#[derive(Clone, Copy, Debug)]
pub struct FaultSpec {
    /// Calls of the kind that pass first.
    pub after: u16,
    pub calls: FaultCalls,
    pub full_disk: bool,
    pub effect: crate::sim::FaultEffect,
    pub once: bool,
}

/// Which calls a fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultCalls {
    Effects,
    Writes,
    Syncs,
    LogFiles,
    Reads,
}

/// The collections of every case: name, dimension, metric.
pub(super) const COLLECTIONS: [(&str, u32, Metric); 3] = [
    ("red", 3, Metric::L2),
    ("green", 9, Metric::Cosine),
    ("blue", 2, Metric::InnerProduct),
];

/// Durations that a periodic write may ask for.
pub const PERIOD: Duration = Duration::from_millis(100);

impl ChangeSpec {
    pub(super) fn collection(&self) -> (&'static str, u32) {
        let (name, dimension, _) = COLLECTIONS[usize::from(self.collection) % COLLECTIONS.len()];
        (name, dimension)
    }

    /// Short keys, and a few that are longer than a block's usual.
    pub(super) fn key(&self) -> Vec<u8> {
        let mut key = format!("k{}", self.key).into_bytes();
        if self.key < BULK_KEYS && self.key % 8 == 7 {
            key.resize(usize::from(self.key) * 7, b'.');
        }
        key
    }

    /// Few distinct components, so that distances tie; or any.
    pub(super) fn vector(value: u32, dimension: u32) -> Vec<f32> {
        if value >= DRAWN {
            let mut rng = Rng::new(value.into());
            return (0..dimension).map(|_| 0.1 + 7.0 * unit(&mut rng)).collect();
        }
        let component = |i: u32| ((value * (i + 3) + i * 5) % 7) as f32 - 2.5;
        (0..dimension).map(component).collect()
    }

    pub(super) fn payload(value: u32, len: u16) -> Vec<u8> {
        let byte = |i: u16| value.to_le_bytes()[0].wrapping_add(i.to_le_bytes()[0]);
        (0..len).map(byte).collect()
    }

    pub(super) fn change(&self) -> Change {
        let (name, dimension) = self.collection();
        let (collection, key) = (name.to_owned(), (&self.key()[..]).into());
        match self.value {
            None => Change::Delete { collection, key },
            Some(value) => {
                let payload = self.payload.map(|len| Self::payload(value, len));
                let vector = Self::vector(value, dimension);
                Change::Put {
                    collection,
                    key,
                    row: Row::new(&vector, payload.as_deref()),
                }
            }
        }
    }
}

// Cases are read by people: one line an operation.

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        for settings in &self.settings {
            writeln!(f, "{settings:?}")?;
        }
        if !self.birth.is_empty() {
            writeln!(f, "born with {:?}", self.birth)?;
        }
        for (i, op) in self.ops.iter().enumerate() {
            writeln!(f, "{i:3} {op:?}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for WriteSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.how, self.durability, self.changes)
    }
}

impl fmt::Debug for ChangeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.collection().0;
        match (self.value, self.payload) {
            (None, _) => write!(f, "-{name}/k{}", self.key),
            (Some(value), None) => write!(f, "{name}/k{}={value}", self.key),
            (Some(value), Some(len)) => write!(f, "{name}/k{}={value}+{len}", self.key),
        }
    }
}

impl fmt::Debug for CrashSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{} {:?} {:?}", self.after, self.moment, self.crash)?;
        if !self.again.is_empty() {
            write!(f, " again {:?}", self.again)?;
        }
        Ok(())
    }
}
