//! What `Stats::memory` says is what the process holds.
//!
//! One test at a time: the allocator counts all threads together.

mod allocator;
mod at_rest;
mod deletions;
mod states;

use std::sync::{Mutex, MutexGuard, PoisonError};

use esker::{Collection, Db, Durability, MemoryStats, WriteBatch, WriteOptions};
use esker_tests::rng::Rng;

static ALONE: Mutex<()> = Mutex::new(());

/// Held by whoever counts.
fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that the process holds: the allocator's, and anonymous pages that it does not
/// see.
fn held() -> i64 {
    let pages = esker_segment::memory::anonymous_bytes();
    allocator::live_bytes() + pages as i64
}

/// Handles, the manifest's state and other things that do not grow with rows.
const FIXED: i64 = 64 << 10;

/// Checks that the figures add up to what is held beyond `before`.
fn check(what: &str, before: i64, memory: &MemoryStats) {
    let held = held() - before;
    let said = memory.resident() as i64;
    let off = (said - held).abs();
    eprintln!("{what:<24} held {held:>11}, stats {said:>11}, off by {off}");
    assert!(
        off <= held.abs() / 20 + FIXED,
        "{what}: {held} bytes are held, the figures say {said}: {memory:#?}"
    );
}

fn vector(rng: &mut Rng, dimension: usize) -> Vec<f32> {
    (0..dimension)
        .map(|_| rng.below(1_000_003) as f32 / 1_000_003.0)
        .collect()
}

/// Puts rows `from..to`, with payloads of some dozens of bytes if asked for.
fn put(db: &Db, c: &Collection, (from, to): (u64, u64), payload: usize) {
    let mut rng = Rng::new(from);
    for start in (from..to).step_by(500) {
        let mut batch = WriteBatch::new();
        for key in start..to.min(start + 500) {
            let row = vector(&mut rng, c.dimension() as usize);
            match payload {
                0 => batch.put(c, key, &row).expect("valid"),
                len => {
                    let payload = vec![key as u8; len + (key % 8) as usize];
                    batch
                        .put_with_payload(c, key, &row, &payload)
                        .expect("valid");
                }
            }
        }
        let fast = WriteOptions::new().durability(Durability::Os);
        db.write_with(batch, fast).expect("written");
    }
}
