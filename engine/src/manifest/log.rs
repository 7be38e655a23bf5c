//! The manifest's file: appending edits, rewriting it, replaying it.
//!
//! Owns the error table's rows on the manifest: a failed append is answered with
//! a fresh manifest, an unknown outcome with [`CommitError::Unknown`]. Invariant:
//! the state in memory advances only after the edit is durable.
//! Must not know: what an edit is for.

use std::path::Path;

use esker_segment::FileId;
use esker_wal::mutants::planted;
use esker_wal::{
    Expect, FrameBuf, HeaderState, LogEnd, LogFile, LogHeader, LogKind, LogNumber, LogWriter,
    ReplayEnd, ReplayError, SequencedFrame,
};

use super::current::{Current, ReplaceError};
use super::edit::{EDIT_FRAME, Edit};
use super::state::ManifestState;
use crate::dir::Directory;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::files::{FileName, discard};
use crate::log_file::FileHandle;

/// A manifest longer than this, and than twice its whole state, is rewritten:
/// replay stays short, and a large state is not written again for each edit.
const REWRITE_BYTES: u64 = 1 << 20;

/// Why an edit did not become durable.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// It did not, for certain; nothing changed.
    Clean(Error),
    /// It did not, but a crash before the next successful edit may yet reveal
    /// it: what it names must stay. The next edit begins a fresh manifest.
    InDoubt(Error),
    /// It may have: the next open reads the truth.
    Unknown(Error),
}

impl CommitError {
    /// The error, where what it leaves behind makes no difference.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Clean(error) | Self::InDoubt(error) | Self::Unknown(error) => error,
        }
    }
}

impl From<ReplaceError> for CommitError {
    fn from(error: ReplaceError) -> Self {
        match error {
            ReplaceError::Unchanged(error) => Self::Clean(error),
            ReplaceError::Unknown(error) => Self::Unknown(error),
        }
    }
}

type Committed<T> = std::result::Result<T, CommitError>;

/// The live manifest.
pub(crate) struct Manifest {
    writer: LogWriter<FileHandle>,
    file_id: FileId,
    number: u64,
    edits: u64,
    /// Length right after the whole state was written.
    base_len: u64,
    state: ManifestState,
}

impl Manifest {
    /// Writes a fresh manifest that holds `state` and makes it the live one.
    pub(crate) fn create(dir: &Directory, number: u64, state: ManifestState) -> Committed<Self> {
        let manifest = Self::write_new(dir, number, state).map_err(CommitError::Clean)?;
        let current = Current {
            manifest: number,
            file_id: manifest.file_id,
            sealed: planted("current.unseal").then(|| manifest.writer.end()),
        };
        if planted("open.fresh_manifest")
            && !matches!(Current::read(dir.storage(), dir.path()), Ok(None))
        {
            return Ok(manifest);
        }
        if let Err(error) = current.replace(dir) {
            if matches!(error, ReplaceError::Unchanged(_)) || planted("current.in_doubt") {
                discard(dir.storage(), &FileName::Manifest(number).path(dir.path()));
            }
            return Err(error.into());
        }
        Ok(manifest)
    }

    /// A durable file that nothing names yet.
    fn write_new(dir: &Directory, number: u64, state: ManifestState) -> Result<Self> {
        let path = FileName::Manifest(number).path(dir.path());
        let written = (|| {
            let file_id = FileId(dir.env().entropy().file_id()?);
            let header = LogHeader {
                number: LogNumber(number),
                file_id: file_id.0,
                kind: LogKind::Manifest,
                predecessor: None,
            };
            let before = dir.before();
            let file = FileHandle(dir.storage().create(&path)?);
            let writer = LogWriter::create(file, &header)?;
            let mut manifest = Self {
                writer,
                file_id,
                number,
                edits: 0,
                base_len: 0,
                state,
            };
            manifest.append(&manifest.state.to_edit())?;
            if !planted("manifest.first_sync") {
                manifest.sync()?;
            }
            manifest.base_len = manifest.len();
            if !planted("manifest.dir_sync") {
                dir.sync(before)?;
            }
            Ok(manifest)
        })();
        written.map_err(|error| {
            discard(dir.storage(), &path);
            Error::io(&path, "writing", error)
        })
    }

    fn append(&mut self, edit: &Edit) -> std::io::Result<()> {
        let mut frame = FrameBuf::new(EDIT_FRAME);
        let mut payload = Vec::new();
        edit.encode(&mut payload);
        frame.extend_from_slice(&payload);
        frame.seal();
        self.edits += 1;
        self.writer.append(&mut [SequencedFrame {
            buf: &mut frame,
            first_seqno: self.edits,
            seqno_count: 1,
        }])
    }

    fn sync(&mut self) -> std::io::Result<()> {
        let end = self.writer.end().offset;
        self.writer.file().sync_data()?;
        self.writer.note_synced(end);
        Ok(())
    }

    /// Makes an edit durable, then part of the state. `fresh_number` gives a file
    /// number in case the manifest must be rewritten.
    pub(crate) fn commit(
        &mut self,
        dir: &Directory,
        edit: &Edit,
        fresh_number: impl FnOnce() -> u64,
    ) -> Committed<()> {
        let path = FileName::Manifest(self.number).path(dir.path());
        let mut next = self.state.clone();
        next.apply(edit).map_err(|what| {
            CommitError::Clean(Error::invalid(format!("an edit that does not fit: {what}")))
        })?;
        if planted("manifest.state_after_sync") {
            self.state = next.clone();
        }
        let rewrite = self.writer.is_abandoned()
            || self.writer.end().offset > REWRITE_BYTES.max(2 * self.base_len);
        let attempted = !rewrite && self.append(edit).is_err();
        if rewrite || attempted {
            if planted("manifest.old_until_current") {
                discard(dir.storage(), &path);
            }
            let fresh = Self::create(dir, fresh_number(), next);
            *self = fresh.map_err(|error| match error {
                CommitError::Clean(error) if attempted => CommitError::InDoubt(error),
                other => other,
            })?;
            discard(dir.storage(), &path);
            return Ok(());
        }
        if !planted("manifest.edit_sync") {
            self.sync()
                .map_err(|error| CommitError::Unknown(Error::io(&path, "syncing", error)))?;
        }
        self.state = next;
        Ok(())
    }

    /// Marks a clean close in `CURRENT`, after the last edit.
    pub(crate) fn seal(&self, dir: &Directory) -> Committed<()> {
        let sealed = Some(self.writer.end());
        let current = Current {
            manifest: self.number,
            file_id: self.file_id,
            sealed,
        };
        Ok(current.replace(dir)?)
    }

    pub(crate) fn state(&self) -> &ManifestState {
        &self.state
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn file_id(&self) -> FileId {
        self.file_id
    }

    pub(crate) fn len(&self) -> u64 {
        self.end().offset
    }

    /// Where it ends, behind its last edit.
    pub(crate) fn end(&self) -> LogEnd {
        self.writer.end()
    }
}

/// What a replay of the manifest found.
pub(crate) struct ManifestReplay {
    pub(crate) state: ManifestState,
    pub(crate) dropped_bytes: u64,
    pub(crate) end: LogEnd,
}

/// Reads the manifest that `current` names.
pub(crate) fn replay_manifest(
    env: &dyn Env,
    dir: &Path,
    current: &Current,
) -> Result<ManifestReplay> {
    let expect = current.sealed.map_or(Expect::Newest, Expect::Ends);
    replay_manifest_to(env, dir, current, expect)
}

/// As [`replay_manifest`], of a manifest whose end is known otherwise.
pub(crate) fn replay_manifest_to(
    env: &dyn Env,
    dir: &Path,
    current: &Current,
    expect: Expect,
) -> Result<ManifestReplay> {
    let path = FileName::Manifest(current.manifest).path(dir);
    let file = match env.storage().open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::corruption(
                &path,
                0,
                "the manifest that CURRENT names is missing",
            ));
        }
        other => FileHandle(other.map_err(|error| Error::io(&path, "opening", error))?),
    };
    let in_wal = |error| Error::in_wal(&path, error);
    let header = match esker_wal::read_header(&file, LogKind::Manifest).map_err(in_wal)? {
        HeaderState::Valid(header) => header,
        HeaderState::NeverUsed => {
            return Err(Error::corruption(&path, 0, "the manifest's header is gone"));
        }
    };
    let own = header.file_id == current.file_id.0 || planted("manifest.file_id");
    if !own || header.number.0 != current.manifest {
        return Err(Error::corruption(
            &path,
            0,
            "this manifest belongs to another database",
        ));
    }
    let mut state = ManifestState::default();
    let mut edits = 0_u64;
    let end = esker_wal::replay(&file, &header, expect, |frame| {
        edits += 1;
        let edit = if frame.kind == EDIT_FRAME {
            Edit::decode(frame.payload)
        } else {
            Err(format!("a frame of kind {}", frame.kind))
        };
        edit.and_then(|edit| state.apply(&edit))
            .map_err(|what| Error::corruption(&path, frame.offset, what))
    });
    let (end, dropped_bytes) = match end {
        Ok(ReplayEnd::Clean(end)) => (end, 0),
        Ok(ReplayEnd::TornTail { end, dropped_bytes }) => (end, dropped_bytes),
        Err(ReplayError::Log(error)) => return Err(in_wal(error)),
        Err(ReplayError::Visitor(error)) => return Err(error),
    };
    if edits == 0 {
        return Err(Error::corruption(&path, 0, "the manifest holds no edit"));
    }
    state
        .check_counters()
        .map_err(|what| Error::corruption(&path, end.offset, what))?;
    if current.sealed.is_none() {
        // Only a clean close leaves a seal that may be believed.
        state.seal = None;
    }
    Ok(ManifestReplay {
        state,
        dropped_bytes,
        end,
    })
}
