//! What can be wrong with a log file.
//!
//! Owns the errors of reading. They carry offsets but no file names: the caller
//! knows those. Writing fails with a plain [`io::Error`].

use std::{error, fmt, io};

/// Why a log file could not be read.
#[derive(Debug)]
pub enum WalError {
    /// The device refused.
    Io {
        /// Where the read began, in bytes.
        offset: u64,
        /// What the device said.
        source: io::Error,
    },
    /// Bytes that were durable, or must be there for another reason, are not.
    Corruption {
        /// Where the damaged frame or header begins, in bytes.
        offset: u64,
        /// What was found there.
        what: &'static str,
    },
    /// The file is sound, but this release cannot read it.
    Incompatible {
        /// What this release lacks.
        what: String,
    },
}

impl fmt::Display for WalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { offset, source } => {
                write!(f, "reading the log at offset {offset} failed: {source}")
            }
            Self::Corruption { offset, what } => {
                write!(f, "the log is damaged at offset {offset}: {what}")
            }
            Self::Incompatible { what } => {
                write!(f, "the log needs a newer release: {what}")
            }
        }
    }
}

impl error::Error for WalError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Corruption { .. } | Self::Incompatible { .. } => None,
        }
    }
}

/// Why a replay stopped before its end.
#[derive(Debug)]
pub enum ReplayError<E> {
    /// The log itself.
    Log(WalError),
    /// The visitor did not want to go on.
    Visitor(E),
}

impl<E> From<WalError> for ReplayError<E> {
    fn from(error: WalError) -> Self {
        Self::Log(error)
    }
}

impl<E: fmt::Display> fmt::Display for ReplayError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(error) => error.fmt(f),
            Self::Visitor(error) => error.fmt(f),
        }
    }
}

impl<E: error::Error + 'static> error::Error for ReplayError<E> {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Log(error) => Some(error),
            Self::Visitor(error) => Some(error),
        }
    }
}
