//! How much of the segments an open looks at.
//!
//! Must not know: how anything is checked.

use super::Options;

/// What an open checks of segment files and deletion vectors. `CURRENT`, the
/// manifest and the logs are always checked whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerifyOnOpen {
    /// Nothing: each file is opened at its first use. One that is missing, of a wrong
    /// length or damaged is found then, and quarantined; the rest of the database
    /// serves. For the quickest open, and for a database part of which is lost.
    None,
    /// That every file is there, as long as it should be, and the one that is meant:
    /// headers, footers, tables and deletion vectors. Rows are verified when they are
    /// first read. Damage makes the open fail.
    #[default]
    Metadata,
    /// Every byte of every segment, and that rows, keys and graphs fit each other, as
    /// `Db::verify` does. Takes as long as reading all of it. Damage makes the open
    /// fail.
    Full,
}

impl Options {
    /// How much of the segments an open looks at. Default:
    /// [`VerifyOnOpen::Metadata`].
    #[must_use]
    pub fn verify_on_open(mut self, verify: VerifyOnOpen) -> Self {
        self.verify_on_open = verify;
        self
    }
}
