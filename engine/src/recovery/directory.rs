//! Whether a directory is a database, could become one, or is something else.
//!
//! Owns the lock and the refusals. Invariants: a directory that holds only foreign
//! files is not written to; a database whose `CURRENT` is gone is an error, never
//! an empty database. Must not know: formats.

use std::convert::Infallible;
use std::io;
use std::path::Path;

use esker_wal::mutants::planted;
use esker_wal::{Expect, HeaderState, LogKind, ReplayError, read_header, replay};

use crate::env::{Storage, StorageLock};
use crate::error::{Error, Result};
use crate::files::{CURRENT, FileName};
use crate::log_file::FileHandle;
use crate::options::Options;

/// Makes sure that `dir` is or may become a database, and locks it.
pub(super) fn claim(dir: &Path, options: &Options) -> Result<Box<dyn StorageLock>> {
    let storage = options.env.storage();
    let names = match storage.list(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(storage, dir, options)?;
            Vec::new()
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(Error::Invalid(format!(
                "{} is not a directory",
                dir.display()
            )));
        }
        Err(error) => return Err(Error::io(dir, "listing", error)),
    };
    if !names.iter().any(|name| name == CURRENT) {
        check_empty(storage, dir, &names, options)?;
        // The directory's own name, which an open that was cut off may have left
        // in the page cache alone.
        let parent = match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !planted("open.parent_sync") {
            storage
                .sync_dir(parent)
                .map_err(|error| Error::io(parent, "syncing", error))?;
        }
    }
    lock(storage, dir)
}

/// Takes the lock of a database's directory.
pub(crate) fn lock(storage: &dyn Storage, dir: &Path) -> Result<Box<dyn StorageLock>> {
    let path = FileName::Lock.path(dir);
    match storage.lock(&path) {
        Ok(lock) => Ok(lock),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::Busy(format!(
            "{} is open already, in this process or another; close it there first",
            dir.display()
        ))),
        Err(error) => Err(Error::io(&path, "locking", error)),
    }
}

fn make(storage: &dyn Storage, dir: &Path, options: &Options) -> Result<()> {
    if !options.create_if_missing {
        return Err(Error::Invalid(format!(
            "{} does not exist, and create_if_missing is off",
            dir.display()
        )));
    }
    storage
        .create_dir(dir)
        .map_err(|error| Error::io(dir, "creating", error))
}

/// A directory without `CURRENT`: empty, or left by a creation that was cut off.
fn check_empty(
    storage: &dyn Storage,
    dir: &Path,
    names: &[String],
    options: &Options,
) -> Result<()> {
    let own: Vec<_> = names
        .iter()
        .filter_map(|name| FileName::parse(name))
        .collect();
    check_never_made(storage, dir, &own)?;
    if own.is_empty() && !names.is_empty() {
        return Err(Error::Invalid(format!(
            "{} holds files but no database; choose an empty or a new directory",
            dir.display()
        )));
    }
    if !options.create_if_missing {
        return Err(Error::Invalid(format!(
            "{} holds no database, and create_if_missing is off",
            dir.display()
        )));
    }
    Ok(())
}

/// That these files are no part of a database whose `CURRENT` is gone.
pub(crate) fn check_never_made(storage: &dyn Storage, dir: &Path, own: &[FileName]) -> Result<()> {
    for &file in own {
        let proof = match file {
            FileName::Segment(_) | FileName::Deletions(_) => true,
            FileName::Log(_) => frames(storage, &file.path(dir), LogKind::Writes)? > 0,
            // Its first edit is written before `CURRENT` names it.
            FileName::Manifest(_) => frames(storage, &file.path(dir), LogKind::Manifest)? > 1,
            _ => false,
        };
        // Another opener may have finished its creation since the names were read.
        let created = || {
            storage
                .list(dir)
                .is_ok_and(|now| now.iter().any(|n| n == CURRENT))
        };
        if proof && !planted("open.current_missing") && !created() {
            let what = format!(
                "it is missing, but {} shows that there was one",
                file.name()
            );
            return Err(Error::corruption(&dir.join(CURRENT), 0, what));
        }
    }
    Ok(())
}

/// How many whole frames a log has.
fn frames(storage: &dyn Storage, path: &Path, kind: LogKind) -> Result<u64> {
    let file = storage
        .open(path)
        .map_err(|error| Error::io(path, "opening", error))?;
    let file = FileHandle(file);
    let in_wal = |error| Error::in_wal(path, error);
    let HeaderState::Valid(header) = read_header(&file, kind).map_err(in_wal)? else {
        return Ok(0);
    };
    let mut frames = 0;
    let end = replay(&file, &header, Expect::Newest, |_| {
        frames += 1;
        Ok::<_, Infallible>(())
    });
    match end {
        Ok(_) => Ok(frames),
        Err(ReplayError::Log(error)) => Err(in_wal(error)),
        Err(ReplayError::Visitor(never)) => match never {},
    }
}
