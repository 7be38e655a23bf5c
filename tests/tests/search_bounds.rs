//! What a search answers at the edges of its options: any k and L, and no time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use esker::env::{Clock, Entropy, Env, StdEnv, Storage};
use esker::{
    Background, CodeKind, Collection, CollectionOptions, Db, GraphOptions, Metric, Options,
    SearchOptions,
};
use esker_tests::load::{delete, put, uniform};
use esker_tests::rng::Rng;

fn options() -> Options {
    Options::new()
        .background(Background::Manual)
        .auto_compact(false)
        .graph(GraphOptions::new().min_rows(60).max_degree(12).l_build(24))
}

fn create(db: &Db, kind: CodeKind, metric: Metric, dimension: usize) -> Collection {
    let shape = CollectionOptions::new(dimension as u32, metric).codes(kind);
    db.create_collection("c", shape).expect("made")
}

/// Puts numbered rows and notes which vector each number has now.
fn write(db: &Db, c: &Collection, live: &mut BTreeMap<u64, Vec<f32>>, rows: Vec<(u64, Vec<f32>)>) {
    put(db, c, rows.iter().map(|(key, row)| (*key, row.as_slice()))).expect("put");
    live.extend(rows);
}

/// Rows in segments of several sizes and in the memtable, some of them replaced or dead.
fn mixed(db: &Db, c: &Collection, rng: &mut Rng) -> BTreeMap<u64, Vec<f32>> {
    let dimension = c.dimension() as usize;
    let mut live = BTreeMap::new();
    let mut next = 0;
    for size in [400, 30, 150, 9] {
        let count = 1 + rng.below(size);
        let from = next - rng.below(next / 4 + 1);
        let rows = uniform(
            rng.below(1 << 40),
            (next + count - from) as usize,
            dimension,
        );
        write(db, c, &mut live, (from..).zip(rows).collect());
        next += count;
        let dead: Vec<u64> = (0..next).filter(|_| rng.below(6) == 0).collect();
        delete(db, c, &dead).expect("deleted");
        dead.iter().for_each(|key| drop(live.remove(key)));
        if size > 9 {
            db.flush().expect("flushed");
        }
    }
    live
}

/// Fails unless each hit is a live row with its exact distance, in order.
fn check_hits(hits: &[esker::Hit], live: &BTreeMap<u64, Vec<f32>>, exact: &BTreeMap<u64, f32>) {
    for pair in hits.windows(2) {
        let order = pair[0].distance.total_cmp(&pair[1].distance);
        assert!(order.then_with(|| pair[0].key.cmp(&pair[1].key)).is_lt());
    }
    for hit in hits {
        let key = hit.key.as_u64().expect("a number");
        assert!(live.contains_key(&key), "{key} is dead");
        assert_eq!(hit.distance.to_bits(), exact[&key].to_bits(), "of {key}");
    }
}

fn exact_distances(c: &Collection, query: &[f32]) -> BTreeMap<u64, f32> {
    let all = SearchOptions::new(100_000).exact(true);
    let hits = c.search(query, &all).expect("scans").hits;
    let of = |hit: &esker::Hit| (hit.key.as_u64().expect("a number"), hit.distance);
    hits.iter().map(of).collect()
}

#[test]
fn any_k_and_l_answer_with_as_many_rows_as_there_are() {
    for seed in 0..8 {
        let mut rng = Rng::new(seed);
        let dir = tempfile::tempdir().expect("dir");
        let db = Db::open(dir.path(), options()).expect("opens");
        let kind = [CodeKind::Sq8, CodeKind::Sq4, CodeKind::Bit1][seed as usize % 3];
        let metric = [Metric::L2, Metric::Cosine, Metric::InnerProduct][seed as usize / 3 % 3];
        let dimension = 2 + rng.below(20) as usize;
        let c = create(&db, kind, metric, dimension);
        let live = mixed(&db, &c, &mut rng);
        assert_eq!(c.len().expect("counts"), live.len() as u64);
        for _ in 0..150 {
            let query = uniform(rng.below(1 << 40), 1, dimension).remove(0);
            let exact = exact_distances(&c, &query);
            assert!(exact.keys().eq(live.keys()));
            let k = 1 + rng.below(300) as usize;
            let mut how = SearchOptions::new(k);
            if rng.below(8) > 0 {
                how = how.l_search(1 + rng.below(400) as usize);
            }
            let result = c.search(&query, &how).expect("finds");
            assert!(!result.stats.incomplete);
            assert_eq!(
                result.hits.len(),
                k.min(live.len()),
                "seed {seed}, {how:?}, {:?}",
                result.stats
            );
            check_hits(&result.hits, &live, &exact);
        }
    }
}

/// A clock on which a millisecond passes whenever somebody looks at it.
#[derive(Debug)]
struct Ticking {
    real: StdEnv,
    ticks: AtomicU64,
}

impl Clock for Ticking {
    fn now(&self) -> Duration {
        Duration::from_millis(self.ticks.fetch_add(1, Ordering::SeqCst))
    }
    fn sleep(&self, _: Duration) {}
}

impl Env for Ticking {
    fn storage(&self) -> &dyn Storage {
        self.real.storage()
    }
    fn clock(&self) -> &dyn Clock {
        self
    }
    fn entropy(&self) -> &dyn Entropy {
        self.real.entropy()
    }
}

/// The time may be over while a walk's candidates get their exact distances: what has
/// none is not answered with, and the answer says that it is incomplete.
#[test]
fn a_deadline_ends_a_rerank_too() {
    const DIMENSION: usize = 12;
    let dir = tempfile::tempdir().expect("dir");
    let env = Arc::new(Ticking {
        real: StdEnv::new(),
        ticks: AtomicU64::new(0),
    });
    let db = Db::open(dir.path(), options().env(env.clone())).expect("opens");
    let c = create(&db, CodeKind::Sq8, Metric::L2, DIMENSION);
    let mut live = BTreeMap::new();
    let rows = uniform(3, 3_000, DIMENSION);
    write(&db, &c, &mut live, (0..).zip(rows).collect());
    db.flush().expect("flushed");
    let query = [0.5; DIMENSION];
    let exact = exact_distances(&c, &query);
    let how = || SearchOptions::new(20).l_search(1_000);
    let all = c.search(&query, &how()).expect("finds").stats;
    assert!(all.reranked >= 500 && all.visited >= 1_000, "{all:?}");
    let mut ended = 0;
    for ms in 1..200 {
        let before = env.ticks.load(Ordering::SeqCst);
        let late = how().deadline(Duration::from_millis(ms));
        let result = c.search(&query, &late).expect("finds");
        let looks = env.ticks.load(Ordering::SeqCst) - before;
        // Whoever has seen that the time is over looks once more at most.
        assert!(looks <= ms + 3, "{looks} looks within {ms} ms");
        check_hits(&result.hits, &live, &exact);
        let stats = result.stats;
        assert_eq!(
            stats.incomplete,
            stats.visited < all.visited || stats.reranked < all.reranked
        );
        if stats.visited == all.visited && stats.incomplete {
            // The walk was whole: the nearest of what was taken are there.
            assert!(stats.reranked >= 20 && result.hits.len() == 20, "{stats:?}");
            ended += 1;
        }
    }
    // Twenty rows come in any case, and then one look for each sixteen.
    assert!(
        (25..=32).contains(&ended),
        "ended {ended} times in the rerank"
    );
}
