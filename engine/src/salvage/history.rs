//! What the manifests still say.
//!
//! Owns the choice of a manifest and the reading of its edits past damage.
//! Invariants: a manifest counts only if its first edit, which holds the whole
//! state, is whole; what a damaged part may have said is not guessed, but said to
//! be missing. Must not know: what the named files hold.

use std::collections::BTreeSet;
use std::path::Path;

use esker_segment::{CollectionId, SegmentId};
use esker_wal::{Found, LogKind, ReplayError, Surveyed, survey};

use super::report::{Ledger, Lost};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::files::FileName;
use crate::log_file::FileHandle;
use crate::manifest::{Current, EDIT_FRAME, Edit, Field, ManifestState};

/// What is known of the database as a whole.
#[derive(Default)]
pub(super) struct History {
    pub(super) state: ManifestState,
    /// Whether a manifest was found at all.
    pub(super) found: bool,
    /// Every edit is there, as far as the manifest itself can tell. What it does not
    /// name is then no part of the database.
    pub(super) whole: bool,
    /// A clean close proves that there is no edit more.
    pub(super) sealed: bool,
    /// Segments that an edit removed, and collections that one dropped.
    pub(super) removed: BTreeSet<SegmentId>,
    dropped: BTreeSet<CollectionId>,
    /// Collections of lower ids are in the state, or were dropped: no lost edit made
    /// them.
    pub(super) settled: u32,
}

/// Reads the best manifest that there is.
pub(super) fn read(
    env: &dyn Env,
    dir: &Path,
    files: &[FileName],
    ledger: &mut Ledger,
) -> Result<History> {
    let path = FileName::Current.path(dir);
    let current = match Current::read(env.storage(), dir) {
        Ok(Some(current)) => Some(current),
        Ok(None) => {
            ledger.note(&path, 0, "it is missing");
            None
        }
        Err(error @ Error::Incompatible { .. }) => return Err(error),
        Err(error) => {
            ledger.note_error(&path, &error);
            None
        }
    };
    let mut numbers: Vec<u64> = files
        .iter()
        .filter_map(|file| match file {
            FileName::Manifest(number) => Some(*number),
            _ => None,
        })
        .collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    if let Some(current) = &current {
        numbers.retain(|number| *number != current.manifest);
        numbers.insert(0, current.manifest);
    }
    for number in numbers {
        let named = current.as_ref().filter(|c| c.manifest == number);
        let mut history = History::default();
        if read_one(env, dir, number, named, &mut history, ledger)? {
            history.found = true;
            let name = FileName::Manifest(number).name();
            match (&current, named) {
                (_, Some(_)) => {}
                (Some(_), None) => {
                    history.whole = false;
                    ledger.assume(format!(
                        "{name} tells enough of the database: the manifest that CURRENT names \
                         cannot be read"
                    ));
                }
                (None, None) => ledger.assume(format!(
                    "{name} is the live manifest: it is the newest that can be read, and CURRENT \
                     cannot"
                )),
            }
            return Ok(history);
        }
    }
    ledger.assume(
        "no manifest can be read: names of collections are made of their ids, every segment and \
         log file in the directory counts, and what was deleted or dropped may come back",
    );
    // Nothing says which files are missing.
    ledger.add_lost_writes(Lost::UNKNOWN);
    let entry = ledger.note(
        &path,
        0,
        "no manifest can be read, so nothing says which files are missing",
    );
    ledger.add_lost(entry, Lost::UNKNOWN);
    Ok(History::default())
}

/// Reads one manifest; false if it is of no use.
fn read_one(
    env: &dyn Env,
    dir: &Path,
    number: u64,
    named: Option<&Current>,
    history: &mut History,
    ledger: &mut Ledger,
) -> Result<bool> {
    let path = FileName::Manifest(number).path(dir);
    let file = match env.storage().open(&path) {
        Ok(file) => FileHandle(file),
        Err(error) => {
            ledger.note_error(&path, &Error::io(&path, "opening", error));
            return Ok(false);
        }
    };
    let sealed = named.and_then(|current| current.sealed);
    let (mut first, mut whole) = (None, true);
    let surveyed = survey(
        &file,
        LogKind::Manifest,
        sealed.map(|end| end.offset),
        |found| {
            match found {
                Found::Frame(frame) => {
                    let edit = match frame.kind {
                        EDIT_FRAME => Edit::decode(frame.payload),
                        kind => Err(format!("a frame of kind {kind}")),
                    };
                    // The first edit is right behind the header, or it is lost.
                    first.get_or_insert(whole && edit.is_ok());
                    let applied = edit.and_then(|edit| history.apply(&edit));
                    if let Err(what) = applied {
                        ledger.note(&path, frame.offset, &what);
                        whole = false;
                    }
                }
                Found::Hole(hole) => {
                    let what = format!("edits are missing: {}", hole.what);
                    let entry = ledger.note(&path, hole.offset, &what);
                    if let Some(damage) = ledger.get(entry) {
                        damage.len = hole.len;
                    }
                    // What they named may be gone, too, without a trace.
                    ledger.add_lost(entry, Lost::UNKNOWN);
                    ledger.add_lost_writes(Lost::UNKNOWN);
                    whole = false;
                }
            }
            Ok::<_, Error>(())
        },
    );
    let surveyed = match surveyed {
        Ok(surveyed) => surveyed,
        Err(ReplayError::Visitor(error)) => return Err(error),
        Err(ReplayError::Log(error)) => match Error::in_wal(&path, error) {
            error @ Error::Incompatible { .. } => return Err(error),
            error => {
                ledger.note_error(&path, &error);
                return Ok(false);
            }
        },
    };
    if first != Some(true) {
        ledger.note(&path, 128, "the edit that holds the whole state is lost");
        return Ok(false);
    }
    whole &= is_itself(&path, &surveyed, named, &history.state, ledger);
    let proven = sealed.is_some_and(|end| surveyed.header.is_none() || end == surveyed.end);
    history.whole = whole && (sealed.is_none() || proven);
    history.sealed = history.whole && proven;
    Ok(true)
}

/// Whether the manifest's header and its counters are as they should be.
fn is_itself(
    path: &Path,
    surveyed: &Surveyed,
    named: Option<&Current>,
    state: &ManifestState,
    ledger: &mut Ledger,
) -> bool {
    let mut itself = true;
    match &surveyed.header {
        None => {
            ledger.note(path, 0, "the file header is damaged");
        }
        Some(header) if named.is_some_and(|current| current.file_id.0 != header.file_id) => {
            let what = "this is another manifest than the one that CURRENT names";
            ledger.note(path, 48, what);
            itself = false;
        }
        Some(_) => {}
    }
    if let Err(what) = state.check_counters() {
        ledger.note(path, 0, &what);
        itself = false;
    }
    itself
}

impl History {
    /// Whether a collection that the state lacks is known to have been dropped.
    pub(super) fn was_dropped(&self, id: CollectionId) -> bool {
        let known = self.whole || id.0 < self.settled || self.dropped.contains(&id);
        known && !self.state.collections.contains_key(&id)
    }

    /// Applies what of an edit fits. An edit behind a damaged one may speak of what
    /// that one made.
    fn apply(&mut self, edit: &Edit) -> std::result::Result<(), String> {
        let mut outcome = Ok(());
        for field in &edit.0 {
            match field {
                Field::RemoveSegment(_, segment) => {
                    self.removed.insert(*segment);
                }
                Field::DropCollection(id) => {
                    if let Some(gone) = self.state.collections.get(id) {
                        self.removed.extend(gone.segments.keys());
                    }
                    self.dropped.insert(*id);
                }
                _ => {}
            }
            let applied = self.state.apply(&Edit(vec![field.clone()]));
            outcome = outcome.and(applied);
        }
        // Alone, each field takes back the seal of the one before.
        self.state.seal = edit.0.iter().find_map(|field| match field {
            Field::Seal(seal) => Some(*seal),
            _ => None,
        });
        outcome
    }
}
