//! `esker salvage`: what is left of a damaged database, as a new one.
//!
//! Owns the report's two forms and the exit code: 0 nothing was lost, 2 something
//! was. Must not know: how damage is gone around.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use esker::{Damage, Lost, SalvageOptions, SalvageReport, SalvagedCollection};
use serde_json::{Value, json};

use crate::args::Salvage;
use crate::failure::{Failure, print_line};

/// Exit code of a salvage that finished and did not recover everything.
const INCOMPLETE: u8 = 2;

/// Recovers, and says what could not be.
pub(crate) fn salvage(args: &Salvage) -> Result<ExitCode, Failure> {
    let options = SalvageOptions::new()
        .keep_rows_without_payload(args.keep_rows_without_payload)
        .recover_possibly_deleted(!args.skip_possibly_deleted);
    let destination = resolved(&args.destination);
    let report = esker::salvage(resolved(&args.source), destination, &options)?;
    if args.json {
        print_line(as_json(&report))?;
    } else {
        print(&report)?;
    }
    Ok(match report.is_complete() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(INCOMPLETE),
    })
}

/// The path without links as far as it exists, so that two names of one directory
/// are seen to be one.
fn resolved(path: &Path) -> PathBuf {
    if let Ok(path) = path.canonicalize() {
        return path;
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new(".")).canonicalize();
    match (parent, path.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

fn print(report: &SalvageReport) -> Result<(), Failure> {
    for collection in &report.collections {
        print_line(describe(collection))?;
    }
    if !report.lost_writes.is_none() {
        print_line(format_args!(
            "writes lost that nothing assigns to a collection: {}",
            report.lost_writes
        ))?;
    }
    for damage in &report.damages {
        print_line(describe_damage(damage))?;
    }
    if report.damages_left_out > 0 {
        print_line(format_args!(
            "and {} more damages like these",
            report.damages_left_out
        ))?;
    }
    for assumption in &report.assumptions {
        print_line(format_args!("assumed: {assumption}"))?;
    }
    print_line(match report.is_complete() {
        true => "nothing was lost",
        false => "the new database lacks rows, or has some that it should not: see above",
    })
}

fn describe(collection: &SalvagedCollection) -> String {
    let mut text = format!(
        "collection {}: {} rows recovered, {} lost",
        collection.name, collection.recovered, collection.lost
    );
    if collection.doubtful > 0 {
        text += &format!(
            "; {} of those recovered may be older than a delete or an overwrite",
            collection.doubtful
        );
    }
    if collection.without_payload > 0 {
        text += &format!("; {} without their payload", collection.without_payload);
    }
    text
}

fn describe_damage(damage: &Damage) -> String {
    let mut text = format!("{} at byte {}", damage.file.display(), damage.offset);
    if damage.len > 0 {
        text += &format!(", {} bytes", damage.len);
    }
    text += &format!(": {}; rows lost: {}", damage.what, damage.lost);
    if let Some(seqnos) = &damage.seqnos {
        text += &format!("; writes {} to {}", seqnos.start(), seqnos.end());
    }
    if damage.doubtful > 0 {
        text += &format!("; rows recovered in doubt: {}", damage.doubtful);
    }
    text
}

fn lost_json(lost: Lost) -> Value {
    json!({ "at_least": lost.at_least, "at_most": lost.at_most })
}

fn as_json(report: &SalvageReport) -> Value {
    let collections = report.collections.iter().map(|c| {
        json!({
            "name": c.name,
            "id": c.id.0,
            "dimension": c.dimension,
            "metric": c.metric.to_string(),
            "recovered": c.recovered,
            "lost": lost_json(c.lost),
            "doubtful": c.doubtful,
            "without_payload": c.without_payload,
        })
    });
    let damages = report.damages.iter().map(|d| {
        let seqnos = d.seqnos.as_ref().map(|s| [*s.start(), *s.end()]);
        json!({
            "file": d.file.display().to_string(),
            "offset": d.offset,
            "len": d.len,
            "what": d.what,
            "seqnos": seqnos,
            "lost": lost_json(d.lost),
            "doubtful": d.doubtful,
        })
    });
    json!({
        "complete": report.is_complete(),
        "recovered": report.recovered(),
        "lost": lost_json(report.lost()),
        "lost_writes": lost_json(report.lost_writes),
        "doubtful": report.doubtful(),
        "collections": collections.collect::<Vec<_>>(),
        "damages": damages.collect::<Vec<_>>(),
        "damages_left_out": report.damages_left_out,
        "assumptions": report.assumptions,
    })
}
