//! The exact nearest rows of a memtable.
//!
//! Owns the scan: codes where there are any, of which the bounds say what vectors to
//! read, and vectors elsewhere. Invariants: every visible row is offered by its exact
//! distance unless its bound keeps it out; `live` is asked only about rows near enough.
//! Must not know: how codes are made.

use std::ops::Range;

use esker_segment::distance::Query;
use esker_segment::{CodedQuery, CodedRows, Key, Row, SeqNo};

use crate::memtable::Memtable;
use crate::memtable::codes::CHUNK;
use crate::sync::Ordering;
use crate::top_k::TopK;

impl Memtable {
    /// Offers to `top` every row that is the newest of its key at `at` in this memtable
    /// and that `live` accepts, which is asked only about rows near enough to enter.
    /// Returns how many distances it computed or bounded.
    pub(crate) fn nearest<L>(
        &self,
        query: &Query,
        at: SeqNo,
        live: impl FnMut(&Key) -> bool,
        locate: impl FnMut(Row) -> L,
        top: &mut TopK<L>,
    ) -> u64 {
        let mut scan = Scan {
            memtable: self,
            query,
            at,
            live,
            locate,
            top,
            found: Vec::new(),
        };
        let len = self.vectors.len();
        self.codes
            .make(self.metric, self.vectors.dimension(), len, |row| {
                self.row_and_norm(row)
            });
        let coded = self.codes.query(query);
        // Where bounds keep no row out, the next chunks are read as they are.
        let mut in_vain = 0;
        let mut start = 0;
        while start < len {
            let end = len.min(start.saturating_add(CHUNK));
            let bounds = coded.as_ref().filter(|_| in_vain == 0);
            let chunk = bounds.and_then(|query| Some((query, self.codes.chunk(start)?)));
            in_vain = match chunk.filter(|_| scan.sees(end - 1)) {
                Some((query, chunk)) if scan.coded(start, query, chunk) * 2 > CHUNK => 4,
                Some(_) => 0,
                None => {
                    let seen = scan.plain(start..end);
                    if seen < end {
                        return u64::from(seen);
                    }
                    u32::saturating_sub(in_vain, 1)
                }
            };
            start = end;
        }
        u64::from(len)
    }

    fn row_and_norm(&self, row: u32) -> Option<(&[f32], f32)> {
        let entry = self.rows.get(row as usize)?;
        Some((self.vectors.row(row)?, entry.inverse_norm))
    }
}

/// Rows that are asked for ahead of the one in hand.
const AHEAD: usize = 4;

/// One search of a memtable.
struct Scan<'a, 'b, L, Live, Locate> {
    memtable: &'a Memtable,
    query: &'b Query,
    at: SeqNo,
    live: Live,
    locate: Locate,
    top: &'b mut TopK<L>,
    /// Rows of one chunk behind their bounds.
    found: Vec<(f32, u32)>,
}

impl<L, Live, Locate> Scan<'_, '_, L, Live, Locate>
where
    Live: FnMut(&Key) -> bool,
    Locate: FnMut(Row) -> L,
{
    /// Whether a row, and so every row before it, is visible.
    fn sees(&self, row: u32) -> bool {
        let entry = self.memtable.rows.get(row as usize);
        entry.is_some_and(|entry| entry.seqno <= self.at)
    }

    /// Offers the rows of a chunk that begins with row `start` as far as their bounds
    /// do not keep them out; how many were offered.
    fn coded(&mut self, start: u32, query: &CodedQuery, chunk: &CodedRows) -> u32 {
        let farthest = self.top.bound().unwrap_or(f32::INFINITY);
        let mut found = std::mem::take(&mut self.found);
        query.near(chunk, farthest, &mut found);
        let mut coming = found.iter();
        coming
            .by_ref()
            .take(AHEAD)
            .for_each(|(_, row)| self.ask_for(start + row));
        let mut offered = 0;
        for (bound, row) in &found {
            if self.top.excludes(*bound) {
                // So are all that follow.
                break;
            }
            if let Some((_, next)) = coming.next() {
                self.ask_for(start + next);
            }
            self.offer(start + row);
            offered += 1;
        }
        self.found = found;
        offered
    }

    /// Has the row on its way from memory when it is offered.
    fn ask_for(&self, row: u32) {
        self.memtable.vectors.prefetch(row);
    }

    /// Offers all rows up to one that is not visible, where the scan ends; that row.
    fn plain(&mut self, mut rows: Range<u32>) -> u32 {
        let end = rows.end;
        rows.find(|row| !self.sees(*row) || !self.offer(*row))
            .unwrap_or(end)
    }

    /// Offers a row by its distance; false if it is not there.
    #[inline]
    fn offer(&mut self, row: u32) -> bool {
        let memtable = self.memtable;
        let (Some(entry), Some(vector)) =
            (memtable.rows.get(row as usize), memtable.vectors.row(row))
        else {
            return false;
        };
        let distance = self.query.distance(vector, entry.inverse_norm);
        let newest = || entry.superseded.load(Ordering::Relaxed) > self.at.0;
        if self.top.admits(distance, &entry.key) && newest() && (self.live)(&entry.key) {
            let place = (self.locate)(Row(row));
            self.top.insert(distance, entry.key.clone(), place);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use esker_segment::Metric;
    use esker_segment::distance::inverse_norm;

    use super::*;
    use crate::memory::MemoryBudget;

    const DIMENSION: usize = 40;
    const KEYS: u64 = 1_500;
    const ROWS: u64 = 3 * KEYS;

    /// In heaps, so that many rows are about as far.
    fn vector(n: u64) -> Vec<f32> {
        let noise = |seed: u64| {
            let x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let x = (x ^ x >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            ((x ^ x >> 32) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let component = |i: u64| 3.0 + noise(n % 23 * 100 + i) + noise(9_000 + n * 64 + i) / 4.0;
        (0..DIMENSION as u64).map(component).collect()
    }

    fn filled(metric: Metric, budget: &std::sync::Arc<MemoryBudget>) -> Memtable {
        let memtable = Memtable::new(DIMENSION as u32, metric, budget.charge(0));
        for n in 0..ROWS {
            let vector = vector(n);
            let bytes: &[u8] = bytemuck::cast_slice(&vector);
            let key = (n % KEYS).to_be_bytes();
            assert!(memtable.put(SeqNo(n + 1), &key, bytes, None));
        }
        memtable
    }

    fn nearest(memtable: &Memtable, query: &Query, at: SeqNo, k: usize) -> (Vec<(f32, Key)>, u64) {
        let mut top = TopK::new(k);
        let distances = memtable.nearest(query, at, |_| true, |row| row, &mut top);
        let sorted = top.into_sorted().into_iter();
        (sorted.map(|c| (c.distance, c.key)).collect(), distances)
    }

    /// By the definition.
    fn wanted(query: &Query, at: SeqNo, k: usize) -> Vec<(f32, Key)> {
        let live = (0..ROWS.min(at.0)).filter(|n| n + KEYS >= ROWS.min(at.0));
        let distance = |n| {
            let vector = vector(n);
            query.distance(&vector, inverse_norm(&vector))
        };
        let mut all: Vec<(f32, Key)> = live
            .map(|n| (distance(n), Key::new(&(n % KEYS).to_be_bytes())))
            .collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        all.truncate(k);
        all
    }

    #[test]
    fn a_scan_by_codes_answers_exactly_at_every_seqno() {
        for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
            let budget = MemoryBudget::new(1 << 30);
            let memtable = filled(metric, &budget);
            assert_eq!(memtable.code_bytes(), 0);
            for n in 0..40 {
                let query = Query::new(metric, &vector(1_000_000 + n)).expect("valid");
                for at in [0, 1, 255, 256, 300, 2_000, ROWS] {
                    for k in [1, 10, 4_000] {
                        let (found, distances) = nearest(&memtable, &query, SeqNo(at), k);
                        assert_eq!(found, wanted(&query, SeqNo(at), k), "{metric} {at} {k}");
                        assert_eq!(distances, at);
                    }
                }
            }
            let codes = memtable.code_bytes();
            let chunks = ROWS as usize / CHUNK as usize;
            let least = chunks * CHUNK as usize * DIMENSION / 2;
            assert!((least..2 * least).contains(&codes), "{codes}");
            assert_eq!(budget.used(), memtable.charged_bytes());
            memtable.release_to_pins();
            assert_eq!(
                (budget.used(), budget.pinned()),
                (0, memtable.charged_bytes())
            );
            drop(memtable);
            assert_eq!(budget.pinned(), 0);
        }
    }

    #[test]
    fn bounds_keep_most_rows_out() {
        let budget = MemoryBudget::new(1 << 30);
        let memtable = filled(Metric::L2, &budget);
        let query = Query::new(Metric::L2, &vector(1_000_003)).expect("valid");
        for _ in 0..4 {
            nearest(&memtable, &query, SeqNo(ROWS), 10);
        }
        let coded = memtable.codes.query(&query).expect("codes");
        let mut top = TopK::new(10);
        let mut scan = Scan {
            memtable: &memtable,
            query: &query,
            at: SeqNo(KEYS),
            live: |_: &Key| true,
            locate: |row| row,
            top: &mut top,
            found: Vec::new(),
        };
        let whole = KEYS as u32 / CHUNK;
        let offered = (0..whole).map(|n| {
            let chunk = memtable.codes.chunk(n * CHUNK).expect("coded");
            scan.coded(n * CHUNK, &coded, chunk)
        });
        let offered: u32 = offered.sum();
        assert!((10..KEYS as u32 / 4).contains(&offered), "{offered}");
    }
}
