//! What can go wrong with a segment or deletion-vector file.
//!
//! Owns the one error type of this crate's files. Invariant: an error names a
//! byte offset where there is one, never a file: the caller knows its name.
//! Must not know: paths, quarantine, retries.

use std::borrow::Cow;
use std::{fmt, io};

/// Why a file could not be read or written.
#[derive(Debug)]
pub enum SegmentError {
    /// The bytes at `offset` are not what was written, or contradict others.
    Corruption {
        /// Byte offset in the file of the damaged field, block or table.
        offset: u64,
        /// What is wrong there.
        what: Cow<'static, str>,
    },
    /// The device or the output failed.
    Io(io::Error),
    /// A newer release wrote the file with something this one cannot read.
    Incompatible {
        /// Which version, feature or section is not understood.
        what: Cow<'static, str>,
    },
    /// The caller asked for something that no segment can hold.
    Invalid(Cow<'static, str>),
    /// The rows' owner does not want the segment any more.
    Cancelled,
}

impl SegmentError {
    pub(crate) fn corruption(offset: u64, what: impl Into<Cow<'static, str>>) -> Self {
        Self::Corruption {
            offset,
            what: what.into(),
        }
    }

    pub(crate) fn incompatible(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Incompatible { what: what.into() }
    }

    pub(crate) fn invalid(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid(what.into())
    }
}

impl fmt::Display for SegmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corruption { offset, what } => write!(f, "corrupt at byte {offset}: {what}"),
            Self::Io(source) => source.fmt(f),
            Self::Incompatible { what } => {
                write!(
                    f,
                    "written by a newer release ({what}); open it with that release"
                )
            }
            Self::Invalid(what) => f.write_str(what),
            Self::Cancelled => f.write_str("the work was cancelled"),
        }
    }
}

impl std::error::Error for SegmentError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(source) => Some(source),
            _ => None,
        }
    }
}

impl From<io::Error> for SegmentError {
    fn from(source: io::Error) -> Self {
        Self::Io(source)
    }
}
