//! Verifying a database that is open, while it is used.
//!
//! Owns the moment whose state is verified. Invariants: state, view and the end of
//! the log are copied under the commit lock, which is not held for any read; pins
//! keep segments where they are; a log or a file of deletion vectors that the
//! database stopped needing meanwhile is excused. Must not know: repair.

use std::collections::{BTreeMap, BTreeSet};

use esker_segment::{DeletionVector, SegmentId};
use esker_wal::LogEnd;

use super::keys::KeySource;
use super::logs::{LogsPass, live_log};
use super::manifest::LiveManifest;
use super::pace::Going;
use super::{Verifier, VerifyReport, deletions, state};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::files::{FileName, own_files};
use crate::options::VerifyOptions;
use crate::segment_file::LiveSegment;
use crate::segments::SegmentOpener;
use crate::sync::{Ordering, PinArc};
use crate::view::ReadView;

/// Bytes of `CURRENT`.
pub(super) const CURRENT_BYTES: u64 = 64;

/// One moment of an open database.
struct Moment {
    view: PinArc<ReadView>,
    manifest: LiveManifest,
    /// Numbers and lengths of the logs, oldest first, and where the last one ends.
    logs: Vec<(u64, u64)>,
    log_end: LogEnd,
}

impl Moment {
    fn live(&self) -> BTreeMap<SegmentId, &LiveSegment> {
        let versions = self.view.collections.values().map(|c| &c.version);
        let segments = versions.flat_map(|version| &version.segments);
        segments.map(|segment| (segment.id(), segment)).collect()
    }
}

impl Core {
    pub(crate) fn verify(&self, options: &VerifyOptions) -> Result<VerifyReport> {
        options.validate()?;
        self.check_open()?;
        // A database that is closed may be opened elsewhere, and change.
        let closing = || self.cancel.load(Ordering::Acquire);
        let moment = self.moment();
        let mut verifier = Verifier::new(&*self.env, &self.dir, options, &closing);
        let result = self.verify_moment(&mut verifier, &moment);
        if closing() {
            return Err(Error::Closed);
        }
        Ok(verifier.finish(result))
    }

    fn moment(&self) -> Moment {
        let manifest = self.manifest.lock();
        let (logs, log_end) = self.log.chain();
        Moment {
            view: self.published.get().0,
            manifest: LiveManifest::of(&manifest),
            logs,
            log_end,
        }
    }

    fn verify_moment(&self, verifier: &mut Verifier<'_>, moment: &Moment) -> Going {
        let named = deletions::by_file(&moment.manifest.state);
        let manifest_bytes = CURRENT_BYTES + moment.manifest.end.offset;
        let segments = moment.manifest.state.segments();
        let bytes = manifest_bytes
            + moment.logs.iter().map(|(_, len)| len).sum::<u64>()
            + named.values().map(|n| deletions::bytes(n)).sum::<u64>()
            + segments.map(|(_, s)| s.meta.len).sum::<u64>();
        let live = moment.live();
        let files = 1 + moment.logs.len() + named.len() + live.len();
        verifier.run.begin(files, bytes);

        verifier.begin_file(manifest_bytes, manifest_bytes);
        self.verify_state(verifier, moment, &live);
        verifier.run.read(manifest_bytes)?;
        verifier.end_file();
        self.verify_logs(verifier, moment)?;
        let replaced = |file| !self.still_names(file);
        for named in named.values() {
            verifier.deletions(named, &replaced, |segment, stored| {
                in_use(&live, segment, &stored)
            })?;
        }
        let opener = SegmentOpener::for_checks(&self.options, &self.dir, &self.garbage);
        for (id, collection) in &moment.view.collections {
            let mut sources = Vec::new();
            for segment in &collection.version.segments {
                let file = &segment.file;
                let sound = verifier.live_segment(&opener, file)?;
                let read = file.opened().zip(segment.known_deletions());
                if let Some((opened, deleted)) = read.filter(|_| sound) {
                    sources.push(KeySource {
                        path: file.pin.path(),
                        segment: &opened.segment,
                        deleted,
                    });
                }
            }
            if moment.manifest.state.collections.contains_key(id) {
                verifier.live_keys(&sources)?;
            }
        }
        self.count_unnamed(verifier, moment);
        Ok(())
    }

    fn verify_state(
        &self,
        verifier: &mut Verifier<'_>,
        moment: &Moment,
        live: &BTreeMap<SegmentId, &LiveSegment>,
    ) {
        let path = FileName::Manifest(moment.manifest.number).path(&self.dir);
        let end = moment.manifest.end.offset;
        verifier.report.manifests += 1;
        if let Some(error) = self.verify_manifest(moment.manifest.clone()) {
            verifier.problem(error);
        }
        for what in state::contradictions(&moment.manifest.state) {
            verifier.problem(Error::corruption(&path, end, what));
        }
        let named: BTreeSet<_> = moment
            .manifest
            .state
            .segments()
            .map(|(_, s)| s.meta.id)
            .collect();
        let in_use: BTreeSet<_> = live.keys().copied().collect();
        for segment in named.symmetric_difference(&in_use) {
            let what = format!("segment {segment} is not both named and in use");
            verifier.problem(Error::corruption(&path, end, what));
        }
    }

    fn verify_logs(&self, verifier: &mut Verifier<'_>, moment: &Moment) -> Going {
        let mut pass = LogsPass::default();
        for (index, &(number, len)) in moment.logs.iter().enumerate() {
            let released = || self.log.oldest() > number;
            let successor = moment.logs.get(index + 1).map(|(number, _)| *number);
            verifier.begin_file(len, len);
            match live_log(&*self.env, &self.dir, number, successor, moment.log_end) {
                Ok(link) => {
                    verifier.log(&link, Some(&moment.manifest.state), &mut pass, &released)?
                }
                Err(_) if released() => {}
                Err(error) => verifier.problem(error),
            }
            verifier.end_file();
        }
        Ok(())
    }

    pub(super) fn still_names(&self, deletions: u64) -> bool {
        let manifest = self.manifest.lock();
        manifest.state().deletion_files().contains(&deletions)
    }

    fn count_unnamed(&self, verifier: &mut Verifier<'_>, moment: &Moment) {
        let logs: BTreeSet<u64> = moment.logs.iter().map(|(number, _)| *number).collect();
        let manifest = moment.manifest.number;
        match own_files(self.storage(), &self.dir) {
            Ok(files) => {
                let unnamed = files.into_iter().filter(|(_, file)| match *file {
                    FileName::Log(number) => !logs.contains(&number),
                    file => !moment.manifest.state.names(file, manifest),
                });
                verifier.report.unnamed_files = unnamed.count();
            }
            Err(error) => verifier.problem(error),
        }
    }
}

/// What is wrong with a stored deletion vector, seen from the one in use.
fn in_use(
    live: &BTreeMap<SegmentId, &LiveSegment>,
    segment: SegmentId,
    stored: &DeletionVector,
) -> Option<&'static str> {
    let live = live.get(&segment)?;
    // What nobody has read yet is read from that very file.
    let used = live.known_deletions()?;
    (stored != &**used).then_some("the deletion vector differs from the one in use")
}
