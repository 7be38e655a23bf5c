//! Whether a directory that was found somewhere is one that a power cut could leave.
//!
//! Owns the question that turns the machine round: instead of drawing an image, it
//! takes one, from a real kernel for example, and looks for choices that lead to
//! it. Invariants: whatever [`SimEnv::crash_image`] draws is admitted; a synced byte,
//! a durable name and a byte that nothing wrote are never up to chance. Must not
//! know: where the observation comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::dir::{DirNode, NameChange};
use super::disk::{Disk, Ino};
use super::env::SimEnv;
use super::file::{FileNode, SECTOR};

/// The files of one directory, by name; `None` if there is no such directory.
pub type Observed = Option<BTreeMap<String, Vec<u8>>>;

/// Sectors with unsynced writes, by what was found in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survivors {
    /// What was synced last, or nothing.
    pub old: u64,
    /// What was written last.
    pub new: u64,
    /// An earlier unsynced write.
    pub between: u64,
    /// Zeroes where unsynced writes touched it.
    pub zero: u64,
    /// Anything else in the bytes that unsynced writes touched.
    pub other: u64,
}

impl Survivors {
    /// Adds another directory's.
    pub fn add(&mut self, other: &Self) {
        self.old += other.old;
        self.new += other.new;
        self.between += other.between;
        self.zero += other.zero;
        self.other += other.other;
    }
}

/// Outcomes of one group of names that are looked at before giving up: a group
/// has a handful of unsynced changes.
const MAX_OUTCOMES: usize = 100_000;

/// Names of a group, and the inodes that they stand for.
type Outcome<'a> = BTreeMap<&'a str, Ino>;

impl SimEnv {
    /// Whether a power cut now could leave `dir` as it was observed; if so, what
    /// was left of what was not synced.
    ///
    /// # Errors
    /// The first name or file for which no choice leads to what was observed.
    pub fn admits(&self, dir: impl AsRef<Path>, observed: &Observed) -> Result<Survivors, String> {
        let dir = dir.as_ref();
        let world = self.world();
        let disk = &world.disk;
        let inodes = candidates(disk, dir)?;
        let Some(files) = observed else {
            return if inodes.contains(&None) {
                Ok(Survivors::default())
            } else {
                Err(format!("{} is gone, but it is durable", dir.display()))
            };
        };
        let mut reason = format!("{} was never made", dir.display());
        for ino in inodes.into_iter().flatten() {
            let node = disk.dir(ino).map_err(|error| error.to_string())?;
            match directory(disk, node, files) {
                Ok(survivors) => return Ok(survivors),
                Err(error) => reason = error,
            }
        }
        Err(reason)
    }
}

/// What a path may stand for after a power cut; its parent is the root.
fn candidates(disk: &Disk, path: &Path) -> Result<BTreeSet<Option<Ino>>, String> {
    let parent = path.parent().ok_or("the root is not a name")?;
    let name = path.file_name().ok_or("a path without a name")?;
    let name = name.to_string_lossy();
    if parent.parent().is_some() {
        return Err("only directories of the root are looked for".to_owned());
    }
    let root = disk.lookup(parent).map_err(|error| error.to_string())?;
    let root = disk.dir(root).map_err(|error| error.to_string())?;
    let group = BTreeSet::from([&*name]);
    Ok(outcomes(root, &group)?
        .iter()
        .map(|outcome| outcome.get(&*name).copied())
        .collect())
}

fn directory(
    disk: &Disk,
    dir: &DirNode,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<Survivors, String> {
    let groups = groups(dir);
    let known: BTreeSet<&str> = groups.iter().flatten().copied().collect();
    if let Some(stranger) = files.keys().find(|name| !known.contains(name.as_str())) {
        return Err(format!("{stranger} is there, but never was"));
    }
    let mut survivors = Survivors::default();
    for group in &groups {
        let outcomes = outcomes(dir, group)?;
        let found: BTreeSet<&str> = group
            .iter()
            .copied()
            .filter(|name| files.contains_key(*name))
            .collect();
        let mut reason = format!(
            "of {group:?} only {found:?} are there; legal are {:?}",
            outcomes
                .iter()
                .map(|outcome| outcome.keys().collect::<Vec<_>>())
                .collect::<BTreeSet<_>>()
        );
        let mut legal = None;
        for outcome in &outcomes {
            if !outcome.keys().eq(found.iter()) {
                continue;
            }
            match contents(disk, outcome, files) {
                Ok(seen) => {
                    legal = Some(seen);
                    break;
                }
                Err(error) => reason = error,
            }
        }
        survivors.add(&legal.ok_or(reason)?);
    }
    Ok(survivors)
}

fn contents(
    disk: &Disk,
    outcome: &Outcome<'_>,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<Survivors, String> {
    let mut survivors = Survivors::default();
    for (name, ino) in outcome {
        let file = disk
            .file(*ino)
            .map_err(|error| format!("{name}: {error}"))?;
        let seen = content(file, &files[*name]).map_err(|error| format!("{name}: {error}"))?;
        survivors.add(&seen);
    }
    Ok(survivors)
}

/// Names that one change speaks of belong together; changes of different groups
/// survive whatever happens to the others.
fn groups(dir: &DirNode) -> Vec<BTreeSet<&str>> {
    let mut groups: Vec<BTreeSet<&str>> = dir
        .base()
        .keys()
        .map(|name| BTreeSet::from([name.as_str()]))
        .collect();
    for (change, _) in dir.changes() {
        let mut joined: BTreeSet<&str> = names(change).into_iter().flatten().collect();
        groups.retain(|group| {
            let apart = group.is_disjoint(&joined);
            if !apart {
                joined.extend(group);
            }
            apart
        });
        groups.push(joined);
    }
    groups
}

fn names(change: &NameChange) -> [Option<&str>; 2] {
    match change {
        NameChange::Set(name, _) | NameChange::Remove(name) => [Some(name), None],
        NameChange::Rename { from, to, .. } => [Some(from), Some(to)],
    }
}

/// Every way in which a group of names may come out of a power cut.
fn outcomes<'a>(dir: &'a DirNode, group: &BTreeSet<&str>) -> Result<BTreeSet<Outcome<'a>>, String> {
    let base = dir
        .base()
        .iter()
        .filter(|(name, _)| group.contains(&***name));
    let base: Outcome<'_> = base.map(|(name, ino)| (name.as_str(), *ino)).collect();
    let mut outcomes = BTreeSet::from([base]);
    for (change, settled) in dir.changes() {
        if !names(change)
            .into_iter()
            .flatten()
            .any(|n| group.contains(n))
        {
            continue;
        }
        let mut next = BTreeSet::new();
        for outcome in outcomes {
            if !settled {
                next.insert(outcome.clone());
                if let NameChange::Rename { to, ino, .. } = change {
                    // The new name may be written before the old one goes.
                    let mut both = outcome.clone();
                    both.insert(to, *ino);
                    next.insert(both);
                }
            }
            next.insert(changed(outcome, change));
        }
        if next.len() > MAX_OUTCOMES {
            return Err(format!("too many unsynced changes of {group:?}"));
        }
        outcomes = next;
    }
    Ok(outcomes)
}

fn changed<'a>(mut names: Outcome<'a>, change: &'a NameChange) -> Outcome<'a> {
    match change {
        NameChange::Set(name, ino) => {
            names.insert(name, *ino);
        }
        NameChange::Remove(name) => {
            names.remove(name.as_str());
        }
        NameChange::Rename { from, to, ino } => {
            names.remove(from.as_str());
            names.insert(to, *ino);
        }
    }
    names
}

/// Whether a power cut could leave a file with these bytes.
fn content(file: &FileNode, found: &[u8]) -> Result<Survivors, String> {
    let durable = file.durable_bytes();
    if !(durable.len()..=file.len().max(durable.len())).contains(&found.len()) {
        return Err(format!(
            "{} bytes, but {} are synced and {} were written",
            found.len(),
            durable.len(),
            file.len()
        ));
    }
    // A sector beyond the end is as it was before: not there.
    let mut survivors = Survivors {
        old: file.pending_from(found.len().div_ceil(SECTOR) as u64),
        ..Survivors::default()
    };
    for (number, chunk) in found.chunks(SECTOR).enumerate() {
        let touched = file.touched(number as u64);
        let old = |i: usize| durable.get(number * SECTOR + i).copied().unwrap_or(0);
        let free = |i: usize| touched.is_some_and(|bits| bits[i / 64] >> (i % 64) & 1 == 1);
        let wrong = (0..chunk.len()).find(|&i| !free(i) && chunk[i] != old(i));
        if let Some(i) = wrong {
            let at = number * SECTOR + i;
            let what = if at < durable.len() {
                "is synced and was not written since"
            } else {
                "was never written"
            };
            return Err(format!(
                "byte {at} of {} {what}: {:#04x}, not {:#04x}",
                found.len(),
                chunk[i],
                old(i)
            ));
        }
        if touched.is_none() {
            continue;
        }
        let mut versions: Vec<_> = file.versions(number as u64).collect();
        let newest = versions.pop();
        let is = |version: &[u8; SECTOR]| *chunk == version[..chunk.len()];
        let count = if (0..chunk.len()).all(|i| chunk[i] == old(i)) {
            // Also a sector of which the file's end left nothing else.
            &mut survivors.old
        } else if newest.is_some_and(is) {
            &mut survivors.new
        } else if versions.into_iter().any(is) {
            &mut survivors.between
        } else if (0..chunk.len()).all(|i| !free(i) || chunk[i] == 0) {
            &mut survivors.zero
        } else {
            &mut survivors.other
        };
        *count += 1;
    }
    Ok(survivors)
}

#[cfg(test)]
#[path = "admits_tests.rs"]
mod tests;
