//! Codes of a memtable's rows, made by the searches that use them.
//!
//! Owns which rows have codes: whole chunks of [`CHUNK`] rows, in order, around the
//! mean of the first. A search makes some chunks more before it reads them, so that
//! writers pay nothing and a memtable that nobody searches has none. Invariants: a
//! chunk never changes; one search makes codes at a time and nobody waits for it;
//! they are charged to the memtable's account, apart from what the writer charges.
//! Must not know: keys, SeqNos, who is live.

use esker_segment::distance::Query;
use esker_segment::{CodedQuery, CodedRows, Metric, RowCodec};

use crate::memory::Charge;
use crate::sync::counter::AtomicUsize;
use crate::sync::{Mutex, OnceLock, Ordering};

/// Rows of a chunk.
pub(super) const CHUNK: u32 = 256;
/// Components that one search encodes at most, in whole chunks, at least one: one or two
/// milliseconds.
const ENCODED_BY_A_SEARCH: usize = 1 << 17;
/// A search encodes one of so many chunks that wait: where many search, each spends some
/// tenths of a millisecond; where few do, the codes do not fall far behind.
const WAITING_FOR_ONE: usize = 4;
/// Fewest components of vectors that have codes: below, a vector is hardly longer.
const LEAST_DIMENSION: usize = 32;

pub(super) struct MemtableCodes {
    codec: OnceLock<RowCodec>,
    chunks: boxcar::Vec<CodedRows>,
    bytes: AtomicUsize,
    /// Held by the search that makes codes.
    making: Mutex<Charge>,
}

impl MemtableCodes {
    pub(super) fn new(charge: Charge) -> Self {
        Self {
            codec: OnceLock::new(),
            chunks: boxcar::Vec::new(),
            bytes: AtomicUsize::new(0),
            making: Mutex::new(charge),
        }
    }

    /// Makes codes of the next chunks that are whole among the first `len` rows.
    /// `row` gives a row's vector and inverse norm.
    pub(super) fn make<'a>(
        &self,
        metric: Metric,
        dimension: usize,
        len: u32,
        row: impl Fn(u32) -> Option<(&'a [f32], f32)>,
    ) {
        let whole = (len / CHUNK) as usize;
        if dimension < LEAST_DIMENSION || self.chunks.count() >= whole {
            return;
        }
        // What only a snapshot holds will not be searched for long, and its memory is
        // the snapshots' to spend.
        let charge = self.making.try_lock().filter(|charge| !charge.is_pinned());
        let Some(charge) = charge else {
            return;
        };
        let most = ENCODED_BY_A_SEARCH / (CHUNK as usize * dimension);
        let wait = whole.saturating_sub(self.chunks.count());
        for _ in 0..(wait / WAITING_FOR_ONE).min(most).max(1) {
            let chunk = self.chunks.count();
            if chunk >= whole {
                break;
            }
            // Fits: `chunk` is below `len / CHUNK`.
            let first = chunk as u32 * CHUNK;
            let rows = || (first..first + CHUNK).map(|n| row(n).unwrap_or((&[], 1.0)));
            let codec = self
                .codec
                .get_or_init(|| RowCodec::around(metric, dimension as u32, rows()));
            let made = codec.encode(rows());
            let bytes = made.heap_bytes() + size_of::<CodedRows>();
            self.chunks.push(made);
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        charge.set(self.heap_bytes());
    }

    /// A query for the codes, if there are any.
    pub(super) fn query(&self, query: &Query) -> Option<CodedQuery> {
        self.codec.get()?.query(query)
    }

    /// The codes of the chunk that begins with row `first`.
    pub(super) fn chunk(&self, first: u32) -> Option<&CodedRows> {
        self.chunks.get((first / CHUNK) as usize)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed) + self.codec.get().map_or(0, RowCodec::heap_bytes)
    }

    pub(super) fn release_to_pins(&self) {
        self.making.lock().release_to_pins();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::memory::MemoryBudget;

    /// A search has little to do where codes are nearly complete, and more where they are
    /// not, up to a limit; in the end no chunk is left out.
    #[test]
    fn searches_catch_up_with_the_rows() {
        const DIMENSION: usize = 128;
        let vectors: Vec<Vec<f32>> = (0..CHUNK * 40)
            .map(|row| vec![row as f32; DIMENSION])
            .collect();
        let codes = MemtableCodes::new(MemoryBudget::new(1 << 30).charge(0));
        let made_of = |chunks: u32| {
            let before = codes.chunks.count();
            let row = |row: u32| Some((vectors.get(row as usize)?.as_slice(), 1.0));
            codes.make(Metric::L2, DIMENSION, chunks * CHUNK, row);
            codes.chunks.count() - before
        };
        assert_eq!([made_of(1), made_of(1), made_of(4)], [1, 0, 1]);
        // One of four that wait, at most as many as the limit says.
        assert_eq!([made_of(12), made_of(40), made_of(40)], [2, 4, 4]);
        while made_of(40) > 0 {}
        assert_eq!(codes.chunks.count(), 40);
    }
}
