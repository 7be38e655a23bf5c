//! Checking every file of an open database.
//!
//! Owns the report. Invariant: goes on after damage, so that all of it is found.
//! Must not know: repair.

use crate::core::Core;
use crate::error::{Error, Result};
use crate::files::FileName;
use crate::manifest::{Current, Manifest, replay_manifest};
use crate::segments::read_deletions;

/// What a verification read and found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Segment files read whole.
    pub segments: usize,
    /// Deletion vectors read.
    pub deletion_vectors: usize,
    /// Bytes of all files read.
    pub bytes: u64,
    /// Every problem, in the order found; empty means that all is well.
    pub problems: Vec<Error>,
}

impl VerifyReport {
    /// Whether no problem was found.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

impl Core {
    pub(crate) fn verify(&self) -> Result<VerifyReport> {
        self.check_open()?;
        let mut report = VerifyReport::default();
        // Under the commit lock only as long as the state is copied: the pins of
        // the view keep the files of that state in place.
        let (state, view) = {
            let manifest = self.manifest.lock();
            self.verify_manifest(&mut report, &manifest);
            (manifest.state().clone(), self.published.get().0)
        };
        for (id, segment) in state.segments() {
            let live = view.collections.get(&id).and_then(|c| {
                c.version
                    .segments
                    .iter()
                    .find(|s| s.id() == segment.meta.id)
            });
            let Some(live) = live else { continue };
            report.segments += 1;
            report.bytes += segment.meta.len;
            let read = live.read();
            let verified = read.as_ref().map_err(Clone::clone).and_then(|read| {
                let verified = read.segment.verify();
                verified.map_err(|error| read.failed(error))
            });
            report.problems.extend(verified.err());
            let Some(deletions) = &segment.deletions else {
                continue;
            };
            report.deletion_vectors += 1;
            report.bytes += deletions.len;
            match read_deletions(&*self.env, &self.dir, &segment.meta, deletions) {
                Ok(stored) if live.known_deletions().is_some_and(|used| stored == **used) => {}
                Ok(_) => report.problems.push(Error::corruption(
                    &FileName::Deletions(deletions.file).path(&self.dir),
                    deletions.offset,
                    "the deletion vector differs from the one in use",
                )),
                // A flush that came meanwhile may have replaced the file.
                Err(error) if self.still_names(deletions.file) => report.problems.push(error),
                Err(_) => {}
            }
        }
        Ok(report)
    }

    fn still_names(&self, deletions: u64) -> bool {
        let manifest = self.manifest.lock();
        manifest.state().deletion_files().contains(&deletions)
    }

    fn verify_manifest(&self, report: &mut VerifyReport, manifest: &Manifest) {
        let (number, file_id, len) = (manifest.number(), manifest.file_id(), manifest.len());
        let in_doubt = manifest.is_in_doubt();
        report.bytes += len;
        let read = Current::read(self.storage(), &self.dir).and_then(|current| {
            let path = FileName::Current.path(&self.dir);
            match current {
                Some(current) if (current.manifest, current.file_id) == (number, file_id) => {
                    replay_manifest(&*self.env, &self.dir, &current)
                }
                _ => Err(Error::corruption(
                    &path,
                    0,
                    "it does not name the manifest in use",
                )),
            }
        });
        match read {
            Ok(replayed) if replayed.end.offset == len => {}
            // A failed append may have left a whole edit, which the next one supersedes.
            Ok(replayed) if in_doubt && replayed.end.offset > len => {}
            Ok(replayed) => report.problems.push(Error::corruption(
                &FileName::Manifest(number).path(&self.dir),
                replayed.end.offset,
                "the manifest does not end where it did",
            )),
            Err(error) => report.problems.push(error),
        }
    }
}
