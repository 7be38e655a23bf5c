//! The figures in every state that rows go through.

use std::sync::atomic::{AtomicBool, Ordering};

use esker::{
    Background, CollectionOptions, Db, GraphOptions, MapMode, Metric, Options, Residency,
    SearchOptions,
};
use esker_tests::rng::Rng;

use crate::{alone, check, held, put, vector};

/// What the tasks of a build that run at one time hold, which nobody counts: four MiB
/// for each thread.
const TASKS: i64 = 8 << 20;
const ROWS: u64 = 50_000;
const DIMENSION: usize = 64;

fn options() -> Options {
    Options::new()
        .background(Background::Manual)
        .auto_compact(false)
        .memory_budget(512 << 20)
        .memtable_bytes(16 << 20)
        .graph(GraphOptions::new().max_degree(16).l_build(16))
        .map_mode(MapMode::Mmap)
        .residency(Residency::Mapped)
}

#[test]
fn figures_are_what_is_held_in_every_state() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("dir");
    // What the first open makes once for the process is not the database's.
    drop(Db::open(dir.path(), options()).expect("opens"));
    let before = held();

    let db = Db::open(dir.path(), options()).expect("opens");
    let shape = CollectionOptions::new(DIMENSION as u32, Metric::Cosine);
    let c = db.create_collection("c", shape).expect("made");
    put(&db, &c, (0, 10_000), 40);
    let memory = db.stats().memory;
    assert_eq!(memory.frozen_memtables.total(), 0);
    assert!(memory.active_memtables.vectors >= 10_000 * DIMENSION as u64 * 4);
    check("memtable", before, &memory);

    put(&db, &c, (10_000, ROWS), 40);
    let memory = db.stats().memory;
    assert!(memory.frozen_memtables.vectors > memory.active_memtables.vectors);
    check("frozen memtables", before, &memory);

    // Searches make codes of what lies in memtables.
    let query = vector(&mut Rng::new(5), DIMENSION);
    for _ in 0..ROWS / 256 {
        c.search(&query, &SearchOptions::new(10)).expect("finds");
    }
    let memory = db.stats().memory;
    let coded = memory.frozen_memtables.codes + memory.active_memtables.codes;
    assert!(coded > (ROWS - 2_000) * DIMENSION as u64 / 2, "{coded}");
    check("memtables with codes", before, &memory);

    let snapshot = db.snapshot().expect("taken");
    db.flush().expect("flushed");
    let memory = db.stats().memory;
    assert_eq!(memory.frozen_memtables.total(), 0);
    assert!(memory.pinned_memtables > ROWS * DIMENSION as u64 * 4);
    check("flushed, pinned", before, &memory);
    drop(snapshot);

    // Rows that are replaced are in deletion vectors.
    put(&db, &c, (0, 3_000), 40);
    db.flush().expect("flushed");
    let memory = db.stats().memory;
    assert!(memory.deletion_vectors > 0);
    assert_eq!(memory.pinned_memtables, 0);
    check("flushed", before, &memory);

    during_a_build(&db, before);
    let memory = db.stats().memory;
    assert_eq!(memory.builds, 0);
    check("compacted", before, &memory);
    searched("searched", &db, before);
    db.close().expect("closed");
    drop((c, db));
    check("closed", before, &esker::MemoryStats::default());

    reopened(dir.path(), before);
}

/// Looks again and again while a merge builds a graph.
fn during_a_build(db: &Db, before: i64) {
    let done = AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let looker = scope.spawn(|| {
            let (mut looks, mut most, mut in_a_row) = (0, 0, 0);
            while !done.load(Ordering::Relaxed) {
                let first = held() - before;
                let memory = db.stats().memory;
                let second = held() - before;
                let said = memory.resident() as i64;
                // What came or went while it looked is nobody's mistake.
                let (low, high) = (first.min(second), first.max(second));
                // Before the graph there are little more than buffers that still grow.
                if memory.builds > 4 << 20 {
                    looks += 1;
                    most = most.max(memory.builds);
                    let agrees = said >= low * 9 / 10 - TASKS && said <= high * 11 / 10 + TASKS;
                    // Nor is what a thread allocated that was put off before it said so:
                    // on a busy machine that takes some looks, a mistake as many as there are.
                    in_a_row = if agrees { 0 } else { in_a_row + 1 };
                    assert!(
                        in_a_row < 10,
                        "{low} to {high} bytes were held, the figures say {said}: {memory:#?}"
                    );
                }
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            (looks, most)
        });
        db.compact().expect("compacted");
        done.store(true, Ordering::Relaxed);
        looker.join().expect("agrees")
    });
    eprintln!("during a build: {looks:?}");
    assert!(looks.0 > 10, "only {} looks", looks.0);
    let vectors = ROWS * DIMENSION as u64 * 4;
    assert!(
        looks.1 > vectors,
        "at most {} bytes were for the build",
        looks.1
    );
}

fn searched(what: &str, db: &Db, before: i64) {
    let c = db.collection("c").expect("there");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let c = &c;
            scope.spawn(move || {
                let mut rng = Rng::new(thread);
                for _ in 0..50 {
                    let query = vector(&mut rng, DIMENSION);
                    let wide = SearchOptions::new(10).l_search(400);
                    assert_eq!(c.search(&query, &wide).expect("finds").hits.len(), 10);
                }
            });
        }
    });
    let memory = db.stats().memory;
    assert!(memory.searches > 0);
    check(what, before, &memory);
}

fn reopened(dir: &std::path::Path, before: i64) {
    let mut walked = Vec::new();
    for (name, mode, residency) in [
        ("reopened, mapped", MapMode::Mmap, Residency::Mapped),
        ("reopened, hot", MapMode::Mmap, Residency::Hot),
        ("reopened, pread", MapMode::Pread, Residency::Mapped),
        ("reopened, pread and hot", MapMode::Pread, Residency::Hot),
    ] {
        let options = options().map_mode(mode).residency(residency);
        let anonymous = anonymous_kib();
        let db = Db::open(dir, options).expect("opens");
        while db.run_background_step().expect("works") {}
        let memory = db.stats().memory;
        check(name, before, &memory);
        let grown = anonymous_kib() - anonymous;
        assert_eq!(memory.mapped() > 0, mode == MapMode::Mmap);
        let copied = memory.graphs.resident + memory.codes.resident;
        assert_eq!(memory.hot, copied);
        assert_eq!(memory.hot > 0, residency == Residency::Hot);
        assert_eq!(memory.not_hot, 0);
        if mode == MapMode::Mmap {
            let (graphs, codes) = (memory.graphs, memory.codes);
            walked.push((
                graphs.mapped + codes.mapped,
                graphs.resident + codes.resident,
                grown,
            ));
        }
        searched(&format!("{name}, searched"), &db, before);
        db.close().expect("closed");
    }
    let [(mapped, _, cold), (file, hot, warm)] = walked[..] else {
        panic!("both");
    };
    assert_eq!(mapped, file);
    // Two sections for each segment, in whole pages.
    assert!(hot >= file && hot < file + 64 * 4096, "{hot} of {file}");
    // The kernel's count of pages without a file agrees.
    let copied = (warm - cold) * 1024;
    let off = (copied - hot as i64).abs();
    assert!(
        off <= hot as i64 / 10 + (1 << 20),
        "the copy takes {copied} bytes, the figures say {hot}"
    );
}

/// Anonymous memory of the process that is resident, in KiB.
fn anonymous_kib() -> i64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("Linux");
    let line = text.lines().find_map(|l| l.strip_prefix("Anonymous:"));
    let kib = line
        .and_then(|l| l.trim().strip_suffix("kB"))
        .expect("there");
    kib.trim().parse().expect("a number")
}
