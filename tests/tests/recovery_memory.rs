//! An open that replays a log of ten times the memory budget takes half as much again
//! as the budget at most, and says how far it is.
//!
//! Real processes on a real file system: one writes the log and ends without a close,
//! the next opens it. Measured is what the second one's allocator hands out, beyond what
//! it had handed out before the open (file pages of maps are not the heap's), and to be
//! sure of the measure the process may not have more private memory either
//! (`RLIMIT_DATA`, a margin beyond it): an allocation would fail, and the process end.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test, with a global allocator that counts"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use esker::{
    Background, Collection, CollectionOptions, Db, Durability, MapMode, Metric, Options,
    RecoveryProgress, WriteBatch, WriteOptions,
};
use rustix::process::{Resource, Rlimit, setrlimit};

struct Counting;

static HELD: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: usize) {
    let held = HELD.fetch_add(bytes as i64, Ordering::Relaxed) + bytes as i64;
    PEAK.fetch_max(held, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged. A reallocation is an
// allocation beside the old one, so it counts as both.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What is written and how it is opened.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    budget: usize,
    dimension: u32,
    operations: u64,
    keys: u64,
    /// Operations of a batch; every sixteenth batch is as large as a budget allows.
    batch: u64,
    map_mode: MapMode,
    auto_compact: bool,
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "wide",
        budget: 16 << 20,
        dimension: 160,
        operations: 330_000,
        keys: 200_000,
        batch: 20,
        map_mode: MapMode::Mmap,
        auto_compact: true,
    },
    // Rows that take far more in a memtable than in the log.
    Shape {
        name: "narrow",
        budget: 5 << 20,
        dimension: 4,
        operations: 1_700_000,
        keys: 300_000,
        batch: 500,
        map_mode: MapMode::Pread,
        auto_compact: true,
    },
    // Every flush of the recovery builds a graph, as no merge will.
    Shape {
        name: "graphs",
        budget: 4 << 20,
        dimension: 160,
        operations: 84_000,
        keys: 50_000,
        batch: 20,
        map_mode: MapMode::Mmap,
        auto_compact: false,
    },
];

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Shape {
    /// Operation `i`: its key, and whether it puts.
    fn operation(&self, i: u64) -> (u64, bool) {
        let r = mix(i + 1);
        (r % self.keys, !(r / self.keys).is_multiple_of(5))
    }

    fn vector(&self, i: u64) -> Vec<f32> {
        (0..u64::from(self.dimension))
            .map(|d| (i % 100_003) as f32 + d as f32 / 256.0)
            .collect()
    }

    /// As many operations as fill a batch of a quarter of the budget.
    fn large(&self) -> u64 {
        (self.budget as u64 / 4) / (u64::from(self.dimension) * 4 + 24)
    }

    fn write(&self, dir: &Path) {
        let options = Options::new()
            .memory_budget(4 << 30)
            .memtable_bytes(2 << 30)
            .log_file_bytes(16 << 20)
            .max_log_bytes(4 << 30)
            .background(Background::Manual);
        let db = Db::open(dir, options).unwrap();
        let rows = CollectionOptions::new(self.dimension, Metric::L2);
        let rows = db.create_collection("rows", rows).unwrap();
        let mut next = 0;
        for number in 0_u64.. {
            let large = number % 16 == 15;
            let count = if large { self.large() } else { self.batch };
            let end = (next + count).min(self.operations);
            let mut batch = WriteBatch::new();
            for i in next..end {
                match self.operation(i) {
                    (key, true) => batch.put(&rows, key, &self.vector(i)).unwrap(),
                    (key, false) => batch.delete(&rows, key).unwrap(),
                }
            }
            let os = WriteOptions::new().durability(Durability::Os);
            db.write_with(batch, os).unwrap();
            next = end;
            if next == self.operations {
                break;
            }
        }
        assert_eq!(db.stats().flushes, 0);
        // No close, no drop.
        std::process::exit(0);
    }

    fn recover(&self, dir: &Path) {
        let told: Arc<Mutex<Vec<RecoveryProgress>>> = Arc::default();
        let listener = Arc::clone(&told);
        let options = Options::new()
            .memory_budget(self.budget)
            .memtable_bytes(self.budget / 2)
            .map_mode(self.map_mode)
            .auto_compact(self.auto_compact)
            .background(Background::Manual)
            .on_recovery_progress(move |progress| listener.lock().unwrap().push(*progress));
        let allowed = self.budget + self.budget / 2;
        if self.auto_compact {
            private_memory_beyond(allowed);
        }
        let start = Instant::now();
        let before = HELD.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let db = Db::open(dir, options).unwrap();
        let peak = PEAK.load(Ordering::Relaxed) - before;
        let took = start.elapsed();
        private_memory(None);
        let stats = db.stats();
        let report = db.recovery_report();
        println!(
            "{}: peak {:.2} MiB of {:.2} allowed, {:.1?}, {} segments, memtables {:.2} MiB",
            self.name,
            peak as f64 / f64::from(1 << 20),
            allowed as f64 / f64::from(1 << 20),
            took,
            report.flushed_segments,
            stats.memtable_bytes as f64 / f64::from(1 << 20),
        );
        if self.auto_compact {
            assert!(peak <= allowed as i64, "{peak} of {allowed}");
        }
        assert!(stats.memtable_bytes <= self.budget);
        assert_eq!(report.operations, self.operations);
        check_told(&told.lock().unwrap(), self.budget, report.flushed_segments);
        self.check(&db.collection("rows").unwrap());
        db.close().unwrap();
    }

    /// Every key has the last row that was put, and nothing else is there.
    fn check(&self, rows: &Collection) {
        let mut last = vec![None; self.keys as usize];
        for i in 0..self.operations {
            let (key, put) = self.operation(i);
            last[key as usize] = put.then_some(i);
        }
        let live = last.iter().flatten().count();
        assert_eq!(rows.len().unwrap(), live as u64);
        let mut scanned = 0;
        for record in rows.scan(..).unwrap() {
            let (key, record) = record.unwrap();
            let key = key.as_u64().unwrap();
            let i = last[key as usize].expect("a key that is gone");
            assert_eq!(record.vector, self.vector(i), "key {key}");
            scanned += 1;
        }
        assert_eq!(scanned, live);
    }
}

/// From here on the process may have this much private memory beyond what it has.
fn private_memory_beyond(allowed: usize) {
    /// What the allocator beneath keeps, and does not give back.
    const MARGIN: usize = 4 << 20;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let data = status.lines().find_map(|l| l.strip_prefix("VmData:"));
    let data = data.unwrap().trim().trim_end_matches(" kB");
    let limit = (data.parse::<usize>().unwrap() << 10) + allowed + MARGIN;
    private_memory(Some(limit as u64));
}

fn private_memory(limit: Option<u64>) {
    let limit = Rlimit {
        current: limit,
        maximum: None,
    };
    setrlimit(Resource::Data, limit).unwrap();
}

/// Reports rise, are frequent, and end at the whole.
fn check_told(told: &[RecoveryProgress], budget: usize, segments: usize) {
    let last = told.last().expect("told at least once");
    assert!(last.log_bytes_total >= 10 * budget as u64, "{last:?}");
    assert_eq!(last.log_bytes, last.log_bytes_total);
    assert!(segments >= 10 && last.flushed_segments <= segments);
    assert!(last.flushed_segments + 2 >= segments, "{last:?}");
    for pair in told.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        assert!(a.log_bytes <= b.log_bytes && a.operations <= b.operations);
        assert!(a.flushed_segments <= b.flushed_segments);
        assert_eq!(a.log_bytes_total, b.log_bytes_total);
        // A step, and a frame.
        let step = (4 << 20) + budget as u64 / 3;
        assert!(b.log_bytes - a.log_bytes <= step, "{a:?} {b:?}");
    }
}

fn run_child(role: &str, shape: &Shape, dir: &Path) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env("ESKER_RECOVERY", format!("{role} {}", shape.name))
        .env("ESKER_RECOVERY_DIR", dir)
        // A backtrace takes memory that there may not be, and then waits for ever.
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap()
}

/// Not a test by itself: the processes of the others run it.
#[test]
fn child() {
    let Ok(what) = std::env::var("ESKER_RECOVERY") else {
        return;
    };
    let dir = std::env::var("ESKER_RECOVERY_DIR").unwrap();
    let (role, name) = what.split_once(' ').unwrap();
    let shape = SHAPES.iter().find(|shape| shape.name == name).unwrap();
    match role {
        "write" => shape.write(Path::new(&dir)),
        _ => shape.recover(Path::new(&dir)),
    }
}

fn recovers(name: &str) {
    let shape = SHAPES.iter().find(|shape| shape.name == name).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for role in ["write", "recover"] {
        let output = run_child(role, shape, dir.path());
        let text = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{role}:\n{text}\n{error}");
        text.lines()
            .filter(|line| line.contains("peak"))
            .for_each(|line| println!("{line}"));
    }
}

#[test]
fn a_long_log_is_replayed_within_the_budget() {
    recovers("wide");
}

#[test]
fn a_long_log_of_small_rows_is_replayed_within_the_budget() {
    recovers("narrow");
}

#[test]
fn a_long_log_is_replayed_where_merges_are_off() {
    recovers("graphs");
}
