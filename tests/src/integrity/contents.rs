//! What is written into the specimens, and the states that they have on the way.
//!
//! Owns the operations. Invariants: rows are functions of their keys and of how often
//! they were written; each specimen is closed cleanly, with rows that are in its log
//! alone. Must not know: what is done to the files.

use esker::{
    Background, Collection, CollectionOptions, Db, Durability, GraphOptions, Key, Metric, Options,
    WriteBatch, WriteOptions,
};

use super::specimen::{DIR, Donor, files};
use crate::load::unit;
use crate::rng::Rng;
use crate::sim::SimEnv;

/// Rows from which on a segment of `main` has a graph.
const GRAPH_ROWS: u32 = 100;

fn open(env: &SimEnv, graph_rows: u32) -> Db {
    let graph = GraphOptions::new()
        .min_rows(graph_rows)
        .max_degree(8)
        .l_build(16);
    let options = Options::new()
        .background(Background::Manual)
        .auto_compact(false)
        .memory_budget(128 << 20)
        .memtable_bytes(16 << 20)
        .log_file_bytes(32 << 10)
        .max_log_bytes(64 << 20)
        .default_durability(Durability::Sync)
        .graph(graph)
        .env(env.env());
    Db::open(DIR, options).expect("opens")
}

fn made(db: &Db, name: &str, dimension: u32, metric: Metric) -> Collection {
    db.create_collection(name, CollectionOptions::new(dimension, metric))
        .expect("made")
}

/// A key whose length says nothing of its number.
pub(super) fn key(n: u64) -> Key {
    let text = format!("row {n:03} {}", "x".repeat((n % 13) as usize));
    Key::from(&*text)
}

/// A row's vector: a function of its number and of how often it was written.
fn vector(n: u64, version: u64, dimension: u32, value: f32) -> Vec<f32> {
    let mut rng = Rng::part(n, version);
    (0..dimension).map(|_| value + unit(&mut rng)).collect()
}

/// Puts rows in one batch; of every second the payload is `payload` bytes long.
fn put(db: &Db, to: &Collection, rows: std::ops::Range<u64>, version: u64, v: f32, payload: usize) {
    let mut batch = WriteBatch::new();
    for n in rows {
        let vector = vector(n, version, to.dimension(), v);
        if n % 2 == 0 {
            let payload = vec![(n + version) as u8; payload + (n % 7) as usize];
            batch.put_with_payload(to, key(n), &vector, &payload)
        } else {
            batch.put(to, key(n), &vector)
        }
        .expect("a row");
    }
    db.write(batch).expect("written");
}

fn delete(db: &Db, from: &Collection, rows: impl Iterator<Item = u64>) {
    let mut batch = WriteBatch::new();
    for n in rows {
        batch.delete(from, key(n)).expect("a key");
    }
    db.write(batch).expect("written");
}

pub(super) fn write_main(env: &SimEnv, v: f32) -> [Donor; 2] {
    let db = open(env, GRAPH_ROWS);
    let plane = made(&db, "plane", 8, Metric::L2);
    let sphere = made(&db, "sphere", 6, Metric::Cosine);
    for to in [&plane, &sphere] {
        put(&db, to, 0..150, 0, v, 9);
    }
    db.flush().expect("flushes");
    put(&db, &plane, 0..3, 1, v, 9);
    db.close().expect("closes");
    let closed = files(env);

    let db = open(env, GRAPH_ROWS);
    let [plane, sphere] = ["plane", "sphere"].map(|name| db.collection(name).expect("there"));
    put(&db, &plane, 100..300, 1, v, 12);
    put(&db, &sphere, 100..300, 1, v, 12);
    db.compact().expect("merges");
    for to in [&plane, &sphere] {
        put(&db, to, 0..40, 2, v, 15);
        delete(&db, to, (40..200).step_by(9));
    }
    db.flush().expect("flushes");
    // What is in the log alone begins here, and the manifest grows after it.
    log_alone(&db, &plane, &sphere, v, 0..4);
    grow_manifest(&db, 40);
    let running = files(env);
    log_alone(&db, &plane, &sphere, v, 4..30);
    grow_manifest(&db, 120);
    made(&db, "empty", 3, Metric::InnerProduct);
    db.close().expect("closes");
    [
        Donor {
            name: "closed-before",
            files: closed,
        },
        Donor {
            name: "running-before",
            files: running,
        },
    ]
}

/// Batches of both collections that no flush takes: new rows, old ones, deletions.
fn log_alone(
    db: &Db,
    plane: &Collection,
    sphere: &Collection,
    v: f32,
    rounds: std::ops::Range<u64>,
) {
    for n in rounds {
        let mut batch = WriteBatch::new();
        let payload = vec![n as u8 ^ 0x5a; 1_100];
        for (to, row) in [(plane, n * 7), (sphere, 250 + 3 * n)] {
            let put =
                batch.put_with_payload(to, key(row), &vector(row, 3, to.dimension(), v), &payload);
            put.expect("a row");
        }
        batch.delete(plane, key(7 * n + 3)).expect("a key");
        db.write(batch).expect("written");
        let alone = vector(n, 4, 6, v);
        sphere.put(key(400 + n), &alone).expect("written");
    }
}

/// Edits that leave nothing behind.
fn grow_manifest(db: &Db, times: u32) {
    for n in 0..times {
        let name = format!("{n:0>250}");
        made(db, &name, 1, Metric::L2);
        db.drop_collection(&name).expect("dropped");
    }
}

/// Rows of a segment of `tombs`; two in three of them die, which is the most that
/// the sets of deletion vectors write down one by one.
const CROWD: u64 = 6_144;

/// One in so many of these is asked for by its key.
const CROWD_STRIDE: usize = 97;

pub(super) fn crowd_keys<const SEGMENTS: u64>() -> Vec<Vec<u8>> {
    let all = (0..SEGMENTS * CROWD).step_by(CROWD_STRIDE);
    let last = b"last".to_vec();
    all.map(|n| crowd_key(n).to_vec()).chain([last]).collect()
}

fn crowd_key(n: u64) -> [u8; 4] {
    (n as u32).to_be_bytes()
}

pub(super) fn write_tombs<const SEGMENTS: u64>(env: &SimEnv, v: f32) -> [Donor; 2] {
    let db = open(env, u32::MAX);
    let crowd = made(&db, "crowd", 1, Metric::L2);
    let write = |batch| {
        let unsynced = WriteOptions::new().durability(Durability::Os);
        db.write_with(batch, unsynced).expect("written");
    };
    for segment in 0..SEGMENTS {
        let mut batch = WriteBatch::new();
        for n in segment * CROWD..(segment + 1) * CROWD {
            let vector = vector(n, 0, 1, v);
            batch
                .put(&crowd, &crowd_key(n)[..], &vector)
                .expect("a row");
        }
        write(batch);
        db.flush().expect("flushes");
    }
    let mut running = Vec::new();
    for (first, last) in [(0, 9), (9, CROWD)] {
        let mut batch = WriteBatch::new();
        for n in (0..SEGMENTS * CROWD).filter(|n| (first..last).contains(&(n % CROWD))) {
            if n % 3 != 2 {
                batch.delete(&crowd, &crowd_key(n)[..]).expect("a key");
            }
        }
        write(batch);
        db.flush().expect("flushes");
        if first == 0 {
            running = files(env);
        }
    }
    db.close().expect("closes");
    let closed = files(env);
    let db = open(env, u32::MAX);
    let crowd = db.collection("crowd").expect("there");
    crowd.put("last", &[v]).expect("written");
    db.close().expect("closes");
    [
        Donor {
            name: "closed-before",
            files: closed,
        },
        Donor {
            name: "running-before",
            files: running,
        },
    ]
}
