//! Every refusal is a typed error whose text says what to do, and changes nothing.

use std::path::Path;

use esker::{
    Background, Collection, CollectionOptions, Db, Durability, Error, Key, Metric, Options,
    SearchOptions, WriteBatch, WriteOptions,
};

fn open(dir: &Path) -> Db {
    Db::open(dir, Options::new()).expect("opens")
}

fn invalid<T: std::fmt::Debug>(result: esker::Result<T>, text: &str) {
    match result {
        Err(Error::Invalid(what)) => assert!(what.contains(text), "{what:?} lacks {text:?}"),
        other => panic!("expected Invalid with {text:?}, got {other:?}"),
    }
}

fn refuses_writes(c: &Collection, vector: &[f32], text: &str) {
    let before = (
        c.len().expect("counts"),
        c.put("probe", &[1.0; 3]).expect("valid"),
    );
    invalid(c.put("k", vector), text);
    let mut batch = WriteBatch::new();
    batch.put(c, "good", &[1.0; 3]).expect("valid");
    invalid(batch.put(c, "bad", vector), text);
    assert_eq!(batch.len(), 1, "the batch keeps what was valid");
    assert!(!c.contains("k").expect("reads"));
    assert_eq!(
        c.put("probe", &[1.0; 3]).expect("valid").0,
        before.1.0 + 1,
        "no SeqNo was used"
    );
}

#[test]
fn vectors_that_no_row_may_have() {
    let dir = tempfile::tempdir().expect("dir");
    let db = open(dir.path());
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let name = metric.to_string();
        let c = db
            .create_collection(&name, CollectionOptions::new(3, metric))
            .expect("made");
        refuses_writes(&c, &[1.0, 2.0], "exactly 3");
        refuses_writes(&c, &[1.0; 4], "exactly 3");
        refuses_writes(&c, &[], "exactly 3");
        refuses_writes(&c, &[1.0, f32::NAN, 0.0], "component 1");
        refuses_writes(&c, &[1.0, 0.0, f32::INFINITY], "component 2");
        refuses_writes(&c, &[f32::NEG_INFINITY, 0.0, 0.0], "component 0");
        refuses_writes(&c, &[1e19, 1e19, 1e19], "norm");
        let all = SearchOptions::new(3);
        invalid(c.search(&[1.0, 2.0], &all), "query");
        invalid(c.search(&[1.0, f32::NAN, 0.0], &all), "query");
        invalid(c.search(&[1e19, 1e19, 1e19], &all), "query");
        invalid(
            c.search(&[1.0; 3], &SearchOptions::new(0)),
            "k must be at least 1",
        );
        assert_eq!(
            c.search(&[1.0; 3], &SearchOptions::new(usize::MAX))
                .expect("clamped")
                .hits
                .len(),
            1
        );
    }
    let cosine = db.collection("cosine").expect("there");
    refuses_writes(&cosine, &[0.0; 3], "cosine");
    refuses_writes(&cosine, &[1e-30, 0.0, 0.0], "cosine");
    invalid(cosine.search(&[0.0; 3], &SearchOptions::new(1)), "query");
    let l2 = db.collection("l2").expect("there");
    l2.put("zero", &[0.0; 3])
        .expect("a zero vector has an L2 distance");
}

#[test]
fn keys_payloads_and_batches() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), Options::new().max_batch_bytes(64 << 10)).expect("opens");
    let c = db
        .create_collection("c", CollectionOptions::new(1, Metric::L2))
        .expect("made");
    invalid(c.put("", &[1.0]), "1 to 65535 bytes");
    invalid(c.delete(""), "1 to 65535 bytes");
    invalid(c.put(Key::new(&[7; 65_536]), &[1.0]), "65536");
    c.put(Key::new(&[7; 65_000]), &[1.0])
        .expect("long keys are fine");
    invalid(
        c.put_with_payload("k", &[1.0], &vec![0; (16 << 20) + 1]),
        "payload",
    );
    invalid(
        c.put_with_payload("k", &[1.0], &vec![0; 64 << 10]),
        "max_batch_bytes",
    );
    assert_eq!(c.len().expect("counts"), 1);

    let other_dir = tempfile::tempdir().expect("dir");
    let other = open(other_dir.path());
    let elsewhere = other
        .create_collection("c", CollectionOptions::new(1, Metric::L2))
        .expect("made");
    let mut batch = WriteBatch::new();
    batch.put(&c, "k", &[1.0]).expect("valid");
    invalid(batch.put(&elsewhere, "k", &[1.0]), "one database");
    invalid(other.write(batch), "another database");
    invalid(
        other.snapshot().expect("taken").get(&c, "k"),
        "another database",
    );
    let empty = db.write(WriteBatch::new()).expect("nothing to do");
    assert_eq!(empty, db.snapshot().expect("taken").seqno());
}

#[test]
fn collections() {
    let dir = tempfile::tempdir().expect("dir");
    let db = open(dir.path());
    invalid(db.collection("c"), "create_collection");
    invalid(
        db.create_collection("", CollectionOptions::new(1, Metric::L2)),
        "name",
    );
    invalid(
        db.create_collection(&"n".repeat(256), CollectionOptions::new(1, Metric::L2)),
        "name",
    );
    invalid(
        db.create_collection("c", CollectionOptions::new(0, Metric::L2)),
        "dimension",
    );
    invalid(
        db.create_collection("c", CollectionOptions::new(65_536, Metric::L2)),
        "dimension",
    );
    let c = db
        .create_collection("c", CollectionOptions::new(2, Metric::L2))
        .expect("made");
    c.put("k", &[1.0, 2.0]).expect("valid");
    db.create_collection("c", CollectionOptions::new(2, Metric::L2))
        .expect("the same again");
    drop((c, db));

    let db = open(dir.path());
    for other in [
        CollectionOptions::new(3, Metric::L2),
        CollectionOptions::new(2, Metric::Cosine),
    ] {
        match db.create_collection("c", other) {
            Err(Error::Incompatible { what, .. }) => {
                assert!(what.contains("dimension 2"), "{what}")
            }
            result => panic!("expected Incompatible, got {result:?}"),
        }
    }
    let c = db.collection("c").expect("there");
    let snapshot = db.snapshot().expect("taken");
    db.drop_collection("c").expect("dropped");
    invalid(db.drop_collection("c"), "no collection");
    invalid(c.put("k", &[1.0, 2.0]), "dropped");
    invalid(c.get("k"), "dropped");
    assert!(snapshot.contains(&c, "k").expect("snapshots still read it"));
    let again = db
        .create_collection("c", CollectionOptions::new(2, Metric::L2))
        .expect("made");
    assert_ne!(again.id(), c.id());
    assert!(
        again.is_empty().expect("counts"),
        "nothing of the dropped one comes back"
    );
    drop((snapshot, again, c, db));
    let db = open(dir.path());
    assert!(
        db.collection("c")
            .expect("there")
            .is_empty()
            .expect("counts")
    );
}

#[test]
fn opening_what_cannot_be_opened() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("db");
    invalid(
        Db::open(&path, Options::new().create_if_missing(false)),
        "does not exist",
    );
    let db = open(&path);
    match Db::open(&path, Options::new()) {
        Err(Error::Busy(what)) => assert!(what.contains("open already"), "{what}"),
        other => panic!("expected Busy, got {other:?}"),
    }
    db.close().expect("closes");
    open(&path).close().expect("the lock was given back");

    let foreign = dir.path().join("photos");
    std::fs::create_dir(&foreign).expect("made");
    std::fs::write(foreign.join("cat.jpg"), b"meow").expect("written");
    invalid(Db::open(&foreign, Options::new()), "no database");
    let names: Vec<_> = std::fs::read_dir(&foreign).expect("lists").collect();
    assert_eq!(names.len(), 1, "a foreign directory is not touched");
    invalid(
        Db::open(foreign.join("cat.jpg"), Options::new()),
        "not a directory",
    );
    assert!(matches!(
        Db::open(dir.path().join("a/b/c"), Options::new()),
        Err(Error::Io { .. })
    ));
    invalid(
        Db::open(&path, Options::new().memory_budget(0)),
        "memory_budget",
    );
    invalid(
        Db::open(&path, Options::new().merge_width(1)),
        "merge_width",
    );
    invalid(
        Db::open(&path, Options::new().max_graph_segments(0)),
        "max_graph_segments",
    );
}

#[test]
fn a_missing_file_is_named() {
    let build = || {
        let dir = tempfile::tempdir().expect("dir");
        let db = open(dir.path());
        let c = db
            .create_collection("c", CollectionOptions::new(2, Metric::L2))
            .expect("made");
        for i in 0..10_u64 {
            c.put(i, &[i as f32, 1.0]).expect("valid");
        }
        db.flush().expect("flushes");
        c.delete(3_u64).expect("valid");
        db.flush().expect("flushes");
        c.put(99_u64, &[1.0, 1.0]).expect("valid");
        db.close().expect("closes");
        dir
    };
    let names: Vec<_> = std::fs::read_dir(build().path())
        .expect("lists")
        .map(|entry| {
            entry
                .expect("reads")
                .file_name()
                .into_string()
                .expect("ours")
        })
        .filter(|name| name != "LOCK")
        .collect();
    for kind in ["CURRENT", ".log", ".manifest", ".segment", ".deletions"] {
        let dir = build();
        let name = names
            .iter()
            .find(|name| name.ends_with(kind))
            .expect("there is one");
        let before = std::fs::read_dir(dir.path()).expect("lists").count();
        std::fs::remove_file(dir.path().join(name)).expect("removed");
        match Db::open(dir.path(), Options::new()) {
            Err(error @ Error::Corruption { .. }) => {
                assert!(
                    error.to_string().contains(name.as_str()),
                    "{error} does not name {name}"
                );
            }
            other => panic!("without {name}: expected Corruption, got {other:?}"),
        }
        let after = std::fs::read_dir(dir.path()).expect("lists").count();
        assert_eq!(after, before - 1, "nothing else is removed or added");
    }
}

#[test]
fn a_closed_handle_says_so() {
    let dir = tempfile::tempdir().expect("dir");
    let db = open(dir.path());
    let c = db
        .create_collection("c", CollectionOptions::new(1, Metric::L2))
        .expect("made");
    let snapshot = db.snapshot().expect("taken");
    db.close().expect("closes");
    db.close().expect("closing twice is fine");
    let closed = |error: Option<Error>| assert!(matches!(error, Some(Error::Closed)), "{error:?}");
    closed(c.put("k", &[1.0]).err());
    closed(c.get("k").err());
    closed(c.len().err());
    closed(c.search(&[1.0], &SearchOptions::new(1)).err());
    closed(c.scan(..).err());
    closed(snapshot.get(&c, "k").err());
    closed(db.snapshot().err());
    closed(db.flush().err());
    closed(db.compact().err());
    closed(db.verify().err());
    closed(db.collection("c").err());
    closed(
        db.create_collection("d", CollectionOptions::new(1, Metric::L2))
            .err(),
    );
}

/// A real file system that fills up: writes end with an error, nothing
/// acknowledged is lost, and room lets it go on.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk() {
    let Some(dir) = esker_tests::tmpfs::Tmpfs::mount("3m") else {
        println!("skipped: mounting a tmpfs is not allowed here");
        return;
    };
    let ballast = dir.path().join("ballast");
    let path = dir.path().join("db");
    let options = || {
        Options::new()
            .background(Background::Manual)
            .memory_budget(1 << 20)
            .memtable_bytes(128 << 10)
            .log_file_bytes(256 << 10)
    };
    std::fs::write(&ballast, vec![1; 512 << 10]).expect("fits");
    let db = Db::open(&path, options()).expect("opens");
    let c = db
        .create_collection("c", CollectionOptions::new(64, Metric::L2))
        .expect("made");
    let row = |i: u64| vec![i as f32; 64];
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    for i in 0..20_000_u64 {
        let mut batch = WriteBatch::new();
        batch.put(&c, i, &row(i)).expect("valid");
        match db.write_with(batch, WriteOptions::new().durability(Durability::Os)) {
            Ok(_) => acknowledged.push(i),
            Err(Error::Io { .. } | Error::Busy(_)) => {
                refused += 1;
                if refused > 20 {
                    break;
                }
            }
            Err(other) => panic!("expected Io or Busy, got {other:?}"),
        }
    }
    assert!(refused > 20, "the disk was never full");
    for &i in &acknowledged {
        assert_eq!(
            c.get(i).expect("reads go on").expect("there").vector,
            row(i)
        );
    }
    assert_eq!(c.len().expect("counts"), acknowledged.len() as u64);
    std::fs::remove_file(&ballast).expect("removed");
    let next = 1_000_000;
    c.put(next, &row(next)).expect("room lets writes go on");
    db.flush().expect("room lets flushes go on");
    acknowledged.push(next);
    drop((c, db));
    let db = Db::open(&path, options()).expect("opens");
    let c = db.collection("c").expect("there");
    for &i in &acknowledged {
        assert_eq!(c.get(i).expect("reads").expect("there").vector, row(i));
    }
}
