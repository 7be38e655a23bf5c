//! Verifying a database that nobody has open, as it lies on the disk.
//!
//! Owns [`verify`]. Invariants: takes the lock and writes nothing else; goes on where
//! an open would fail, as far as the files can still be told apart: without `CURRENT`
//! by the newest manifest that can be read, without any by each file alone.
//! Must not know: recovery, repair.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use esker_segment::{DeletionVector, FileId, SegmentCheck, SegmentId, SeqNo, UnopenedSegment};
use esker_wal::{Expect, HeaderState, LogKind, read_header};

use super::keys::KeySource;
use super::logs::{LogsPass, open_if_begun as open_log};
use super::open::CURRENT_BYTES;
use super::pace::Going;
use super::{Verifier, VerifyReport, deletions, state};
use crate::error::{Error, Result};
use crate::files::{FileName, own_files};
use crate::gc::Garbage;
use crate::log_file::FileHandle;
use crate::manifest::{Current, ManifestReplay, ManifestState, replay_manifest};
use crate::options::{Options, VerifyOptions};
use crate::recovery::{ChainedLog, check_never_made, find_chain, lock_directory};
use crate::segment_file::SegmentFile;
use crate::segments::SegmentOpener;

/// Reads and checks every file of the database in `dir`, which must not be open, and
/// that the files fit each other. Does not recover: nothing is written but the lock's
/// file. Of `options`, the environment and how segments are read matter; under
/// [`MapMode::Pread`](crate::MapMode::Pread) a disk that fails a read gives an error.
///
/// ```
/// # use esker::{Db, Options, VerifyOptions};
/// # let dir = tempfile::tempdir().unwrap();
/// # Db::open(dir.path(), Options::new())?.close()?;
/// let report = esker::verify(dir.path(), &Options::new(), &VerifyOptions::new())?;
/// assert!(report.is_ok() && report.complete);
/// # Ok::<_, esker::Error>(())
/// ```
///
/// # Errors
/// `Busy` when it is open; `Invalid` for a directory without a database, or a setting
/// out of range; `Io` where the directory cannot be listed or locked. Damage is
/// reported, not returned as an error, also where it keeps the database from opening.
pub fn verify(
    dir: impl AsRef<Path>,
    options: &Options,
    verification: &VerifyOptions,
) -> Result<VerifyReport> {
    options.validate()?;
    verification.validate()?;
    let dir = dir.as_ref();
    let storage = options.env.storage();
    let files: Vec<_> = own_files(storage, dir)?
        .into_iter()
        .map(|(_, file)| file)
        .collect();
    let nothing = || {
        let what = format!("{} holds no database", dir.display());
        Err(Error::Invalid(what))
    };
    if files.is_empty() {
        return nothing();
    }
    let _lock = lock_directory(storage, dir)?;
    let mut closed = Closed {
        verifier: Verifier::new(&*options.env, dir, verification, &|| false),
        opener: Arc::new(SegmentOpener::new(
            options,
            dir,
            &Arc::new(Garbage::default()),
        )),
        files,
    };
    let result = match Current::read(storage, dir) {
        Ok(Some(current)) => closed.with_current(&current),
        Ok(None) => match check_never_made(storage, dir, &closed.files) {
            Ok(()) => return nothing(),
            Err(error) => closed.without_current(error),
        },
        Err(error) => closed.without_current(error),
    };
    Ok(closed.verifier.finish(result))
}

struct Closed<'a> {
    verifier: Verifier<'a>,
    opener: Arc<SegmentOpener>,
    files: Vec<FileName>,
}

impl Closed<'_> {
    fn dir(&self) -> PathBuf {
        self.verifier.dir.to_owned()
    }

    fn with_current(&mut self, current: &Current) -> Going {
        match replay_manifest(self.verifier.env, self.verifier.dir, current) {
            Ok(replayed) => self.by_manifest(current, replayed),
            Err(error) => {
                self.verifier.problem(error);
                self.by_files()
            }
        }
    }

    /// Looks for the manifest that `CURRENT` would have named.
    fn without_current(&mut self, error: Error) -> Going {
        self.verifier.problem(error);
        let manifests = self.files.iter().filter_map(|file| match file {
            FileName::Manifest(number) => Some(*number),
            _ => None,
        });
        let mut manifests: Vec<u64> = manifests.collect();
        manifests.sort_unstable_by(|a, b| b.cmp(a));
        for number in manifests {
            let Some(current) = self.guess(number) else {
                continue;
            };
            let replayed = replay_manifest(self.verifier.env, self.verifier.dir, &current);
            if let Ok(replayed) = replayed {
                let path = FileName::Manifest(number).path(self.verifier.dir);
                self.verifier.note(format!(
                    "without CURRENT the rest is checked against {}, the newest manifest",
                    path.display()
                ));
                return self.by_manifest(&current, replayed);
            }
        }
        self.by_files()
    }

    fn guess(&self, number: u64) -> Option<Current> {
        let path = FileName::Manifest(number).path(self.verifier.dir);
        let file = self.verifier.env.storage().open(&path).ok()?;
        match read_header(&FileHandle(file), LogKind::Manifest).ok()? {
            HeaderState::Valid(header) => Some(Current {
                manifest: number,
                file_id: FileId(header.file_id),
                sealed: None,
            }),
            HeaderState::NeverUsed => None,
        }
    }

    fn by_manifest(&mut self, current: &Current, replayed: ManifestReplay) -> Going {
        let dir = self.dir();
        let state = replayed.state;
        let end = replayed.end.offset;
        let path = FileName::Manifest(current.manifest).path(&dir);
        if current.sealed.is_some() && state.seal.is_none() {
            let what = "it lacks its last edit";
            self.verifier.problem(Error::corruption(&path, end, what));
        }
        if replayed.dropped_bytes > 0 {
            self.verifier.note(format!(
                "{} breaks off at byte {end}: the {} bytes behind it are of an edit that never \
                 took effect, and the next open drops them",
                path.display(),
                replayed.dropped_bytes
            ));
        }
        let (chain, whole) = self.chain(&state);
        let named = deletions::by_file(&state);
        let manifest_bytes = CURRENT_BYTES + end;
        let bytes = manifest_bytes
            + chain.iter().map(ChainedLog::bytes).sum::<u64>()
            + named.values().map(|n| deletions::bytes(n)).sum::<u64>()
            + state.segments().map(|(_, s)| s.meta.len).sum::<u64>();
        let files = 1 + chain.len() + named.len() + state.segments().count();
        self.verifier.run.begin(files, bytes);

        self.verifier.begin_file(manifest_bytes, manifest_bytes);
        self.verifier.report.manifests += 1;
        for what in state::contradictions(&state) {
            self.verifier.problem(Error::corruption(&path, end, what));
        }
        self.verifier.run.read(manifest_bytes)?;
        self.verifier.end_file();
        // What is no chain has its SeqNos in any order.
        let last = self.logs(&chain, whole.then_some(&state))?;
        self.check_sealed(&state, last, &path, end);

        let mut deleted = BTreeMap::new();
        for named in named.values() {
            self.verifier
                .deletions(named, &|_| false, |segment, stored| {
                    deleted.insert(segment, stored);
                    None
                })?;
        }
        self.segments(&state, &deleted)?;
        let names = |file: &&FileName| match **file {
            FileName::Log(number) => number >= state.first_log,
            file => state.names(file, current.manifest),
        };
        let unnamed = self.files.iter().filter(|file| !names(file));
        self.verifier.report.unnamed_files = unnamed.count();
        Ok(())
    }

    /// The logs that the state needs, or, where their chain is broken, each of them
    /// that can be read alone, and that they are no chain.
    fn chain(&mut self, state: &ManifestState) -> (Vec<ChainedLog>, bool) {
        match find_chain(self.verifier.env, self.verifier.dir, state) {
            Ok(chain) => (chain, true),
            Err(error) => {
                let text = error.to_string();
                self.verifier.problem(error);
                (self.logs_alone(state.first_log, &text), false)
            }
        }
    }

    /// All logs from number `first` on that were begun, each up to the end that
    /// another states. Damage that was `reported` already is not reported again.
    fn logs_alone(&mut self, first: u64, reported: &str) -> Vec<ChainedLog> {
        let numbers = self.files.iter().filter_map(|file| match file {
            FileName::Log(number) if *number >= first => Some(*number),
            _ => None,
        });
        let numbers: Vec<u64> = numbers.collect();
        let mut logs = Vec::new();
        for number in numbers {
            match open_log(self.verifier.env, self.verifier.dir, number) {
                Ok(Some((file, header))) => logs.push(ChainedLog {
                    path: FileName::Log(number).path(self.verifier.dir),
                    file,
                    header,
                    expect: Expect::Newest,
                }),
                Ok(None) => {}
                Err(error) if error.to_string() == reported => {}
                Err(error) => self.verifier.problem(error),
            }
        }
        let ends: BTreeMap<_, _> = logs
            .iter()
            .filter_map(|log| log.header.predecessor)
            .collect();
        for log in &mut logs {
            if let Some(end) = ends.get(&log.header.number) {
                log.expect = Expect::Ends(*end);
            }
        }
        logs
    }

    fn logs(&mut self, chain: &[ChainedLog], state: Option<&ManifestState>) -> Going<SeqNo> {
        let mut pass = LogsPass::default();
        for link in chain {
            let len = link.bytes();
            self.verifier.begin_file(len, len);
            self.verifier.log(link, state, &mut pass, &|| false)?;
            self.verifier.end_file();
        }
        Ok(pass.last_seqno())
    }

    /// After a clean close the manifest knows of every write.
    fn check_sealed(&mut self, state: &ManifestState, last: SeqNo, manifest: &Path, end: u64) {
        if state.seal.is_some() && last > state.last_seqno {
            let what = format!(
                "the log has SeqNo {last}, but the manifest was sealed at {}",
                state.last_seqno
            );
            self.verifier
                .problem(Error::corruption(manifest, end, what));
        }
    }

    fn segments(
        &mut self,
        state: &ManifestState,
        deleted: &BTreeMap<SegmentId, DeletionVector>,
    ) -> Going {
        let none = DeletionVector::default();
        for collection in state.collections.values() {
            let mut sound: Vec<(SegmentFile, &DeletionVector)> = Vec::new();
            for segment in collection.segments.values() {
                let checked =
                    self.verifier
                        .closed_segment(&self.opener, &collection.meta, segment.meta)?;
                let deleted = match segment.deletions {
                    None => Some(&none),
                    Some(_) => deleted.get(&segment.meta.id),
                };
                if let (Some((file, true)), Some(deleted)) = (checked, deleted) {
                    sound.push((file, deleted));
                }
            }
            let sources: Vec<_> = sound
                .iter()
                .filter_map(|(file, deleted)| {
                    Some(KeySource {
                        path: file.pin.path(),
                        segment: &file.opened()?.segment,
                        deleted,
                    })
                })
                .collect();
            self.verifier.live_keys(&sources)?;
        }
        Ok(())
    }

    /// Without a manifest nobody knows which files make up the database. What each
    /// says of itself can still be checked.
    fn by_files(&mut self) -> Going {
        self.verifier.note(
            "without a manifest each segment and log is checked alone, also what was replaced"
                .to_owned(),
        );
        let files = self.files.clone();
        let checked = |file: &&FileName| matches!(file, FileName::Segment(_));
        let segments: Vec<_> = files.iter().filter(checked).copied().collect();
        let dir = self.dir();
        let sources: Vec<_> = segments
            .into_iter()
            .filter_map(|file| {
                let path = file.path(&dir);
                match self.opener.source(&path) {
                    Ok(source) => Some((path, source)),
                    Err(error) => {
                        self.verifier.problem(error);
                        None
                    }
                }
            })
            .collect();
        let len = |source: &esker_segment::Source| esker_segment::SectionSource::len(source);
        let logs = self.logs_alone(0, "");
        let bytes = sources.iter().map(|(_, source)| len(source)).sum::<u64>()
            + logs.iter().map(ChainedLog::bytes).sum::<u64>();
        self.verifier.run.begin(sources.len() + logs.len(), bytes);
        self.logs(&logs, None)?;
        for (path, source) in sources {
            let bytes = len(&source);
            self.verifier.begin_file(bytes, bytes);
            self.verifier.report.segments += 1;
            self.file_alone(&path, source)?;
            self.verifier.end_file();
        }
        Ok(())
    }

    fn file_alone(&mut self, path: &Path, source: esker_segment::Source) -> Going {
        let mut found = Vec::new();
        let file = UnopenedSegment::describe(&source)
            .map_err(|error| found.push(error))
            .ok()
            .and_then(|expected| {
                UnopenedSegment::new(source, &expected, &mut |finding| found.push(finding))
            });
        let mut check = SegmentCheck::new();
        loop {
            for finding in found.drain(..) {
                self.verifier.problem(Error::in_segment(path, finding));
            }
            let Some(file) = &file else {
                return Ok(());
            };
            match check.step_unopened(file, &mut |finding| found.push(finding)) {
                Some(read) => self.verifier.run.read(read)?,
                None => return Ok(()),
            }
        }
    }
}
