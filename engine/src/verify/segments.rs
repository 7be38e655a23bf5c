//! Segments of a verification: each whole, and against the manifest.
//!
//! Invariant: what is found in a segment that is in use goes through
//! [`damage_in_use`]. Must not know: other segments.

use esker_segment::{Expected, SegmentCheck, SegmentError, UnopenedSegment};

use super::pace::Going;
use super::{Verifier, manifest};
use crate::error::Error;
use crate::files::FileName;
use crate::manifest::{CollectionMeta, SegmentMeta};
use crate::segments::SegmentOpener;
use crate::view::SegmentFile;

/// What a reader of the segment has to be told: the one place where damage that was
/// found in a segment of the open database becomes an error.
pub(super) fn damage_in_use(file: &SegmentFile, found: SegmentError) -> Error {
    Error::in_segment(file.pin.path(), found)
}

impl Verifier<'_> {
    /// Checks an open segment; whether its keys are sound.
    pub(super) fn segment(&mut self, file: &SegmentFile) -> Going<bool> {
        let meta = &file.meta;
        self.begin_file(meta.len, file.segment.check_bytes());
        self.report.segments += 1;
        self.report.rows += u64::from(meta.rows);
        let mut check = SegmentCheck::new();
        let mut found = Vec::new();
        while let Some(read) = check.step(&file.segment, &mut |finding| found.push(finding)) {
            for finding in found.drain(..) {
                self.problem(damage_in_use(file, finding));
            }
            self.run.read(read)?;
        }
        if let Err(finding) = fits_manifest(file) {
            self.problem(damage_in_use(file, finding));
        }
        self.end_file();
        Ok(check.has_sound_keys())
    }

    /// Checks a segment that is on the disk; the open file if it can be opened, and
    /// whether its keys are sound.
    pub(super) fn closed_segment(
        &mut self,
        opener: &SegmentOpener,
        collection: &CollectionMeta,
        meta: SegmentMeta,
    ) -> Going<Option<(SegmentFile, bool)>> {
        let failed = match opener.open_named(collection, meta) {
            Ok(file) => {
                let sound = self.segment(&file)?;
                return Ok(Some((file, sound)));
            }
            Err(error) => error,
        };
        self.begin_file(meta.len, meta.len);
        self.report.segments += 1;
        let before = self.of_file;
        self.unopened_segment(opener, collection, &meta)?;
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
        collection: &CollectionMeta,
        meta: &SegmentMeta,
    ) -> Going {
        let path = FileName::Segment(meta.id.0).path(self.dir);
        let Ok(source) = opener.source(&path) else {
            return Ok(());
        };
        let expected = expected(collection, meta);
        let mut found = Vec::new();
        let file = UnopenedSegment::new(source, &expected, &mut |finding| found.push(finding));
        let mut check = SegmentCheck::new();
        loop {
            for finding in found.drain(..) {
                self.problem(Error::in_segment(&path, finding));
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

    /// That the file of an open segment still has its name.
    pub(super) fn segment_name(&mut self, file: &SegmentFile) {
        let path = file.pin.path();
        if let Err(error) = manifest::has_file_id(self.env, path, &file.meta) {
            self.problem(error);
        }
    }
}

/// The manifest's copy of what the segment's own statistics say.
pub(super) fn fits_manifest(file: &SegmentFile) -> Result<(), SegmentError> {
    let (stats, meta) = (file.segment.stats(), &file.meta);
    if (stats.min_seqno, stats.max_seqno) == (meta.min_seqno, meta.max_seqno) {
        return Ok(());
    }
    Err(SegmentError::Corruption {
        offset: file.segment.stats_offset(),
        what: "its range of SeqNos is not the one that the manifest has".into(),
    })
}

pub(super) fn expected(collection: &CollectionMeta, meta: &SegmentMeta) -> Expected {
    Expected {
        file_id: meta.file_id,
        id: meta.id,
        collection: collection.id,
        dimension: collection.dimension,
        metric: collection.metric,
        len: meta.len,
        hash: meta.hash,
        rows: meta.rows,
    }
}
