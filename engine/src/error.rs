//! What can go wrong, as a caller needs to tell it apart.
//!
//! Owns the public [`Error`]. Invariants: few kinds, each prescribing what to do;
//! every `Display` is a sentence a user can act on. Crate-private causes
//! (`WalError`, `SegmentError`) end here, where they gain the file's name.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use esker_segment::{SegmentError, distance::VectorError};
use esker_wal::WalError;

/// Result of every fallible call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. Cheap to clone: several waiters may receive one cause.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The caller's mistake. Nothing was written; the text says what to change.
    Invalid(String),
    /// Not now: retry later or with less. Nothing was written.
    Busy(String),
    /// The operating system failed a call. What was acknowledged before is safe.
    Io {
        /// The file or directory, if the failure has one.
        file: Option<PathBuf>,
        /// What was being done.
        doing: &'static str,
        /// The system's own error.
        source: Arc<io::Error>,
    },
    /// Bytes on disk are not what was written. They were not used for any answer.
    Corruption {
        /// The damaged file.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// The outcome of a write is unknown, so the handle takes no more of them.
    /// Reads go on. Close the handle and open the database again.
    Poisoned {
        /// What happened first.
        cause: String,
    },
    /// The database was closed.
    Closed,
    /// Written by a newer release, or with settings that cannot change.
    Incompatible {
        /// The file, or the setting's owner.
        file: PathBuf,
        /// What does not fit and what to do.
        what: String,
    },
    /// The snapshot was given up to free memory, as the options ask for.
    SnapshotExpired,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(what) => f.write_str(what),
            Self::Busy(what) => write!(f, "busy: {what}"),
            Self::Io {
                file: Some(file),
                doing,
                source,
            } => {
                write!(f, "{doing} {} failed: {source}", file.display())
            }
            Self::Io {
                file: None,
                doing,
                source,
            } => write!(f, "{doing} failed: {source}"),
            Self::Corruption { file, offset, what } => write!(
                f,
                "{} is damaged at byte {offset}: {what}; restore it from a copy",
                file.display()
            ),
            Self::Poisoned { cause } => write!(
                f,
                "the database takes no more writes because the outcome of one is unknown \
                 ({cause}); close it and open it again"
            ),
            Self::Closed => f.write_str("the database is closed; open it again"),
            Self::Incompatible { file, what } => write!(f, "{}: {what}", file.display()),
            Self::SnapshotExpired => f.write_str(
                "the snapshot was expired to free memory; take a new one, or raise snapshot_memory",
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}

impl Error {
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid(what.into())
    }

    pub(crate) fn io(file: &Path, doing: &'static str, source: io::Error) -> Self {
        Self::Io {
            file: Some(file.to_owned()),
            doing,
            source: Arc::new(source),
        }
    }

    pub(crate) fn corruption(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Corruption {
            file: file.to_owned(),
            offset,
            what: what.into(),
        }
    }

    /// Whether bytes on disk are not what this release can use, today and tomorrow:
    /// trying again would find the same.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Corruption { .. } | Self::Incompatible { .. })
    }

    /// A leaf crate's error, now that the file's name is known.
    pub(crate) fn in_wal(file: &Path, error: WalError) -> Self {
        match error {
            WalError::Io { source, .. } => Self::io(file, "reading", source),
            WalError::Corruption { offset, what } => {
                Self::corruption(file, offset, what.to_string())
            }
            WalError::Incompatible { what } => Self::Incompatible {
                file: file.to_owned(),
                what: what.to_string(),
            },
        }
    }

    /// As [`Error::in_wal`], for segments and deletion vectors.
    pub(crate) fn in_segment(file: &Path, error: SegmentError) -> Self {
        match error {
            SegmentError::Io(source) => Self::io(file, "reading", source),
            SegmentError::Corruption { offset, what } => {
                Self::corruption(file, offset, what.to_string())
            }
            SegmentError::Incompatible { what } => Self::Incompatible {
                file: file.to_owned(),
                what: what.to_string(),
            },
            SegmentError::Invalid(what) => Self::Invalid(what.to_string()),
            // Work is cancelled when the database closes, or by whoever asked
            // for it, who then knows what this means.
            SegmentError::Cancelled => Self::Closed,
        }
    }
}

impl From<VectorError> for Error {
    fn from(error: VectorError) -> Self {
        Self::Invalid(error.to_string())
    }
}
