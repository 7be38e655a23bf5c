//! The workloads: what is done, in small values.
//!
//! Owns [`Workload`], [`Step`] and the rows that small numbers stand for. Together
//! the workloads make every storage call that the engine has, in every phase that
//! it has it in. Must not know: failures.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use esker::env::Env;
use esker::{
    Background, Db, Durability, Error, GraphOptions, MapMode, Metric, Options, WriteBatch,
};

use crate::oracle::{Change, Row, batch_of};

/// The collections: name, dimension, metric.
pub(super) const COLLECTIONS: [(&str, u32, Metric); 2] =
    [("red", 3, Metric::L2), ("green", 5, Metric::Cosine)];
pub(super) const RED: usize = 0;
pub(super) const GREEN: usize = 1;

pub(super) const PERIOD: Duration = Duration::from_millis(100);
const PERIODIC: Durability = Durability::Periodic(PERIOD);

/// A row that is put, or a key that is deleted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) collection: usize,
    pub(super) key: u8,
    pub(super) value: Option<u8>,
}

/// A batch.
#[derive(Clone, Debug)]
pub(super) struct Batch(pub(super) Vec<Entry>, pub(super) Durability);

/// One thing that is done.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Open,
    Create(usize),
    Write(Batch),
    /// Queued together, so that they are one group.
    Submit(Vec<Batch>),
    Sync,
    Flush,
    Compact,
    /// A full merge in whose middle rows are written and flushed.
    CompactAcross(Batch),
    /// Background work until there is none.
    Background,
    /// Time passes.
    Wait,
    Snapshot,
    Release,
    DropCollection(usize),
    /// Point reads and searches.
    Read,
    Verify,
    /// Edits until the next one rewrites the manifest.
    GrowManifest,
    Close,
}

/// A list of steps. What `before` does is not made to fail; the process is killed
/// after it.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) pread: bool,
    pub(super) before: Vec<Step>,
    pub(super) steps: Vec<Step>,
}

impl Workload {
    pub(super) fn options(&self, env: Arc<dyn Env>) -> Options {
        let graph = GraphOptions::new().max_degree(8).l_build(24).min_rows(8);
        Options::new()
            .graph(graph)
            .memory_budget(4 << 20)
            .memtable_bytes(8 << 10)
            .log_file_bytes(4 << 10)
            .max_log_bytes(64 << 10)
            .snapshot_memory(1 << 20)
            .merge_width(2)
            .map_mode(if self.pread {
                MapMode::Pread
            } else {
                MapMode::Mmap
            })
            .background(Background::Manual)
            .env(env)
    }

    pub(super) fn open(&self, env: Arc<dyn Env>, dir: &Path) -> Result<Db, Error> {
        Db::open(dir, self.options(env))
    }
}

impl Entry {
    fn key(self) -> Vec<u8> {
        format!("key-{}", self.key).into_bytes()
    }

    fn vector(self, value: u8) -> Vec<f32> {
        let component = |i: u32| {
            let n = u32::from(value) * (i + 3) + u32::from(self.key) * 7 + i * 5;
            (n % 11) as f32 - 4.5
        };
        (0..COLLECTIONS[self.collection].1).map(component).collect()
    }

    fn payload(value: u8) -> Option<Vec<u8>> {
        (value % 2 == 1).then(|| vec![value; 5 * usize::from(value)])
    }

    pub(super) fn change(self) -> Change {
        let (collection, key) = (
            COLLECTIONS[self.collection].0.to_owned(),
            (&self.key()[..]).into(),
        );
        match self.value {
            None => Change::Delete { collection, key },
            Some(value) => Change::Put {
                collection,
                key,
                row: Row::new(&self.vector(value), Self::payload(value).as_deref()),
            },
        }
    }
}

impl Batch {
    pub(super) fn changes(&self) -> Vec<Change> {
        self.0.iter().map(|entry| entry.change()).collect()
    }

    /// As the engine takes it.
    pub(super) fn batch(&self, db: &Db) -> Result<WriteBatch, Error> {
        batch_of(db, &self.changes())
    }
}

fn write(durability: Durability, entries: &[(usize, u8, Option<u8>)]) -> Batch {
    let entry = |&(collection, key, value): &_| Entry {
        collection,
        key,
        value,
    };
    Batch(entries.iter().map(entry).collect(), durability)
}

/// Twelve rows of both collections.
fn bulk(durability: Durability, value: u8) -> Batch {
    let rows: Vec<_> = (0..12)
        .map(|key| (usize::from(key % 2), key, Some(value)))
        .collect();
    write(durability, &rows)
}

/// A small write that needs nothing of what failed before.
pub(super) fn probe() -> Batch {
    write(Durability::Sync, &[(RED, 99, Some(9))])
}

/// Every workload.
pub(super) fn workloads() -> Vec<Workload> {
    vec![life(), paged(), recovery(), rewrite()]
}

/// Puts, overwrites, deletes, batches, every durability, rotation, flush, merge with
/// a delete in its middle, snapshot, drop, clean close, and another open.
fn life() -> Workload {
    use Step::{
        Background, Close, Compact, CompactAcross, Create, DropCollection, Flush, Open, Release,
        Snapshot, Submit, Sync, Verify, Wait, Write,
    };
    let os = Durability::Os;
    let steps = vec![
        Open,
        Create(RED),
        Create(GREEN),
        Write(write(
            Durability::Sync,
            &[(RED, 0, Some(1)), (GREEN, 1, Some(2))],
        )),
        Write(bulk(os, 3)),
        Flush,
        Snapshot,
        Write(write(PERIODIC, &[(RED, 2, None), (RED, 0, Some(4))])),
        Write(bulk(os, 7)),
        Write(bulk(Durability::Sync, 8)),
        Background,
        Submit(vec![
            write(PERIODIC, &[(RED, 6, Some(5))]),
            write(Durability::Sync, &[(RED, 6, None), (GREEN, 7, Some(6))]),
            write(os, &[(GREEN, 5, Some(1))]),
        ]),
        Wait,
        Background,
        Flush,
        CompactAcross(write(os, &[(RED, 4, None), (GREEN, 3, Some(9))])),
        Release,
        Write(bulk(os, 31)),
        Sync,
        Compact,
        DropCollection(GREEN),
        Create(GREEN),
        Write(write(os, &[(GREEN, 1, Some(1)), (RED, 9, None)])),
        Close,
        Open,
        Verify,
        Write(write(PERIODIC, &[(RED, 3, Some(3))])),
        Wait,
        Background,
        Close,
    ];
    Workload {
        name: "life",
        pread: false,
        before: Vec::new(),
        steps,
    }
}

/// Segments that are read call by call.
fn paged() -> Workload {
    use Step::{Background, Close, Compact, Create, Flush, Open, Read, Snapshot, Verify, Write};
    let os = Durability::Os;
    let before = vec![
        Open,
        Create(RED),
        Create(GREEN),
        Write(bulk(os, 21)),
        Flush,
        Write(write(os, &[(RED, 0, None), (GREEN, 1, Some(4))])),
        Flush,
        Write(write(os, &[(RED, 40, Some(3)), (RED, 2, Some(3))])),
    ];
    let steps = vec![
        Open,
        Read,
        Snapshot,
        Write(write(os, &[(RED, 4, None), (GREEN, 3, Some(9))])),
        Flush,
        Background,
        Read,
        Compact,
        Verify,
        Read,
        Close,
    ];
    Workload {
        name: "paged",
        pread: true,
        before,
        steps,
    }
}

/// A recovery that replays several log files, and one of what it left.
fn recovery() -> Workload {
    use Step::{Background, Close, Create, DropCollection, Flush, Open, Write};
    let os = Durability::Os;
    let before = vec![
        Open,
        Create(RED),
        Create(GREEN),
        Write(bulk(os, 11)),
        Flush,
        Write(write(os, &[(RED, 0, None), (GREEN, 1, Some(2))])),
        Flush,
        Write(bulk(os, 13)),
        Write(bulk(Durability::Sync, 41)),
        Write(bulk(os, 43)),
        Write(write(
            Durability::Sync,
            &[(RED, 2, None), (GREEN, 2, Some(2))],
        )),
    ];
    let steps = vec![
        Open,
        Write(bulk(os, 5)),
        DropCollection(GREEN),
        Background,
        Close,
        Open,
    ];
    Workload {
        name: "recovery",
        pread: false,
        before,
        steps,
    }
}

/// The manifest has grown: the next edit goes to a fresh one.
fn rewrite() -> Workload {
    use Step::{Close, Create, Flush, GrowManifest, Open, Write};
    let steps = vec![
        Open,
        Create(RED),
        Write(write(Durability::Os, &[(RED, 1, Some(1))])),
        GrowManifest,
        Flush,
        Create(GREEN),
        Write(write(Durability::Sync, &[(GREEN, 1, Some(1))])),
        Close,
    ];
    Workload {
        name: "rewrite",
        pread: false,
        before: Vec::new(),
        steps,
    }
}
