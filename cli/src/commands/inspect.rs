//! `esker stats` and `compact`: a database as a whole.

use esker::{Db, MemoryStats};
use serde_json::{Map, Value, json};

use super::open;
use crate::args::{Database, Stats};
use crate::failure::{Failure, print_line};

/// Prints what the database and each collection hold. What is counted since the
/// open is left out: this process has only just opened it.
pub(crate) fn stats(args: &Stats) -> Result<(), Failure> {
    let db = open(&args.dir)?;
    let collections = collections(&db)?;
    let stats = db.stats();
    db.close()?;
    let memory = memory(&stats.memory);
    let totals = [
        ("segments", json!(stats.segments)),
        ("segment_bytes", json!(stats.segment_bytes)),
        ("segment_rows", json!(stats.segment_rows)),
        ("graph_rows", json!(stats.graph_rows)),
        ("graph_bytes", json!(stats.graph_bytes)),
        (
            "least_sampled_recall",
            json!(stats.least_sampled_recall.map(rounded)),
        ),
        ("merges_due", json!(stats.merges_due)),
        ("merge_debt_bytes", json!(stats.merge_debt_bytes)),
        ("log_bytes", json!(stats.log_bytes)),
        ("memtable_heap_bytes", json!(stats.memtable_bytes)),
        ("segment_heap_bytes", json!(stats.segment_heap_bytes)),
    ];
    if args.json {
        let mut object = Map::from_iter(totals.map(|(name, value)| (name.to_owned(), value)));
        let memory = memory.map(|(name, value)| (name.to_owned(), json!(value)));
        object.insert("memory".to_owned(), Value::Object(Map::from_iter(memory)));
        object.insert("collections".to_owned(), Value::Object(collections));
        return print_line(Value::Object(object));
    }
    for (name, value) in totals {
        print_line(format_args!("{name:<20} {value}"))?;
    }
    for (name, value) in memory {
        print_line(format_args!("memory: {name:<12} {value}"))?;
    }
    for (name, collection) in collections {
        print_line(format_args!(
            "collection {name}: {} rows of {} dimensions, {}, {}",
            collection["rows"],
            collection["dimension"],
            collection["metric"].as_str().unwrap_or_default(),
            collection["codes"].as_str().unwrap_or_default()
        ))?;
    }
    Ok(())
}

/// Bytes in memory, by what they are for; those of maps are the system's to keep.
fn memory(memory: &MemoryStats) -> [(&'static str, u64); 9] {
    [
        ("resident", memory.resident()),
        ("mapped", memory.mapped()),
        ("hot", memory.hot),
        ("not_hot", memory.not_hot),
        ("memtables", memory.active_memtables.total()),
        ("tables", memory.tables),
        ("deletions", memory.deletion_vectors),
        ("block_cache", memory.block_cache),
        ("writes", memory.writes),
    ]
}

/// A share with four digits, as many as the sample has.
fn rounded(share: f32) -> f64 {
    (f64::from(share) * 1e4).round() / 1e4
}

/// Rows and settings of each collection, by name.
fn collections(db: &Db) -> Result<Map<String, Value>, Failure> {
    let describe = |name: String| {
        let collection = db.collection(&name)?;
        let about = json!({
            "rows": collection.len()?,
            "dimension": collection.dimension(),
            "metric": collection.metric().to_string(),
            "codes": collection.codes().to_string(),
        });
        Ok((name, about))
    };
    db.collections().into_iter().map(describe).collect()
}

/// Merges all segments of each collection.
pub(crate) fn compact(args: &Database) -> Result<(), Failure> {
    let db = open(&args.dir)?;
    db.flush()?;
    let before = db.stats().segments;
    db.compact()?;
    let stats = db.stats();
    db.close()?;
    print_line(format_args!(
        "{before} segments before, {} after; {} merges read {} bytes and wrote {} in {:.1} s",
        stats.segments,
        stats.merges,
        stats.bytes_read_merges,
        stats.bytes_written_merges,
        stats.merge_time.as_secs_f64()
    ))
}
