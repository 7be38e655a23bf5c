//! The everyday commands: each opens a database, does one thing, and closes it.
//! `verify` alone opens none.

mod import;
mod inspect;
mod salvage;
mod search;
mod verify;

use std::path::Path;

use esker::{Collection, CollectionOptions, Db, Options, VerifyOnOpen};

use crate::args::{Create, InCollection};
use crate::failure::{Failure, note, print_line};
use crate::progress;
pub(crate) use import::import;
pub(crate) use inspect::{compact, stats};
pub(crate) use salvage::salvage;
pub(crate) use search::{get, search};
pub(crate) use verify::verify;

/// That there is something in a directory that could be a database.
fn check_there(dir: &Path) -> Result<(), Failure> {
    let is_empty = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    if !dir.exists() || is_empty {
        return Err(Failure::failed(format!(
            "there is no database in {}; make one with: esker create {} NAME --dimension N --metric M",
            dir.display(),
            dir.display()
        )));
    }
    Ok(())
}

/// Opens a database that must exist, and says what recovery had to drop.
fn open(dir: &Path) -> Result<Db, Failure> {
    open_with(dir, VerifyOnOpen::default())
}

fn open_with(dir: &Path, verify: VerifyOnOpen) -> Result<Db, Failure> {
    check_there(dir)?;
    let options = Options::default()
        .create_if_missing(false)
        .verify_on_open(verify)
        .on_recovery_progress(progress::recovery());
    let db = Db::open(dir, options)?;
    if let Some(torn) = &db.recovery_report().torn_tail {
        note(format_args!(
            "{} ended in a write that was never acknowledged as synced; its {} bytes were dropped",
            torn.file.display(),
            torn.dropped_bytes
        ));
    }
    for collection in &db.recovery_report().damaged_collections {
        note(format_args!(
            "collection {collection} takes no writes: a segment of it is damaged; see esker verify"
        ));
    }
    Ok(db)
}

/// Opens a database and a collection that must exist.
fn open_collection(at: &InCollection) -> Result<(Db, Collection), Failure> {
    open_collection_with(at, VerifyOnOpen::default())
}

fn open_collection_with(
    at: &InCollection,
    verify: VerifyOnOpen,
) -> Result<(Db, Collection), Failure> {
    let db = open_with(&at.dir, verify)?;
    if !db.collections().contains(&at.collection) {
        return Err(Failure::failed(format!(
            "{} has no collection {}; make it with: esker create {} {} --dimension N --metric M",
            at.dir.display(),
            at.collection,
            at.dir.display(),
            at.collection
        )));
    }
    let collection = db.collection(&at.collection)?;
    Ok((db, collection))
}

/// `esker create`
pub(crate) fn create(args: &Create) -> Result<(), Failure> {
    let db = Db::open(&args.at.dir, Options::default())?;
    let shape = CollectionOptions::new(args.dimension, args.metric.into()).codes(args.codes.into());
    let existed = db.collections().contains(&args.at.collection);
    db.create_collection(&args.at.collection, shape)?;
    db.close()?;
    print_line(format_args!(
        "collection {} in {}: {}",
        args.at.collection,
        args.at.dir.display(),
        if existed {
            "exists already, with these settings"
        } else {
            "created"
        }
    ))
}
