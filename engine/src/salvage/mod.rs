//! Recovering every readable row of a damaged database into a new one.
//!
//! Owns the order of a salvage: lock; manifests; segment headers; logs; every key
//! decided; every chosen row written, oldest first; the new database verified.
//! Invariants: the damaged directory is only read; bytes that fail their checksum are
//! never used; whatever is not recovered is counted and said. The new database is
//! written as any host would write it. Must not know: formats; the crates of logs and
//! segments read past damage.
//!
//! Memory is bounded by the options' budget, but for one bit for each row, the
//! hashes of segments' blocks, and one entry for each key that the logs hold.
#![deny(clippy::indexing_slicing)]

mod chain;
mod choose;
mod emit;
mod history;
mod logs;
mod place;
mod report;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use esker_segment::{CollectionId, MAX_DIMENSION, Metric};

use crate::db::Db;
use crate::error::{Error, Result};
use crate::files::FileName;
use crate::options::{CollectionOptions, Options};
use emit::{Emitter, Output};
use history::History;
use logs::Logs;
use report::Ledger;
pub use report::{Damage, Lost, SalvageReport, SalvagedCollection};
use sources::{Collection, Opener};

/// How to salvage.
///
/// ```
/// use esker::{Options, SalvageOptions};
/// let options = SalvageOptions::new()
///     .keep_rows_without_payload(true)
///     .options(Options::new().memory_budget(512 << 20));
/// ```
#[derive(Clone, Debug)]
pub struct SalvageOptions {
    options: Options,
    keep_rows_without_payload: bool,
    recover_possibly_deleted: bool,
}

impl Default for SalvageOptions {
    fn default() -> Self {
        Self {
            options: Options::new(),
            keep_rows_without_payload: false,
            recover_possibly_deleted: true,
        }
    }
}

impl SalvageOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Settings of the new database. Its environment reads the damaged one too, and
    /// its memory budget bounds what the salvage takes. Default: the defaults.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Whether a row whose payload alone is lost is recovered without one. Default:
    /// no, it counts as lost.
    #[must_use]
    pub fn keep_rows_without_payload(mut self, yes: bool) -> Self {
        self.keep_rows_without_payload = yes;
        self
    }

    /// Whether rows are recovered that may have been deleted or overwritten, because
    /// what would say so is lost. Default: yes; they are counted.
    #[must_use]
    pub fn recover_possibly_deleted(mut self, yes: bool) -> Self {
        self.recover_possibly_deleted = yes;
        self
    }
}

/// Recovers every readable row of the damaged database in `source` into a new one in
/// `destination`, which must not exist or be empty. `source` is only read; its lock
/// is taken if it has one. When this returns, the new database is durable, closed and
/// was verified.
///
/// For each key the newest write that is left wins. A row that is known to be deleted
/// or overwritten does not come back, even where what replaced it is lost.
///
/// # Errors
/// `Busy` when the damaged database is open; `Invalid` for a destination that is not
/// free, and for a source without a database's files; `Incompatible` for files of a
/// newer release; `Io` and whatever else keeps the new database from being written.
/// Then what was written of it is removed, as far as that works. Damage is no error.
pub fn salvage(
    source: impl AsRef<Path>,
    destination: impl AsRef<Path>,
    options: &SalvageOptions,
) -> Result<SalvageReport> {
    let (source, destination) = (source.as_ref(), destination.as_ref());
    options.options.validate()?;
    let env = Arc::clone(&options.options.env);
    let storage = env.storage();
    let files = place::own_files(storage, source)?;
    place::check_destination(storage, source, destination)?;
    let mut ledger = Ledger::default();
    let _lock = place::lock(storage, source, &files, &mut ledger)?;
    let mut history = history::read(&*env, source, &files, &mut ledger)?;
    let cache = options.options.memory_budget / 4;
    let opener = Opener::new(&*env, source, cache, &files)?;
    doubt_manifest(&mut history, &opener, &files, &mut ledger);
    let logs = logs::read(&*env, source, &files, &history, &mut ledger)?;
    let mut collections = opener.named(&history, |id| logs.keys(id), &mut ledger)?;
    if !history.whole {
        opener.unnamed(&history, &mut collections, &mut ledger)?;
        add_nameless(&logs, &mut collections, &mut ledger);
        make_names_unique(&mut collections);
    }
    let db = Db::open(destination, options.options.clone().create_if_missing(true))?;
    let written = write(&db, collections, &logs, history.whole, options, ledger);
    let report = written.and_then(|report| {
        finish(&db)?;
        Ok(report)
    });
    if report.is_err() {
        let _ = db.close();
        drop(db);
        place::discard_all(storage, destination);
    }
    report
}

/// A manifest that was cut off between two edits looks whole, but for files that later
/// edits gave up.
fn doubt_manifest(
    history: &mut History,
    opener: &Opener<'_>,
    files: &[FileName],
    ledger: &mut Ledger,
) {
    if !history.whole || history.sealed {
        return;
    }
    let first_log = FileName::Log(history.state.first_log);
    if !files.contains(&first_log) || opener.misses_files(history, files) {
        history.whole = false;
        ledger.assume(
            "the manifest may lack its last edits, because files that it names are missing: \
             segments that it does not name count, too",
        );
    }
}

/// Collections of which nothing is left but writes in the logs.
fn add_nameless(
    logs: &Logs,
    collections: &mut BTreeMap<CollectionId, Collection>,
    ledger: &mut Ledger,
) {
    for (&id, ops) in &logs.collections {
        if collections.contains_key(&id) {
            continue;
        }
        // Deletes alone put nothing.
        let dimension = ops.dimension.filter(|d| (1..=MAX_DIMENSION).contains(d));
        let Some(dimension) = dimension else {
            continue;
        };
        ledger.assume(format!(
            "collection {id} compares by squared Euclidean distance: nothing is left that says \
             how it did"
        ));
        collections.insert(id, Collection::nameless(id, dimension, Metric::L2));
    }
}

/// A name made of an id may be that of another collection.
fn make_names_unique(collections: &mut BTreeMap<CollectionId, Collection>) {
    let mut taken = BTreeSet::new();
    for collection in collections.values_mut() {
        let name = collection.meta.name.clone();
        let mut n = 1;
        while !taken.insert(collection.meta.name.clone()) {
            n += 1;
            collection.meta.name = format!("{name}-{n}");
        }
    }
}

/// Makes the collections, decides every key, and writes what was chosen.
fn write(
    db: &Db,
    collections: BTreeMap<CollectionId, Collection>,
    logs: &Logs,
    whole: bool,
    options: &SalvageOptions,
    mut ledger: Ledger,
) -> Result<SalvageReport> {
    let mut outputs = Vec::with_capacity(collections.len());
    for from in collections.into_values() {
        let meta = &from.meta;
        let settings = CollectionOptions::new(meta.dimension, meta.metric).codes(meta.codes);
        let to = db.create_collection(&meta.name, settings)?;
        let mut lost = from.lost;
        let chosen = choose::choose(&from, logs, whole, &mut ledger, &mut lost);
        outputs.push(Output {
            from,
            chosen,
            to,
            recovered: 0,
            doubtful: 0,
            without_payload: 0,
            lost,
            met: 0,
        });
    }
    let mut emitter = Emitter::new(db, logs, options, &mut ledger, outputs);
    emitter.run()?;
    let salvaged = emitter
        .outputs
        .into_iter()
        .map(|output| SalvagedCollection {
            name: output.from.meta.name,
            id: output.from.meta.id,
            dimension: output.from.meta.dimension,
            metric: output.from.meta.metric,
            recovered: output.recovered,
            lost: output.lost,
            doubtful: output.doubtful,
            without_payload: output.without_payload,
        });
    let salvaged = salvaged.collect();
    Ok(ledger.finish(salvaged))
}

/// Makes the new database durable, checks it, and closes it.
fn finish(db: &Db) -> Result<()> {
    db.flush()?;
    let checked = db.verify()?;
    if let Some(problem) = checked.problems.into_iter().next() {
        return Err(Error::io(
            db.path(),
            "verifying",
            std::io::Error::other(problem),
        ));
    }
    db.close()
}
