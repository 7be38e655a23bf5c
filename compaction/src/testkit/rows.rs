//! Rows of flushes: as a source for the writer, and drawn by the thousand.
//!
//! Invariant: many rows follow from their [`Many`] alone. Must not know: segments.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use esker_segment::distance::validate_vector;
use esker_segment::{Key, Metric, Row, RowSource, SegmentError, SeqNo};

use super::case::Record;

/// Rows about a few places, many of them in one place, with keys in any order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Many {
    /// How many; those that have one key replace each other.
    pub rows: u32,
    /// Numbers that keys are made of.
    pub out_of: u32,
    /// What they are drawn by.
    pub seed: u32,
    /// Whether keys ascend as rows do.
    pub ascending: bool,
    /// Bytes of a payload at most; rows have none, an empty or a longer one.
    pub payload: u32,
}

impl fmt::Debug for Many {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rows,
            out_of,
            seed,
            ascending,
            payload,
        } = self;
        write!(f, "{rows} rows out of {out_of} keys drawn by {seed}")?;
        if *ascending {
            f.write_str(", ascending")?;
        }
        if *payload > 0 {
            write!(f, ", payloads of up to {payload} bytes")?;
        }
        Ok(())
    }
}

/// A number that looks drawn.
pub(super) fn noise(n: u32) -> u32 {
    let x = n.wrapping_mul(0x9E37_79B1);
    let x = (x ^ (x >> 15)).wrapping_mul(0x85EB_CA77);
    x ^ (x >> 13)
}

impl Many {
    /// The key of the `n`-th row.
    pub(super) fn key(&self, n: u32) -> Key {
        let out_of = self.out_of.max(1);
        if self.ascending {
            return Key::from_u64(u64::from(n.wrapping_add(self.seed) % out_of));
        }
        let number = noise(n ^ noise(self.seed)) % out_of;
        // Keys near each other are not near in order, and of several lengths.
        let scrambled = noise(number).to_be_bytes();
        let mut key = scrambled.to_vec();
        key.extend(number.to_be_bytes());
        key.extend(std::iter::repeat_n(b'.', number as usize % 19));
        Key::new(&key)
    }

    /// What the `n`-th row holds.
    pub(super) fn record(&self, n: u32, metric: Metric, dimension: u32) -> Record {
        const PLACES: u32 = 9;
        let drawn = |what: u32| noise(noise(n ^ noise(self.seed)).wrapping_add(what));
        let place = drawn(1) % PLACES;
        let component = |i: u32| {
            let centre = noise(place * 7919 + i) % 16;
            let offset = (drawn(i + 16) >> 8) % 64;
            1.0 + centre as f32 + offset as f32 / 64.0
        };
        // A part of them lies exactly at its place.
        let vector = match drawn(2) % 6 {
            0 => (0..dimension)
                .map(|i| 1.0 + (noise(place * 7919 + i) % 16) as f32)
                .collect(),
            _ => (0..dimension).map(component).collect(),
        };
        let payload = match (self.payload, drawn(3) % 4) {
            (0, _) | (_, 0) => None,
            (_, 1) => Some(Vec::new()),
            (most, _) => Some(bytes(drawn(4), (drawn(5) % most) as usize + 1)),
        };
        sound(metric, dimension, Record { vector, payload })
    }
}

/// Bytes of a length, which tell what they are of.
pub(super) fn bytes(of: u32, len: usize) -> Vec<u8> {
    let words = (0..).flat_map(|n| noise(of.wrapping_add(n)).to_le_bytes());
    words.take(len).collect()
}

/// A record that a collection takes: if it would not, its vector has a component of
/// one more.
pub(super) fn sound(metric: Metric, dimension: u32, mut record: Record) -> Record {
    if validate_vector(metric, dimension, &record.vector).is_err()
        && let Some(first) = record.vector.first_mut()
    {
        *first = 1.0;
    }
    record
}

pub(super) fn record(vector: Vec<f32>, payload: Option<Vec<u8>>) -> Arc<Record> {
    Arc::new(Record { vector, payload })
}

/// A row that is flushed.
#[derive(Clone)]
pub(super) struct Flushed {
    pub(super) key: Key,
    pub(super) seqno: u64,
    pub(super) record: Arc<Record>,
}

/// Rows in the order in which they came.
pub(super) struct Table {
    rows: Vec<Flushed>,
    by_key: Vec<u32>,
}

impl Table {
    pub(super) fn new(rows: Vec<Flushed>) -> Self {
        let mut by_key: Vec<_> = (0..).zip(&rows).map(|(n, row)| (&row.key, n)).collect();
        by_key.sort_unstable();
        let by_key = by_key.into_iter().map(|(_, n)| n).collect();
        Self { rows, by_key }
    }

    fn row(&self, row: Row) -> Result<&Flushed, SegmentError> {
        let found = self.rows.get(row.0 as usize);
        found.ok_or_else(|| SegmentError::Invalid("a row that the table lacks".into()))
    }
}

impl RowSource for Table {
    fn rows(&self) -> u32 {
        self.rows.len() as u32
    }

    fn key_order(&self) -> Option<&[u32]> {
        (!self.by_key.is_sorted()).then_some(&self.by_key)
    }

    fn vector(&self, row: Row) -> Result<Cow<'_, [f32]>, SegmentError> {
        Ok(Cow::Borrowed(&self.row(row)?.record.vector))
    }

    fn key(&self, row: Row) -> Result<Cow<'_, [u8]>, SegmentError> {
        Ok(Cow::Borrowed(&self.row(row)?.key))
    }

    fn seqno(&self, row: Row) -> Result<SeqNo, SegmentError> {
        Ok(SeqNo(self.row(row)?.seqno))
    }

    fn payload(&self, row: Row) -> Result<Option<Cow<'_, [u8]>>, SegmentError> {
        let payload = &self.row(row)?.record.payload;
        Ok(payload.as_deref().map(Cow::Borrowed))
    }
}
