//! Segments of a verification: each whole, and against the manifest.
//!
//! Invariant: what is found in a segment that is in use goes through
//! [`damage_in_use`]. Must not know: other segments.

use std::path::Path;
use std::sync::Arc;

use esker_segment::{Expected, Segment, SegmentCheck, SegmentError, Source, UnopenedSegment};

use super::pace::Going;
use super::{Verifier, manifest};
use crate::env::Env;
use crate::error::Error;
use crate::files::FileName;
use crate::manifest::{CollectionMeta, SegmentMeta, SegmentState};
use crate::options::VerifyOnOpen;
use crate::segment_file::SegmentFile;
use crate::segments::{RowsOf, SegmentOpener};

/// The one place where damage that was found in a segment of the open database takes
/// it out of use. Returns what was found, though others may have met worse before.
pub(super) fn damage_in_use(file: &SegmentFile, found: SegmentError) -> Error {
    let found = Error::in_segment(file.pin.path(), found);
    let _ = file.quarantine(found.clone());
    found
}

/// The file of a segment in use, opened anew: what is checked is what the disk gives,
/// and a disk that does not is an error. The inner error is what keeps it from being
/// opened, and what the segment should be if that is known; it takes the segment out of
/// use if it is damage.
pub(super) fn reopen(
    env: &dyn Env,
    opener: &SegmentOpener,
    file: &SegmentFile,
) -> Result<Segment<Source>, (Error, Option<Expected>)> {
    let opened = file.for_check().map_err(|error| (error, None))?;
    let (path, expected) = (file.pin.path(), opened.segment.expected());
    // What is in use may be sound although its name is gone or another file's.
    manifest::has_file_id(env, path, &file.meta).map_err(|error| (error, None))?;
    let segment = opener.source(path).and_then(|source| {
        let segment = Segment::open(source, expected);
        segment.map_err(|error| Error::in_segment(path, error))
    });
    segment.map_err(|error| {
        let _ = file.quarantine(error.clone());
        (error, Some(*expected))
    })
}

impl Verifier<'_> {
    /// Checks a segment of the open database, which may be out of use or not opened
    /// yet; whether its keys are sound.
    pub(super) fn live_segment(
        &mut self,
        opener: &SegmentOpener,
        file: &SegmentFile,
    ) -> Going<bool> {
        let (failed, expected) = match reopen(self.env, opener, file) {
            Ok(segment) => return self.segment(file, &segment),
            Err(failed) => failed,
        };
        self.begin_file(file.meta.len, file.meta.len);
        self.report.segments += 1;
        let before = self.of_file;
        if let Some(expected) = expected {
            let in_use = |finding| damage_in_use(file, finding);
            self.unopened_segment(opener, file.pin.path(), &expected, &in_use)?;
        }
        // What was found explains it, else it explains itself.
        if self.of_file == before {
            self.problem(failed);
        }
        self.end_file();
        Ok(false)
    }

    fn segment(&mut self, file: &SegmentFile, segment: &Segment<Source>) -> Going<bool> {
        let meta = &file.meta;
        self.begin_file(meta.len, segment.check_bytes());
        self.report.segments += 1;
        self.report.rows += u64::from(meta.rows);
        let mut check = SegmentCheck::new();
        let mut found = Vec::new();
        while let Some(read) = check.step(segment, &mut |finding| found.push(finding)) {
            for finding in found.drain(..) {
                self.problem(damage_in_use(file, finding));
            }
            self.run.read(read)?;
        }
        if let Err(finding) = fits_manifest(segment, meta) {
            self.problem(damage_in_use(file, finding));
        }
        self.end_file();
        Ok(check.has_sound_keys())
    }

    /// Checks a segment that is on the disk; the open file if it can be opened, and
    /// whether its keys are sound.
    pub(super) fn closed_segment(
        &mut self,
        opener: &Arc<SegmentOpener>,
        collection: &CollectionMeta,
        meta: SegmentMeta,
    ) -> Going<Option<(SegmentFile, bool)>> {
        let state = SegmentState {
            meta,
            deletions: None,
        };
        let failed = match opener.open_named(collection, &state, VerifyOnOpen::Metadata) {
            Ok(file) => {
                let sound = match file.opened() {
                    Some(opened) => self.segment(&file, &opened.segment)?,
                    None => false,
                };
                return Ok(Some((file, sound)));
            }
            Err(error) => error,
        };
        self.begin_file(meta.len, meta.len);
        self.report.segments += 1;
        let before = self.of_file;
        let path = FileName::Segment(meta.id.0).path(self.dir);
        let found = |finding| Error::in_segment(&path, finding);
        self.unopened_segment(
            opener,
            &path,
            &RowsOf::new(collection).expected(&meta),
            &found,
        )?;
        // What was found explains it, else it explains itself.
        if self.of_file == before {
            self.problem(failed);
        }
        self.end_file();
        Ok(None)
    }

    fn unopened_segment(
        &mut self,
        opener: &SegmentOpener,
        path: &Path,
        expected: &Expected,
        problem: &dyn Fn(SegmentError) -> Error,
    ) -> Going {
        let Ok(source) = opener.source(path) else {
            return Ok(());
        };
        let mut found = Vec::new();
        let file = UnopenedSegment::new(source, expected, &mut |finding| found.push(finding));
        let mut check = SegmentCheck::new();
        loop {
            for finding in found.drain(..) {
                self.problem(problem(finding));
            }
            let Some(file) = &file else {
                return Ok(());
            };
            let step = check.step_unopened(file, &mut |finding| found.push(finding));
            match step {
                Some(read) => self.run.read(read)?,
                None => return Ok(()),
            }
        }
    }
}

/// The manifest's copy of what the segment's own statistics say.
pub(super) fn fits_manifest(
    segment: &Segment<Source>,
    meta: &SegmentMeta,
) -> Result<(), SegmentError> {
    let stats = segment.stats();
    if (stats.min_seqno, stats.max_seqno) == (meta.min_seqno, meta.max_seqno) {
        return Ok(());
    }
    Err(SegmentError::Corruption {
        offset: segment.stats_offset(),
        what: "its range of SeqNos is not the one that the manifest has".into(),
    })
}
