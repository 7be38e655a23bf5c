//! Codes as a host meets them: chosen when a collection is made, kept for ever.

use std::path::Path;

use esker::{
    Background, CodeKind, Collection, CollectionOptions, Db, Error, GraphOptions, Metric, Options,
    SearchOptions, WriteBatch,
};

const KINDS: [CodeKind; 3] = [CodeKind::Sq8, CodeKind::Sq4, CodeKind::Bit1];
const DIMENSION: usize = 48;
const ROWS: u64 = 1500;

fn options() -> Options {
    let graph = GraphOptions::new().max_degree(16).l_build(40).min_rows(200);
    Options::new().background(Background::Manual).graph(graph)
}

/// About one of some centres far from the origin.
fn vector(n: u64) -> Vec<f32> {
    let noise = |seed: u64| {
        let x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let x = (x ^ x >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((x ^ x >> 32) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let component = |i: u64| 2.0 + 2.0 * noise(n % 17 * 1000 + i) + noise(1_000_000 + n * 100 + i);
    (0..DIMENSION as u64).map(component).collect()
}

fn load(db: &Db, kind: CodeKind) -> Collection {
    let shape = CollectionOptions::new(DIMENSION as u32, Metric::Cosine).codes(kind);
    let c = db.create_collection("rows", shape).unwrap();
    for rows in [0..ROWS / 2, ROWS / 2..ROWS] {
        let mut batch = WriteBatch::new();
        for n in rows {
            batch.put(&c, n, &vector(n)).unwrap();
        }
        db.write(batch).unwrap();
        db.flush().unwrap();
    }
    c
}

/// Recall@10 of some searches, whose distances are those of an exact search.
fn recall(c: &Collection, l: usize) -> f64 {
    let mut found = 0;
    for n in 0..40 {
        let query = vector(1_000_000 + n);
        let exact = c
            .search(&query, &SearchOptions::new(10).exact(true))
            .unwrap();
        let result = c
            .search(&query, &SearchOptions::new(10).l_search(l))
            .unwrap();
        assert!(result.stats.visited > 0, "a walk");
        assert!(result.stats.reranked >= 10, "{:?}", result.stats);
        for hit in &result.hits {
            found += usize::from(exact.hits.contains(hit));
        }
        let farther = result.hits.iter().zip(&exact.hits);
        assert!(farther.clone().count() == 10);
        assert!(
            farther
                .into_iter()
                .all(|(hit, best)| hit.distance >= best.distance)
        );
    }
    found as f64 / 400.0
}

fn check(c: &Collection, kind: CodeKind) {
    assert_eq!(c.codes(), kind);
    let (l, least) = match kind {
        CodeKind::Sq8 => (60, 0.97),
        CodeKind::Sq4 => (80, 0.97),
        _ => (200, 0.9),
    };
    let recall = recall(c, l);
    assert!(recall >= least, "{kind}: {recall}");
}

fn open(dir: &Path) -> Db {
    Db::open(dir, options()).unwrap()
}

/// Bytes of all codes.
fn want(kind: CodeKind) -> u64 {
    ROWS * kind.stride(DIMENSION as u32) as u64
}

#[test]
fn a_collection_keeps_its_codes_through_flush_merge_and_reopen() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path());
        let c = load(&db, kind);
        check(&c, kind);
        db.compact().unwrap();
        check(&c, kind);
        // Where the suites read by `pread` nothing is mapped, and the copy is whole pages.
        let codes = |db: &Db| {
            while db.run_background_step().unwrap() {}
            let codes = db.stats().memory.codes;
            assert!([0, want(kind)].contains(&codes.mapped), "{codes:?}");
            codes.resident / 4096
        };
        let want = want(kind).div_ceil(4096);
        assert_eq!(codes(&db), want, "{kind}");
        db.close().unwrap();
        // Twice: the second open reads the manifest that the first has written.
        for _ in 0..2 {
            let db = open(dir.path());
            let c = db.collection("rows").unwrap();
            check(&c, kind);
            assert_eq!(codes(&db), want, "{kind}");
            db.verify().unwrap();
            db.close().unwrap();
        }
    }
}

#[test]
fn a_collection_is_not_opened_with_other_codes() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let shape = |kind| CollectionOptions::new(3, Metric::L2).codes(kind);
    let create = |kind| db.create_collection("rows", shape(kind));
    create(CodeKind::Sq4).unwrap();
    create(CodeKind::Sq4).unwrap();
    let error = create(CodeKind::Sq8).unwrap_err();
    assert!(matches!(error, Error::Incompatible { .. }), "{error}");
    assert!(
        error.to_string().contains("codes sq4, not 3, l2 and sq8"),
        "{error}"
    );
}

#[test]
fn a_row_that_a_memtable_shadows_is_not_found_by_its_code() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let c = load(&db, CodeKind::Sq8);
    db.compact().unwrap();
    let query = vector(5);
    let options = SearchOptions::new(10).l_search(40);
    let before = c.search(&query, &options).unwrap().hits;
    assert_eq!(before[0].key[..], 5u64.to_be_bytes());
    // Most of those that a rerank would have taken are gone.
    for hit in &before {
        c.delete(hit.key.clone()).unwrap();
    }
    let after = c.search(&query, &options).unwrap().hits;
    assert_eq!(after.len(), 10);
    assert!(
        after
            .iter()
            .all(|hit| before.iter().all(|gone| gone.key != hit.key))
    );
    let exact = c.search(&query, &options.exact(true)).unwrap().hits;
    let found = after.iter().filter(|hit| exact.contains(hit)).count();
    assert!(found >= 9, "{found}");
}
