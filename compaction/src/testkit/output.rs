//! Whether a segment is exactly the rows that it should be.
//!
//! Owns what is asked of one file, by every way a reader has: by row, by key, in order,
//! by distance, and what the file says of itself. Must not know: how it was made.

use std::collections::BTreeSet;
use std::ops::Bound;

use esker_segment::distance::{Query, inverse_norm};
use esker_segment::{DeletionVector, Key, Metric, Row, Segment, SegmentSummary, SeqNo, Source};

use super::case::{Form, Shown};
use super::graph;
use super::oracle::{Rows, Version};

/// How many keys are asked for what comes behind them.
const BOUNDS: usize = 6;

/// A segment with what it should hold.
pub(super) struct Written<'a> {
    pub(super) file: &'a [u8],
    pub(super) summary: &'a SegmentSummary,
    pub(super) segment: &'a Segment<Source>,
    pub(super) rows: &'a Rows,
    pub(super) form: Form,
    pub(super) max_degree: u32,
}

/// What the checks of a segment's graph found.
#[derive(Clone, Copy, Default)]
pub(super) struct Found {
    pub(super) neighbors: u64,
    pub(super) of: u64,
}

/// Distance and key of an answer.
pub(super) type Hit = (f32, Key);

impl Written<'_> {
    /// `absent` are keys that it must not have.
    pub(super) fn check(&self, absent: &BTreeSet<Key>) -> Result<Found, String> {
        self.check_statistics()?;
        self.check_rows()?;
        self.check_order()?;
        let present = |key: &&Key| self.rows.contains_key(*key);
        for key in absent.iter().filter(|key| !present(key)) {
            if let Some(row) = read(self.segment.find(key))? {
                return Err(format!("key {} should not be there: row {row}", Shown(key)));
            }
        }
        let none = DeletionVector::default();
        for query in queries(self.segment, self.rows.values())? {
            for k in [1, 3, self.rows.len() + 1] {
                let truth = nearest(&query, k, self.rows.iter());
                let found = scan(self.segment, &none, &query, k)?;
                same_hits(&found, &truth, "a scan")?;
            }
        }
        let found = graph::check(self)?;
        // Last, so that nothing above leans on it.
        let fail = |error| format!("the file does not verify: {error}");
        self.segment.verify().map_err(fail)?;
        Ok(found)
    }

    fn check_statistics(&self) -> Result<(), String> {
        let (stats, summary) = (self.segment.stats(), self.summary);
        let seqnos = || self.rows.values().map(|row| SeqNo(row.seqno));
        let payloads = || {
            let payload = |row: &Version| row.record.payload.as_ref().map(Vec::len);
            self.rows.values().filter_map(payload)
        };
        let (least, most) = (seqnos().min(), seqnos().max());
        let is = |what: &str, found: u64, expected: u64| match found == expected {
            true => Ok(()),
            false => Err(format!("{what}: {found} instead of {expected}")),
        };
        let number = |seqno: Option<SeqNo>| seqno.unwrap_or_default().0;
        let rows = self.rows.len() as u64;
        is("rows", u64::from(self.segment.rows()), rows)?;
        is("rows of the summary", u64::from(summary.rows), rows)?;
        let len = self.file.len() as u64;
        is("bytes of the summary", summary.len, len)?;
        is("least SeqNo", stats.min_seqno.0, number(least))?;
        is("greatest SeqNo", stats.max_seqno.0, number(most))?;
        let summed = (summary.min_seqno, summary.max_seqno);
        is("least SeqNo of the summary", summed.0.0, number(least))?;
        is("greatest SeqNo of the summary", summed.1.0, number(most))?;
        let keys = self.rows.keys().map(|key| key.len() as u64).sum();
        is("bytes of keys", stats.key_bytes, keys)?;
        let count = payloads().count() as u64;
        is("rows with payloads", stats.payload_rows, count)?;
        let bytes = payloads().sum::<usize>() as u64;
        is("bytes of payloads", stats.payload_bytes, bytes)
    }

    /// By key and by row, each row once.
    fn check_rows(&self) -> Result<(), String> {
        let segment = self.segment;
        let mut met = vec![false; self.rows.len()];
        for (key, version) in self.rows {
            let name = Shown(key);
            let found = read(segment.find(key))?;
            let row = found.ok_or_else(|| format!("key {name} is lost"))?;
            match met.get_mut(row.0 as usize) {
                Some(met) if !*met => *met = true,
                _ => return Err(format!("key {name} has row {row}, as another key")),
            }
            let is = read(segment.key(row))?;
            if is != *key {
                let what = format!("row {row} of key {name} has key {}", Shown(&is));
                return Err(what);
            }
            self.check_row(row, version)
                .map_err(|what| format!("key {name}, row {row}: {what}"))?;
        }
        Ok(())
    }

    fn check_row(&self, row: Row, expected: &Version) -> Result<(), String> {
        let segment = self.segment;
        let seqno = read(segment.seqno(row))?;
        if seqno.0 != expected.seqno {
            return Err(format!("SeqNo {seqno} instead of {}", expected.seqno));
        }
        let vector = read(segment.vector(row))?;
        let record = &*expected.record;
        if !bits(&vector).eq(bits(&record.vector)) {
            let (is, should) = (&*vector, &record.vector);
            return Err(format!("vector {is:?} instead of {should:?}"));
        }
        let norm = read(segment.inverse_norm(row))?;
        let should = norm_of(segment.expected().metric, &record.vector);
        if norm.to_bits() != should.to_bits() {
            return Err(format!("inverse norm {norm:e} instead of {should:e}"));
        }
        let payload = read(segment.payload(row))?;
        let len = read(segment.payload_len(row))?;
        let shown = |payload: Option<&[u8]>| match payload {
            None => "no payload".to_owned(),
            Some(payload) => format!("payload {}", Shown(payload)),
        };
        let (is, should) = (payload.as_deref(), record.payload.as_deref());
        if is != should || len != should.map(|payload| payload.len() as u64) {
            let (is, should) = (shown(is), shown(should));
            return Err(format!("{is}, of length {len:?}, instead of {should}"));
        }
        Ok(())
    }

    fn check_order(&self) -> Result<(), String> {
        let all = read(self.segment.iter_from(Bound::Unbounded))?;
        let mut count = 0;
        let mut should = self.rows.keys();
        for item in all {
            let (key, row) = read(item)?;
            match should.next() {
                Some(should) if *should == key => {}
                other => {
                    let should = other.map_or("the end".to_owned(), |key| Shown(key).to_string());
                    let is = Shown(&key);
                    return Err(format!(
                        "in key order: {is} (row {row}) instead of {should}"
                    ));
                }
            }
            count += 1;
        }
        if count != self.rows.len() {
            return Err(format!("in key order: {count} of {} keys", self.rows.len()));
        }
        let some = self.rows.keys().step_by((count / BOUNDS).max(1));
        for key in some {
            let mut longer = key.to_vec();
            longer.push(0);
            let shorter = key.get(..key.len().saturating_sub(1)).unwrap_or_default();
            for bound in [
                Bound::Included(&key[..]),
                Bound::Excluded(&key[..]),
                Bound::Included(&longer[..]),
                Bound::Excluded(shorter),
            ] {
                let next = read(self.segment.iter_from(bound))?.next().transpose();
                let next = read(next)?.map(|(key, _)| key);
                let mut range = self.rows.range::<[u8], _>((bound, Bound::Unbounded));
                if next.as_ref() != range.next().map(|(key, _)| key) {
                    return Err(format!("the key from {bound:?} on is {next:?}"));
                }
            }
        }
        Ok(())
    }
}

/// What a reader said, or that it could not.
pub(super) fn read<T>(result: Result<T, esker_segment::SegmentError>) -> Result<T, String> {
    result.map_err(|error| format!("reading failed: {error}"))
}

pub(super) fn bits(vector: &[f32]) -> impl Iterator<Item = u32> + '_ {
    vector.iter().map(|component| component.to_bits())
}

fn norm_of(metric: Metric, vector: &[f32]) -> f32 {
    match metric {
        Metric::Cosine => inverse_norm(vector),
        Metric::L2 | Metric::InnerProduct => 1.0,
    }
}

/// Queries that lie at rows, and one that lies beside all.
pub(super) fn queries<'a>(
    segment: &Segment<Source>,
    rows: impl Iterator<Item = &'a Version>,
) -> Result<Vec<Query>, String> {
    let expected = segment.expected();
    let beside: Vec<_> = (0..expected.dimension).map(|i| 0.5 + i as f32).collect();
    let mut rows = rows.map(|row| &row.record.vector[..]);
    let (first, last) = (rows.next(), rows.last());
    let vectors = first.into_iter().chain(last).chain([&beside[..]]);
    let query = |vector| Query::new(expected.metric, vector).map_err(|error| error.to_string());
    vectors.map(query).collect()
}

/// The nearest by sorting all: equal distances in key order.
pub(super) fn nearest<'a>(
    query: &Query,
    k: usize,
    rows: impl Iterator<Item = (&'a Key, &'a Version)>,
) -> Vec<Hit> {
    let hit = |(key, row): (&'a Key, &Version)| {
        let vector = &row.record.vector;
        let norm = norm_of(query.metric(), vector);
        (query.distance(vector, norm), key)
    };
    let mut hits: Vec<_> = rows.map(hit).collect();
    hits.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
    hits.truncate(k);
    hits.into_iter().map(|(d, key)| (d, key.clone())).collect()
}

/// The nearest live rows of a segment by the reader's own scan.
pub(super) fn scan(
    segment: &Segment<Source>,
    deleted: &DeletionVector,
    query: &Query,
    k: usize,
) -> Result<Vec<Hit>, String> {
    let mut found = Vec::new();
    let live = |row| Ok::<_, esker_segment::SegmentError>(!deleted.contains(row));
    read(segment.nearest(query, k, live, &mut found))?;
    let hit = |(distance, row)| Ok((distance, read(segment.key(row))?));
    found.into_iter().map(hit).collect()
}

pub(super) fn same_hits(found: &[Hit], truth: &[Hit], by: &str) -> Result<(), String> {
    let same = |a: &Hit, b: &Hit| a.0.to_bits() == b.0.to_bits() && a.1 == b.1;
    let pairs = found.iter().zip(truth);
    let first = pairs.clone().position(|(a, b)| !same(a, b));
    let at = match first {
        None if found.len() == truth.len() => return Ok(()),
        first => first.unwrap_or(found.len().min(truth.len())),
    };
    let shown = |hits: &[Hit]| match hits.get(at) {
        None => "nothing".to_owned(),
        Some((distance, key)) => format!("{} at {distance:e}", Shown(key)),
    };
    let (is, should) = (shown(found), shown(truth));
    Err(format!("{by} finds {is} in place {at} instead of {should}"))
}
