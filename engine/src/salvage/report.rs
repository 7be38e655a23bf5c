//! What a salvage found, recovered and lost.
//!
//! Owns the public report and the ledger that fills it. Invariants: every damage
//! that cost a row has an entry, or is counted among those left out; the totals do
//! not depend on how many entries there is room for. Must not know: how damage is
//! found.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use esker_segment::{CollectionId, Metric, SegmentError};

use crate::error::Error;

/// Entries that are kept. What a wholly damaged disk says of each of its blocks
/// would fill the memory and help nobody.
const MOST_DAMAGES: usize = 10_000;

/// How many rows are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// So many are, for certain.
    pub at_least: u64,
    /// No more than so many; `None` where nothing tells.
    pub at_most: Option<u64>,
}

impl Default for Lost {
    fn default() -> Self {
        Self::NONE
    }
}

impl Lost {
    /// Nothing.
    pub const NONE: Self = Self {
        at_least: 0,
        at_most: Some(0),
    };
    /// Nobody can tell.
    pub const UNKNOWN: Self = Self {
        at_least: 0,
        at_most: None,
    };

    /// Exactly so many.
    #[must_use]
    pub fn exactly(rows: u64) -> Self {
        Self {
            at_least: rows,
            at_most: Some(rows),
        }
    }

    /// Not more than so many, and perhaps none.
    #[must_use]
    pub fn up_to(rows: u64) -> Self {
        Self {
            at_least: 0,
            at_most: Some(rows),
        }
    }

    /// Whether nothing is lost, for certain.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.at_most == Some(0)
    }

    pub(super) fn add(&mut self, other: Self) {
        self.at_least = self.at_least.saturating_add(other.at_least);
        self.at_most = self
            .at_most
            .zip(other.at_most)
            .map(|(a, b)| a.saturating_add(b));
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.at_least, self.at_most) {
            (_, Some(0)) => f.write_str("none"),
            (least, Some(most)) if least == most => write!(f, "{most}"),
            (0, Some(most)) => write!(f, "at most {most}"),
            (least, Some(most)) => write!(f, "{least} to {most}"),
            (0, None) => f.write_str("an unknown number"),
            (least, None) => write!(f, "at least {least}"),
        }
    }
}

/// One damage, or one consequence of damage.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The damaged or missing file.
    pub file: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// Bytes that are affected, where that is known; else zero.
    pub len: u64,
    /// What was found.
    pub what: String,
    /// SeqNos of writes that are missing or may be, for damage to a log.
    pub seqnos: Option<RangeInclusive<u64>>,
    /// Rows lost because of it: of a collection, or writes of a log.
    pub lost: Lost,
    /// Rows that were recovered, and may be older than a delete or an overwrite
    /// that this damage hides.
    pub doubtful: u64,
}

/// What became of one collection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SalvagedCollection {
    /// Its name in the new database: its own, or one made of its id.
    pub name: String,
    /// Its id in the damaged database; the new one has ids of its own.
    pub id: CollectionId,
    /// Components of each vector.
    pub dimension: u32,
    /// How distances are computed.
    pub metric: Metric,
    /// Rows in the new database.
    pub recovered: u64,
    /// Rows that are not, as far as they are known to be this collection's.
    pub lost: Lost,
    /// Of the recovered, those that may be older than a delete or an overwrite.
    pub doubtful: u64,
    /// Of the recovered, those whose payload was lost. Zero unless
    /// [`super::SalvageOptions::keep_rows_without_payload`] was asked for.
    pub without_payload: u64,
}

/// What a salvage did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SalvageReport {
    /// Every collection, by id.
    pub collections: Vec<SalvagedCollection>,
    /// Writes lost with parts of logs and with files that nothing assigns to a
    /// collection: each may have put a row, replaced or deleted one.
    pub lost_writes: Lost,
    /// Every damage that was met, in the order in which it was.
    pub damages: Vec<Damage>,
    /// Damages beyond those that there is room for.
    pub damages_left_out: u64,
    /// What had to be taken for true without proof.
    pub assumptions: Vec<String>,
}

impl SalvageReport {
    /// Rows in the new database.
    #[must_use]
    pub fn recovered(&self) -> u64 {
        self.collections.iter().map(|c| c.recovered).sum()
    }

    /// Everything lost, in collections and in logs.
    #[must_use]
    pub fn lost(&self) -> Lost {
        let mut lost = self.lost_writes;
        self.collections.iter().for_each(|c| lost.add(c.lost));
        lost
    }

    /// Recovered rows that may be older than a delete or an overwrite.
    #[must_use]
    pub fn doubtful(&self) -> u64 {
        self.collections.iter().map(|c| c.doubtful).sum()
    }

    /// Whether the new database certainly holds all that the old one held.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let whole = |c: &SalvagedCollection| c.doubtful == 0 && c.without_payload == 0;
        self.lost().is_none() && self.collections.iter().all(whole)
    }
}

/// Where damages are written down.
#[derive(Default)]
pub(super) struct Ledger {
    report: SalvageReport,
    entries: BTreeMap<(PathBuf, u64, String), usize>,
}

/// An entry of the ledger; `None` if it is left out.
pub(super) type Entry = Option<usize>;

impl Ledger {
    /// Notes a damage, or finds it if it was noted before.
    pub(super) fn note(&mut self, file: &Path, offset: u64, what: &str) -> Entry {
        let key = (file.to_owned(), offset, what.to_owned());
        if let Some(&entry) = self.entries.get(&key) {
            return Some(entry);
        }
        if self.report.damages.len() >= MOST_DAMAGES {
            self.report.damages_left_out += 1;
            return None;
        }
        let entry = self.report.damages.len();
        self.entries.insert(key, entry);
        self.report.damages.push(Damage {
            file: file.to_owned(),
            offset,
            len: 0,
            what: what.to_owned(),
            seqnos: None,
            lost: Lost::NONE,
            doubtful: 0,
        });
        Some(entry)
    }

    /// Notes what an error says.
    pub(super) fn note_error(&mut self, file: &Path, error: &Error) -> Entry {
        match error {
            Error::Corruption { file, offset, what } => self.note(file, *offset, what),
            other => self.note(file, 0, &other.to_string()),
        }
    }

    /// As [`Ledger::note_error`], for a segment or deletion vectors.
    pub(super) fn note_segment(&mut self, file: &Path, error: &SegmentError) -> Entry {
        match error {
            SegmentError::Corruption { offset, what } => self.note(file, *offset, what),
            other => self.note(file, 0, &other.to_string()),
        }
    }

    /// Adds to what a damage cost.
    pub(super) fn add_lost(&mut self, entry: Entry, lost: Lost) {
        if let Some(damage) = self.get(entry) {
            damage.lost.add(lost);
        }
    }

    pub(super) fn add_doubtful(&mut self, entry: Entry, rows: u64) {
        if let Some(damage) = self.get(entry) {
            damage.doubtful += rows;
        }
    }

    pub(super) fn get(&mut self, entry: Entry) -> Option<&mut Damage> {
        self.report.damages.get_mut(entry?)
    }

    pub(super) fn assume(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.report.assumptions.contains(&what) && self.report.assumptions.len() < MOST_DAMAGES
        {
            self.report.assumptions.push(what);
        }
    }

    pub(super) fn add_lost_writes(&mut self, lost: Lost) {
        self.report.lost_writes.add(lost);
    }

    pub(super) fn finish(mut self, collections: Vec<SalvagedCollection>) -> SalvageReport {
        self.report.collections = collections;
        self.report
    }
}
