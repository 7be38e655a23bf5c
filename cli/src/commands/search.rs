//! `esker get` and `esker search`: rows by key and by nearness.

use esker::{Collection, Db, SearchOptions, SearchResult, VerifyOnOpen};
use serde_json::{Value, json};

use super::{open_collection, open_collection_with};
use crate::args::{Get, Search};
use crate::failure::{Failure, note, print_line};
use crate::text::{self, Key};
use crate::vecs::Vecs;

/// Prints one row.
pub(crate) fn get(args: &Get) -> Result<(), Failure> {
    let (db, collection) = open_collection(&args.at)?;
    let record = record(&collection, &args.key, &args.at.collection)?;
    db.close()?;
    let key = text::show(&args.key.0);
    let payload = record.payload.as_deref().map(text::show);
    if args.json {
        return print_line(json!({ "key": key, "payload": payload, "vector": record.vector }));
    }
    print_line(format_args!("key      {key}"))?;
    if let Some(payload) = payload {
        print_line(format_args!("payload  {payload}"))?;
    }
    // The shortest decimals that read back to the same bits, as --vector takes them.
    let components: Vec<String> = record.vector.iter().map(f32::to_string).collect();
    print_line(format_args!("vector   {}", components.join(",")))
}

/// Prints the nearest rows.
pub(crate) fn search(args: &Search) -> Result<(), Failure> {
    // Whoever takes what is left takes it from a directory that lacks files, too.
    let verify = match args.skip_quarantined {
        true => VerifyOnOpen::None,
        false => VerifyOnOpen::Metadata,
    };
    let (db, collection) = open_collection_with(&args.at, verify)?;
    let query = query(args, &collection)?;
    let mut options = SearchOptions::new(args.k)
        .with_payloads(true)
        .exact(args.exact)
        .skip_quarantined(args.skip_quarantined);
    if let Some(l) = args.l {
        options = options.l_search(l);
    }
    let found = collection.search(&query, &options)?;
    note_skipped(&db, &found);
    db.close()?;
    let shown = found.hits.iter().map(|hit| {
        (
            hit.distance,
            text::show(hit.key.as_bytes()),
            hit.payload.as_deref().map(text::show),
        )
    });
    if args.json {
        let hits: Vec<Value> = shown
            .map(|(distance, key, payload)| {
                json!({ "distance": distance, "key": key, "payload": payload })
            })
            .collect();
        return print_line(Value::from(hits));
    }
    for (distance, key, payload) in shown {
        print_line(format_args!(
            "{distance}\t{key}\t{}",
            payload.unwrap_or_default()
        ))?;
    }
    Ok(())
}

/// Says what the hits were not chosen from. Not among them: they may be read by a
/// program.
fn note_skipped(db: &Db, found: &SearchResult) {
    let quarantined = db.quarantined();
    for skipped in &found.skipped {
        let (id, rows) = (skipped.segment, skipped.live_rows);
        let mut reasons = quarantined.iter().filter(|q| q.segment == id);
        let why = reasons.next().map(|q| format!(": {}", q.error));
        note(format_args!(
            "segment {id} was left out, and with it {rows} rows that may be nearer{}",
            why.unwrap_or_default()
        ));
    }
}

fn query(args: &Search, collection: &Collection) -> Result<Vec<f32>, Failure> {
    if let Some(vector) = &args.query.vector {
        return Ok(vector.0.clone());
    }
    if let Some(key) = &args.query.like {
        return Ok(record(collection, key, &args.at.collection)?.vector);
    }
    let Some(file) = &args.query.file else {
        return Err(Failure::Usage(
            "a search needs --query, --vector or --like".to_owned(),
        ));
    };
    let mut vector = Vec::new();
    let read = Vecs::open(file)?.read_vectors(args.row, 1, &mut vector);
    read.map_err(|error| Failure::file("reading", file, &error))?;
    Ok(vector)
}

/// The row of a key that must exist.
fn record(collection: &Collection, key: &Key, name: &str) -> Result<esker::Record, Failure> {
    collection.get(key.0.as_slice())?.ok_or_else(|| {
        Failure::failed(format!(
            "no row has the key {} in collection {name}",
            text::show(&key.0)
        ))
    })
}
