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
/// Components that one search encodes, in whole chunks, at least one: some tenths of a
/// millisecond.
const ENCODED_BY_A_SEARCH: usize = 1 << 15;
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
        let chunks = ENCODED_BY_A_SEARCH / (CHUNK as usize * dimension);
        for _ in 0..chunks.max(1) {
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
