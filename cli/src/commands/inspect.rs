//! `esker stats` and `compact`: a database as a whole.

use esker::Db;
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
        ("log_bytes", json!(stats.log_bytes)),
        ("memtable_heap_bytes", json!(stats.memtable_bytes)),
        ("segment_heap_bytes", json!(stats.segment_heap_bytes)),
    ];
    if args.json {
        let mut object = Map::from_iter(totals.map(|(name, value)| (name.to_owned(), value)));
        object.insert("collections".to_owned(), Value::Object(collections));
        return print_line(Value::Object(object));
    }
    for (name, value) in totals {
        print_line(format_args!("{name:<20} {value}"))?;
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
    let after = db.stats().segments;
    db.close()?;
    print_line(format_args!("{before} segments before, {after} after"))
}
