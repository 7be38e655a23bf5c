//! The second half of `esker bench-churn`: what files take after rows were deleted.
//!
//! Owns which rows go and the comparison with what those that are left need: the bytes of
//! one fresh segment of them. Invariants: merges come of the engine's own threads alone,
//! nobody asks for one; which rows go depends on the seed alone; a database that has more
//! or fewer rows than are left ends the run. Must not know: how merges work.

use std::path::Path;
use std::time::Instant;

use esker::{Collection, Db, Options, Stats};
use serde_json::{Value, json};

use super::load::Load;
use super::random::Random;
use super::report::{print_report, round};
use super::search::bytes_in;
use super::settle::{Merges, settle};
use crate::args::BenchChurn;
use crate::failure::Failure;
use crate::scratch::Scratch;

/// What a database's files take.
struct Files {
    all: u64,
    stats: Stats,
}

impl Files {
    fn of(db: &Db, dir: &Path) -> Result<Self, Failure> {
        let all = bytes_in(dir).map_err(|error| Failure::file("reading", dir, &error))?;
        let stats = db.stats();
        Ok(Self { all, stats })
    }
}

/// Deletes each of the shares in turn from the first `live` rows, and prints a line for
/// each.
pub(super) fn deletions(args: &BenchChurn, load: &Load, live: u64) -> Result<(), Failure> {
    let scratch = Scratch::new()?;
    let dir = scratch.path().join("deleted");
    let (db, collection) = load.create_with(&dir, Options::default())?;
    load.write(&db, &collection, 0..live)?;
    db.flush()?;
    settle(&db, Merges::AreDone, &|| None)?;
    let order = shuffled(live, args.seed);
    let mut done = 0;
    let mut before = Files::of(&db, &dir)?;
    for &share in &args.delete {
        let until = (live as f64 * share).round() as usize;
        let (gone, left) = order.split_at(until.min(order.len()));
        let started = Instant::now();
        load.replace(&db, &collection, gone.get(done..).unwrap_or_default(), &[])?;
        db.flush()?;
        let flushed = Files::of(&db, &dir)?;
        let ended = settle(&db, Merges::AreDone, &|| None)?;
        let settled = ended.saturating_duration_since(started);
        check_count(&collection, left.len())?;
        let after = Files::of(&db, &dir)?;
        let fresh = needed(load, left, &scratch.path().join(left.len().to_string()))?;
        let mut line = line([&before, &flushed, &after], fresh);
        if let Some(fields) = line.as_object_mut() {
            fields.insert("deleted".into(), json!(share));
            fields.insert("live_rows".into(), json!(left.len()));
            fields.insert("dimension".into(), json!(load.dimension));
            let seconds = round(settled.as_secs_f64(), 2);
            fields.insert("settled_s".into(), json!(seconds));
        }
        print_report(&line, args.json)?;
        (before, done) = (after, gone.len());
    }
    Ok(db.close()?)
}

/// All rows, in an order that the seed decides.
fn shuffled(rows: u64, seed: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..rows).collect();
    let mut random = Random::new(seed);
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at + 1));
    }
    order
}

fn check_count(collection: &Collection, left: usize) -> Result<(), Failure> {
    let there = collection.len()?;
    if there == left as u64 {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{left} rows were not deleted, and the collection has {there}"
    )))
}

/// Bytes of one segment of these rows and nothing else.
fn needed(load: &Load, rows: &[u64], dir: &Path) -> Result<u64, Failure> {
    let (db, collection) = load.create_with(dir, Options::default().auto_compact(false))?;
    load.replace(&db, &collection, &[], rows)?;
    db.compact()?;
    check_count(&collection, rows.len())?;
    let stats = db.stats();
    if stats.segments != usize::from(!rows.is_empty()) {
        return Err(Failure::failed(format!(
            "a compaction of {} rows left {} segments",
            rows.len(),
            stats.segments
        )));
    }
    db.close()?;
    std::fs::remove_dir_all(dir).map_err(|error| Failure::file("removing", dir, &error))?;
    Ok(stats.segment_bytes)
}

/// Before the deletions, when they were flushed, when nothing was left to be merged.
fn line([before, flushed, after]: [&Files; 3], fresh: u64) -> Value {
    let mb = |bytes: u64| round(bytes as f64 / f64::from(1 << 20), 2);
    let without_logs = after.all.saturating_sub(after.stats.log_bytes);
    let to_fresh = (fresh > 0).then(|| round(without_logs as f64 / fresh as f64, 3));
    json!({
        "disk_mb_before": mb(before.all),
        "disk_mb_flushed": mb(flushed.all),
        "disk_mb": mb(after.all),
        "log_mb": mb(after.stats.log_bytes),
        "segment_mb": mb(after.stats.segment_bytes),
        "fresh_mb": mb(fresh),
        "disk_to_fresh": to_fresh,
        "segments": after.stats.segments,
        "merges": after.stats.merges - before.stats.merges,
        "written_mb": mb(after.stats.bytes_written_segments - before.stats.bytes_written_segments),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_goes_once_in_an_order_of_its_seed() {
        let order = shuffled(1000, 3);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..1000));
        assert_eq!(order, shuffled(1000, 3));
        assert_ne!(order, shuffled(1000, 4));
        let early = order.iter().take(500).filter(|row| **row < 500).count();
        assert!((200..300).contains(&early), "{early}");
    }
}
