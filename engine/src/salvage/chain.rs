//! Which log files count.
//!
//! Owns the choice of a chain out of what a damaged directory holds. Invariants: a log
//! is known by the number in its header, not by its name; what lies behind the end
//! that a successor or a clean close states was never acknowledged and does not count;
//! nor does another chain's log, where the manifest says which chain is the right one.
//! Must not know: frames.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use esker_wal::{HeaderState, LogHeader, LogKind, WalError, read_header};

use super::history::History;
use super::report::Ledger;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::files::FileName;
use crate::log_file::FileHandle;
use crate::write::log::Session;

/// A log file that may count.
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    pub(super) file: FileHandle,
    header: Option<LogHeader>,
    /// Where it ends, if something says so.
    pub(super) end: Option<u64>,
}

/// The logs that count, and the numbers of those that something says were used.
pub(super) fn find(
    env: &dyn Env,
    dir: &Path,
    files: &[FileName],
    history: &History,
    ledger: &mut Ledger,
) -> Result<(BTreeMap<u64, Candidate>, BTreeSet<u64>)> {
    let mut candidates = open_all(env, dir, files, history, ledger)?;
    choose_session(&mut candidates, history, ledger);
    state_ends(&mut candidates, history);
    let needed = needed(&candidates, history);
    Ok((candidates, needed))
}

/// The files that may count, by their number.
fn open_all(
    env: &dyn Env,
    dir: &Path,
    files: &[FileName],
    history: &History,
    ledger: &mut Ledger,
) -> Result<BTreeMap<u64, Candidate>> {
    let mut found: BTreeMap<u64, Candidate> = BTreeMap::new();
    let mut misnamed = Vec::new();
    for name in files {
        let FileName::Log(named) = *name else {
            continue;
        };
        let path = name.path(dir);
        let file = match env.storage().open(&path) {
            Ok(file) => FileHandle(file),
            Err(error) => {
                ledger.note_error(&path, &Error::io(&path, "opening", error));
                continue;
            }
        };
        let header = match read_header(&file, LogKind::Writes) {
            Ok(HeaderState::Valid(header)) => Some(header),
            Ok(HeaderState::NeverUsed) | Err(WalError::Corruption { .. } | WalError::Io { .. }) => {
                None
            }
            Err(error @ WalError::Incompatible { .. }) => return Err(Error::in_wal(&path, error)),
        };
        let candidate = Candidate {
            path,
            file,
            header,
            end: None,
        };
        match candidate.header.as_ref().map(|header| header.number.0) {
            Some(number) if number != named => misnamed.push((number, candidate)),
            _ => {
                found.insert(named, candidate);
            }
        }
    }
    // A file under another's name still says which log it is.
    for (number, candidate) in misnamed {
        ledger.note(&candidate.path, 40, "the log has another file's number");
        found.entry(number).or_insert(candidate);
    }
    let seal = history.state.seal;
    found.retain(|number, _| {
        *number >= history.state.first_log && seal.is_none_or(|seal| *number <= seal.log)
    });
    Ok(found)
}

/// Leaves out logs of another session than the chain's: debris of opens that were
/// cut off, which holds copies, or another database's files.
fn choose_session(
    candidates: &mut BTreeMap<u64, Candidate>,
    history: &History,
    ledger: &mut Ledger,
) {
    if !history.found {
        return;
    }
    let first = history.state.first_log;
    let headers = || candidates.values().filter_map(|c| c.header.as_ref());
    // Whoever goes on from the first log knows better than a file of that name.
    let follower = headers().find(|h| h.predecessor.is_some_and(|(p, _)| p.0 == first));
    let stated = headers().find(|h| h.number.0 == first);
    let Some(session) = follower.or(stated).map(Session::of) else {
        return;
    };
    candidates.retain(|_, candidate| {
        let Some(header) = &candidate.header else {
            return true;
        };
        let own = Session::of(header) == session;
        if !own {
            ledger.assume(format!(
                "{} does not count: it belongs to another chain of logs",
                candidate.path.display()
            ));
        }
        own
    });
}

/// Takes down where each log ends, as its successor or a clean close says.
fn state_ends(candidates: &mut BTreeMap<u64, Candidate>, history: &History) {
    let mut ends = BTreeMap::new();
    for header in candidates.values().filter_map(|c| c.header.as_ref()) {
        if let Some((before, end)) = header.predecessor {
            // Of two, the later took the place of one that was abandoned.
            ends.insert(before.0, end.offset);
        }
    }
    if let Some(seal) = history.state.seal {
        ends.insert(seal.log, seal.end);
    }
    for (number, candidate) in candidates {
        candidate.end = ends.get(number).copied();
    }
}

/// Numbers of the logs that something says were used.
fn needed(candidates: &BTreeMap<u64, Candidate>, history: &History) -> BTreeSet<u64> {
    let headers = candidates.values().filter_map(|c| c.header.as_ref());
    let mut needed: BTreeSet<u64> = headers
        .filter_map(|header| Some(header.predecessor?.0.0))
        .filter(|number| history.found && *number >= history.state.first_log)
        .collect();
    if history.found {
        needed.insert(history.state.first_log);
        needed.extend(history.state.seal.map(|seal| seal.log));
    }
    needed
}
