//! Writers, readers, snapshots, flushes and merges at the same time, with real
//! threads on a real directory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use esker::{
    Background, Collection, CollectionOptions, Db, Durability, Error, Metric, Options,
    SearchOptions, SeqNo, Snapshot, WriteBatch, WriteOptions,
};

const WRITERS: u64 = 4;
const KEYS: u64 = 40;
const ROUNDS: u64 = 50;

fn small() -> Options {
    Options::new()
        .memory_budget(1 << 20)
        .memtable_bytes(16 << 10)
        .log_file_bytes(64 << 10)
        .max_log_bytes(256 << 10)
}

fn pair(db: &Db) -> [Collection; 2] {
    ["a", "b"].map(|name| {
        db.create_collection(name, CollectionOptions::new(4, Metric::L2))
            .expect("made")
    })
}

fn version(snapshot: &Snapshot, c: &Collection, key: u64) -> Option<u64> {
    let record = snapshot.get(c, key).expect("reads")?;
    let payload = record.payload.expect("every row has one");
    assert_eq!(
        record.vector,
        vector(key, u64::from_le_bytes(payload[..8].try_into().expect("8")))
    );
    Some(u64::from_le_bytes(payload[..8].try_into().expect("8")))
}

fn vector(key: u64, version: u64) -> Vec<f32> {
    vec![key as f32, version as f32, 1.0, -1.0]
}

/// Each batch writes the same version of a key to both collections; a key of
/// every fifth round is deleted from both.
fn write(db: &Db, [a, b]: &[Collection; 2], writer: u64) {
    for round in 1..=ROUNDS {
        for key in (0..KEYS).filter(|key| key % WRITERS == writer) {
            let mut batch = WriteBatch::new();
            for c in [a, b] {
                if round % 5 == 0 && key % 3 == 0 {
                    batch.delete(c, key).expect("valid");
                } else {
                    let payload = round.to_le_bytes();
                    batch
                        .put_with_payload(c, key, &vector(key, round), &payload)
                        .expect("valid");
                }
            }
            let durability = if round % 50 == 0 {
                Durability::Sync
            } else {
                Durability::Os
            };
            db.write_with(batch, WriteOptions::new().durability(durability))
                .expect("written");
        }
    }
}

/// Until told to stop: a snapshot shows both collections alike, and time never
/// goes back.
fn read(db: &Db, [a, b]: &[Collection; 2], stop: &AtomicBool) -> u64 {
    let mut newest = vec![0; KEYS as usize];
    let mut last = SeqNo(0);
    let mut looks = 0;
    while !stop.load(Ordering::Relaxed) {
        let snapshot = match db.snapshot() {
            Ok(snapshot) => snapshot,
            Err(Error::Busy(_)) => continue,
            Err(other) => panic!("{other:?}"),
        };
        assert!(snapshot.seqno() >= last, "the visible SeqNo went back");
        last = snapshot.seqno();
        let rows = |c: &Collection| -> Vec<_> {
            let scan = snapshot.scan(c, ..).expect("scans");
            scan.map(|item| item.expect("reads"))
                .map(|(key, record)| (key.as_u64().expect("u64"), record.vector, record.payload))
                .collect()
        };
        let (in_a, in_b) = (rows(a), rows(b));
        assert_eq!(in_a, in_b, "half a batch at {last}");
        assert_eq!(
            snapshot.len(a).expect("counts"),
            in_a.len() as u64,
            "len at {last}"
        );
        let hits = snapshot
            .search(a, &[1.0; 4], &SearchOptions::new(1_000))
            .expect("searches");
        let mut found: Vec<_> = hits
            .hits
            .iter()
            .map(|h| h.key.as_u64().expect("u64"))
            .collect();
        found.sort_unstable();
        assert_eq!(
            found,
            in_a.iter().map(|row| row.0).collect::<Vec<_>>(),
            "search at {last}"
        );
        for key in 0..KEYS {
            if let Some(version) = version(&snapshot, a, key) {
                let newest = &mut newest[key as usize];
                assert!(
                    version >= *newest,
                    "key {key} went back from {newest} to {version}"
                );
                *newest = version;
            }
        }
        looks += 1;
    }
    looks
}

#[test]
fn snapshots_are_whole_while_everything_moves() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), small()).expect("opens");
    let collections = pair(&db);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| read(&db, &collections, &stop)))
            .collect();
        let collector = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                db.compact().expect("compacts");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (db, collections) = (&db, &collections);
                scope.spawn(move || write(db, collections, writer))
            })
            .collect();
        writers
            .into_iter()
            .for_each(|writer| writer.join().expect("writes"));
        stop.store(true, Ordering::Relaxed);
        collector.join().expect("compacts");
        for reader in readers {
            assert!(reader.join().expect("reads") > 0);
        }
    });
    let stats = db.stats();
    assert!(
        stats.flushes > 10 && stats.merges > 0,
        "nothing moved: {stats:?}"
    );
    let live = collections[0].len().expect("counts");
    drop((collections, db));
    let db = Db::open(dir.path(), small()).expect("opens");
    assert!(
        db.recovery_report().clean,
        "dropping the last handle closes cleanly"
    );
    assert_eq!(
        db.collection("a").expect("there").len().expect("counts"),
        live
    );
    assert!(db.verify().expect("verifies").is_ok());
}

#[test]
fn tickets_are_served_without_a_waiting_thread() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), small()).expect("opens");
    let [a, _] = pair(&db);
    let (sender, receiver) = mpsc::channel();
    let mut last = SeqNo(0);
    for i in 0..50_u64 {
        let mut batch = WriteBatch::new();
        batch.put(&a, i, &[i as f32; 4]).expect("valid");
        let durability = match i % 3 {
            0 => Durability::Sync,
            1 => Durability::Os,
            _ => Durability::Periodic(Duration::from_millis(1)),
        };
        let ticket = db
            .submit(batch, WriteOptions::new().durability(durability))
            .expect("queued");
        assert!(ticket.seqno() > last);
        last = ticket.seqno();
        let sender = sender.clone();
        ticket.on_durable(move |result| sender.send(result.expect("durable")).expect("heard"));
    }
    db.sync().expect("syncs");
    let mut heard: Vec<_> = (0..50)
        .map(|_| {
            receiver
                .recv_timeout(Duration::from_secs(10))
                .expect("every callback runs")
        })
        .collect();
    heard.sort_unstable();
    heard.dedup();
    assert_eq!(heard.len(), 50, "each once");
    assert_eq!(a.len().expect("counts"), 50);
}

#[test]
fn a_periodic_write_is_synced_while_idle() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), small()).expect("opens");
    let [a, _] = pair(&db);
    let mut batch = WriteBatch::new();
    batch.put(&a, 1_u64, &[1.0; 4]).expect("valid");
    let period = Durability::Periodic(Duration::from_millis(5));
    let ticket = db
        .submit(batch, WriteOptions::new().durability(period))
        .expect("queued");
    let durable = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&durable);
    ticket.on_durable(move |result| seen.store(result.expect("synced").0, Ordering::Release));
    let deadline = Instant::now() + Duration::from_secs(10);
    while durable.load(Ordering::Acquire) == 0 {
        assert!(Instant::now() < deadline, "never synced");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(durable.load(Ordering::Acquire), ticket.seqno().0);
}

#[test]
fn a_writer_that_must_not_wait_is_told_so() {
    let dir = tempfile::tempdir().expect("dir");
    // Nobody flushes, so the budget stays used up until a step is run.
    let db = Db::open(dir.path(), small().background(Background::Manual)).expect("opens");
    let [a, _] = pair(&db);
    let put = |i: u64, may_wait: bool| {
        let mut batch = WriteBatch::new();
        batch
            .put_with_payload(&a, i, &[1.0; 4], &[7; 8_000])
            .expect("valid");
        let os = WriteOptions::new().durability(Durability::Os);
        if may_wait {
            db.write_with(batch, os)
        } else {
            db.try_write(batch, os)
        }
    };
    let refused = (0..1_000).find_map(|i| put(i, false).err().map(|error| (i, error)));
    let (i, error) = refused.expect("the budget ends");
    assert!(matches!(error, Error::Busy(_)), "{error:?}");
    assert_eq!(
        a.len().expect("counts"),
        i,
        "nothing of the refused batch is there"
    );
    put(i, true).expect("a writer that may wait does the flush itself");
    assert!(db.stats().stalls > 0);
    while db.run_background_step().expect("works") {}
    put(i + 1, false).expect("flushed rows hold nobody back");
}

#[test]
fn a_snapshot_never_stalls_a_writer_and_is_bounded() {
    let dir = tempfile::tempdir().expect("dir");
    for expire in [false, true] {
        let path = dir.path().join(expire.to_string());
        let options = small()
            .snapshot_memory(100 << 10)
            .expire_oldest_snapshot(expire);
        let db = Db::open(&path, options).expect("opens");
        let [a, _] = pair(&db);
        a.put(0_u64, &[9.0; 4]).expect("written");
        let snapshot = db.snapshot().expect("taken");
        let mut kept = Vec::new();
        let mut refused = false;
        for round in 0..12_u64 {
            for i in 0..40 {
                let mut batch = WriteBatch::new();
                batch
                    .put_with_payload(&a, i, &vector(i, round), &[1; 1_000])
                    .expect("valid");
                db.write_with(batch, WriteOptions::new().durability(Durability::Os))
                    .expect("goes on");
            }
            db.flush().expect("flushes");
            match db.snapshot() {
                Ok(snapshot) => kept.push(snapshot),
                Err(Error::Busy(_)) => refused = true,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(refused, !expire);
        match snapshot.get(&a, 0_u64) {
            Ok(record) => {
                assert!(!expire);
                assert_eq!(record.expect("there").vector, [9.0; 4]);
            }
            Err(Error::SnapshotExpired) => assert!(expire),
            Err(other) => panic!("{other:?}"),
        }
        drop((snapshot, kept));
        // A background step may hold its view a moment longer.
        let deadline = Instant::now() + Duration::from_secs(10);
        while db.stats().pinned_bytes != 0 {
            assert!(Instant::now() < deadline, "dropped snapshots pin nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
        db.snapshot().expect("room again");
    }
}
