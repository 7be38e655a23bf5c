//! Rows of a segment lie in the order of its graph's leaves: merge after merge, what
//! was put with a key stays with it, and what is deleted while they are moved is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use esker::{
    Background, Collection, CollectionOptions, Db, GraphOptions, Key, MapMode, Metric, Options,
    Record, SearchOptions, WriteBatch,
};
use esker_tests::load::{found_of, uniform};
use esker_tests::rng::Rng;

const DIMENSION: usize = 6;
/// Rows of a flush: enough for leaves.
const ROWS: u64 = 1500;
const KEYS: u64 = 4000;

/// What each key was put with.
type Model = BTreeMap<u64, Record>;

/// Puts rows over those of earlier rounds, some with payloads, and deletes some.
fn write(db: &Db, c: &Collection, model: &mut Model, random: &mut Rng, round: u64) {
    let (mut batch, mut written) = (WriteBatch::new(), BTreeSet::new());
    for vector in uniform(round, ROWS as usize, DIMENSION) {
        let key = random.below(KEYS);
        let payload = random
            .below(3)
            .checked_sub(1)
            .map(|n| vec![key as u8; (n * key) as usize]);
        let put = match &payload {
            Some(payload) => batch.put_with_payload(c, Key::from_u64(key), &vector, payload),
            None => batch.put(c, Key::from_u64(key), &vector),
        };
        put.expect("a row");
        written.insert(key);
    }
    db.write(batch).expect("written");
    for key in written {
        // From the memtable.
        model.insert(key, c.get(key).expect("reads").expect("there"));
    }
    delete(db, c, model, random, 150);
}

fn delete(db: &Db, c: &Collection, model: &mut Model, random: &mut Rng, count: usize) {
    let mut batch = WriteBatch::new();
    for _ in 0..count {
        let key = random.below(KEYS);
        batch.delete(c, Key::from_u64(key)).expect("a key");
        model.remove(&key);
    }
    db.write(batch).expect("written");
}

fn number(key: &Key) -> u64 {
    u64::from_be_bytes(key[..].try_into().expect("eight bytes"))
}

/// Squared L2.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let pairs = a.iter().zip(b);
    pairs
        .map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2))
        .sum()
}

fn check(db: &Db, c: &Collection, model: &Model) {
    assert_eq!(c.len().expect("counts"), model.len() as u64);
    let scanned = c.scan(..).expect("scans").map(|item| {
        let (key, record) = item.expect("reads");
        let key = number(&key);
        (key, record)
    });
    assert!(scanned.eq(model.clone()));
    for key in (0..KEYS).step_by(7) {
        let record = c.get(key).expect("reads");
        assert_eq!(record.as_ref(), model.get(&key), "key {key}");
    }
    let (mut found, mut of) = (0, 0);
    for query in uniform(77, 12, DIMENSION) {
        let search = |options: &SearchOptions| c.search(&query, options).expect("searches").hits;
        let mut truth: Vec<f64> = model
            .values()
            .map(|row| distance(&row.vector, &query))
            .collect();
        truth.sort_by(f64::total_cmp);
        truth.truncate(10);
        let exact = search(&SearchOptions::new(10).exact(true));
        assert_eq!(exact.len(), truth.len());
        for (hit, truth) in exact.iter().zip(truth) {
            let row = &model[&number(&hit.key)];
            assert!((distance(&row.vector, &query) - f64::from(hit.distance)).abs() < 1e-5);
            assert!((f64::from(hit.distance) - truth).abs() < 1e-5);
        }
        found += found_of(&search(&SearchOptions::new(10).l_search(60)), &exact);
        of += exact.len();
    }
    assert!(found * 100 >= of * 90, "{found} of {of}");
    assert!(db.verify().expect("verifies").is_ok());
}

#[test]
fn rows_keep_what_is_theirs_from_merge_to_merge() {
    for map_mode in [MapMode::Mmap, MapMode::Pread] {
        let dir = tempfile::tempdir().expect("dir");
        let options = Options::new()
            .background(Background::Manual)
            .auto_compact(false)
            .map_mode(map_mode)
            .graph(GraphOptions::new().min_rows(100).max_degree(12));
        let db = Db::open(dir.path(), options).expect("opens");
        let of = CollectionOptions::new(DIMENSION as u32, Metric::L2);
        let c = db.create_collection("c", of).expect("made");
        let (mut model, mut random) = (Model::new(), Rng::new(5));
        for round in 0..5 {
            write(&db, &c, &mut model, &mut random, round);
            db.flush().expect("flushes");
            if round % 2 == 1 {
                db.compact().expect("merges");
                check(&db, &c, &model);
            }
        }
        // Deleted while the merge runs: looked up in its output.
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                db.compact().expect("merges");
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                delete(&db, &c, &mut model, &mut random, 2);
                db.flush().expect("flushes");
            }
        });
        check(&db, &c, &model);
        db.compact().expect("merges");
        check(&db, &c, &model);
    }
}
