//! Where a salvage reads and where it writes.
//!
//! Owns the refusals and the lock. Invariants: nothing in the damaged directory is
//! changed, created or removed; the new database is begun in a directory that holds
//! nothing. Must not know: formats.

use std::io;
use std::path::{Component, Path, PathBuf};

use super::report::Ledger;
use crate::env::{Storage, StorageLock};
use crate::error::{Error, Result};
use crate::files::{FileName, LOCK, discard};

/// The names in the damaged directory that are this engine's own, sorted.
pub(super) fn own_files(storage: &dyn Storage, dir: &Path) -> Result<Vec<FileName>> {
    let names = match storage.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(not_a_database(dir));
        }
        other => other.map_err(|error| Error::io(dir, "listing", error))?,
    };
    let own: Vec<_> = names
        .iter()
        .filter_map(|name| FileName::parse(name))
        .collect();
    let holds_data = own
        .iter()
        .any(|file| !matches!(file, FileName::Lock | FileName::Temporary));
    if holds_data {
        Ok(own)
    } else {
        Err(not_a_database(dir))
    }
}

fn not_a_database(dir: &Path) -> Error {
    Error::Invalid(format!(
        "{} holds no file of a database: there is nothing to salvage",
        dir.display()
    ))
}

/// Takes the damaged database's lock, if that leaves the directory as it is.
pub(super) fn lock(
    storage: &dyn Storage,
    dir: &Path,
    files: &[FileName],
    ledger: &mut Ledger,
) -> Result<Option<Box<dyn StorageLock>>> {
    if !files.contains(&FileName::Lock) {
        // Whoever has it open has made the file; making it now would change the
        // directory.
        ledger.assume(format!(
            "nobody has the database open: it has no {LOCK} file"
        ));
        return Ok(None);
    }
    let path = FileName::Lock.path(dir);
    match storage.lock(&path) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::Busy(format!(
            "{} is open, in this process or another; close it there first",
            dir.display()
        ))),
        Err(error) => {
            ledger.assume(format!(
                "nobody has the database open: its lock cannot be taken ({error})"
            ));
            Ok(None)
        }
    }
}

/// Refuses a destination that is not free, or that lies where the source does.
pub(super) fn check_destination(storage: &dyn Storage, source: &Path, to: &Path) -> Result<()> {
    let (from, into) = (plain(source), plain(to));
    if from.starts_with(&into) || into.starts_with(&from) {
        return Err(Error::Invalid(format!(
            "{} and {} lie within each other; choose a directory apart for the new database",
            source.display(),
            to.display()
        )));
    }
    match storage.list(to) {
        Ok(names) if names.is_empty() => Ok(()),
        Ok(_) => Err(Error::Invalid(format!(
            "{} is not empty; choose an empty or a new directory for the new database",
            to.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(to, "listing", error)),
    }
}

/// A path without `.` and, where it can be told from the text, without `..`.
fn plain(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path);
    let mut plain = PathBuf::new();
    for part in absolute.as_deref().unwrap_or(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if plain.file_name().is_some() => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

/// Removes what a salvage wrote that did not finish, as far as that works: nobody
/// shall take it for all that could be saved.
pub(super) fn discard_all(storage: &dyn Storage, dir: &Path) {
    // `CURRENT` goes first: without it the rest is no database.
    discard(storage, &FileName::Current.path(dir));
    for name in storage.list(dir).unwrap_or_default() {
        if FileName::parse(&name).is_some() {
            discard(storage, &dir.join(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::plain;
    use std::path::Path;

    #[test]
    fn a_plain_path_has_no_detours() {
        for (path, expected) in [
            ("/a/b", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/../a", "/../a"),
            ("/a/b/../../c/", "/c"),
        ] {
            assert_eq!(plain(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
