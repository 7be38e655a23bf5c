//! `CURRENT` and the manifest of a verification.
//!
//! Owns the rule that a replay of the manifest gives the state in use. Invariant: a
//! manifest that was replaced while it was read is read again, not called damaged.
//! Must not know: what the state names.

use std::path::Path;

use esker_segment::FileId;
use esker_wal::{Expect, LogEnd};

use crate::core::Core;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::files::FileName;
use crate::manifest::{Current, Manifest, ManifestState, SegmentMeta, replay_manifest_to};
use crate::segments::open_named_file;

/// Times that a manifest may be replaced while it is read.
const ATTEMPTS: usize = 8;

/// The manifest of an open database at one moment.
#[derive(Clone)]
pub(super) struct LiveManifest {
    pub(super) number: u64,
    pub(super) file_id: FileId,
    pub(super) end: LogEnd,
    pub(super) state: ManifestState,
}

impl LiveManifest {
    pub(super) fn of(manifest: &Manifest) -> Self {
        Self {
            number: manifest.number(),
            file_id: manifest.file_id(),
            end: manifest.end(),
            state: manifest.state().clone(),
        }
    }

    /// That the disk says what memory does.
    fn check(&self, env: &dyn Env, dir: &Path) -> std::result::Result<(), Finding> {
        let path = FileName::Current.path(dir);
        let differs = |what: &str| Err(Finding::Differs(Error::corruption(&path, 0, what)));
        let current = match Current::read(env.storage(), dir).map_err(Finding::Damage)? {
            Some(current) => current,
            None => return differs("it is missing"),
        };
        if (current.manifest, current.file_id) != (self.number, self.file_id) {
            return differs("it does not name the manifest in use");
        }
        if current.sealed.is_some() {
            return differs("it says that the database was closed, but it is open");
        }
        let replayed = replay_manifest_to(env, dir, &current, Expect::Ends(self.end))
            .map_err(Finding::Damage)?;
        let path = FileName::Manifest(self.number).path(dir);
        if replayed.state != self.state {
            let what = "its edits do not add up to the state in use";
            let differs = Error::corruption(&path, self.end.offset, what);
            return Err(Finding::Differs(differs));
        }
        Ok(())
    }
}

/// What does not hold.
enum Finding {
    /// A file is not what was written.
    Damage(Error),
    /// It is, but not what the database has in memory.
    Differs(Error),
}

impl Core {
    /// Checks `CURRENT` and the manifest against the state in use, and returns what
    /// does not hold. The commit lock is held only to look at that state again.
    pub(super) fn verify_manifest(&self, mut live: LiveManifest) -> Option<Error> {
        for _ in 0..ATTEMPTS {
            let finding = live.check(&*self.env, &self.dir).err()?;
            let now = LiveManifest::of(&self.manifest.lock());
            if (now.number, now.end) == (live.number, live.end) {
                return match finding {
                    // Which state a sync that failed left behind, the next open reads.
                    Finding::Differs(_) if self.poison.is_set() => None,
                    Finding::Damage(error) | Finding::Differs(error) => Some(error),
                };
            }
            live = now;
        }
        None
    }
}

/// That the file of this name is the segment that the manifest means.
pub(super) fn has_file_id(env: &dyn Env, path: &Path, meta: &SegmentMeta) -> Result<()> {
    /// Where a segment's header has its file id.
    const FILE_ID: u64 = 40;
    let reading = |error| Error::io(path, "reading", error);
    let file = open_named_file(env, path, meta)?;
    let mut id = [0; 16];
    let read = file.read_at(FILE_ID, &mut id).map_err(reading)?;
    if read != id.len() || id != meta.file_id.0 {
        let what = "it is another file than the one in use";
        return Err(Error::corruption(path, FILE_ID, what));
    }
    Ok(())
}
