//! Append-only rows of `f32` that readers scan while one writer appends.
//!
//! Owns the blocks of a memtable's vectors. Invariants: a block never moves and
//! is freed only with the last handle; components below the published length
//! never change; the length is published after the components (release, read by
//! acquire), so a reader sees whole rows or none. Blocks hold a power of two of
//! rows, about 64 KiB at first and doubling up to 4 MiB: an idle collection
//! costs little and a busy one allocates seldom. Must not know: keys, SeqNos.
//!
//! Components are written as relaxed atomics, which the compiler checks; only the
//! view of published ones as `f32` takes `unsafe`, and nobody outside this module
//! has to uphold anything for it.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::prefetch::prefetch;

/// Target size of the first block. Miri follows every cell of a block at each
/// borrow of it.
const FIRST_BLOCK_BYTES: usize = if cfg!(miri) { 1 << 10 } else { 64 << 10 };
/// Blocks double up to this size; a block of one huge row may exceed it.
const LARGEST_BLOCK_BYTES: usize = 4 << 20;
/// Blocks in the first shelf of the directory; every further shelf doubles.
const FIRST_SHELF: usize = 8;
/// Enough shelves for a block per row of the longest arena.
const SHELVES: usize = 30;
/// Most rows of an arena: row numbers stay below `u32::MAX`.
const MAX_ROWS: u32 = u32::MAX - 1;

/// The only writer of an arena. It can read too; [`AppendRows::reader`] makes
/// handles for other threads.
#[derive(Debug)]
pub struct AppendRows {
    shared: Arc<Shared>,
}

/// A reader of an arena: cheap to clone, never blocks, never sees half a row.
#[derive(Clone, Debug)]
pub struct RowsReader {
    shared: Arc<Shared>,
}

impl AppendRows {
    /// An empty arena of rows with `dimension` components. It allocates no
    /// block before the first row.
    #[must_use]
    pub fn new(dimension: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                shape: Shape::of(dimension),
                len: AtomicU32::new(0),
                allocated: AtomicUsize::new(0),
                shelves: [const { OnceLock::new() }; SHELVES],
            }),
        }
    }

    /// A handle for reading; it keeps the rows alive.
    #[must_use]
    pub fn reader(&self) -> RowsReader {
        RowsReader {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Appends a row and publishes it. False, with nothing changed, when the
    /// number of components is not the dimension or all row numbers are used.
    pub fn push(&mut self, row: &[f32]) -> bool {
        self.push_le_bytes(bytemuck::must_cast_slice(row))
    }

    /// As [`AppendRows::push`], from the little-endian bytes of the components,
    /// at any alignment.
    pub fn push_le_bytes(&mut self, row: &[u8]) -> bool {
        let shared = &*self.shared;
        let len = shared.len.load(Ordering::Relaxed);
        let dimension = shared.shape.dimension;
        if row.len() != dimension.saturating_mul(size_of::<f32>()) || len >= MAX_ROWS {
            return false;
        }
        let (block, slot) = shared.shape.locate(len);
        let Some(cells) = shared
            .block_or_new(block)
            .and_then(|cells| cells.get(slot * dimension..(slot + 1) * dimension))
        else {
            return false;
        };
        for (cell, component) in cells.iter().zip(row.as_chunks().0) {
            cell.store(u32::from_le_bytes(*component), Ordering::Relaxed);
        }
        // The row is whole, and nothing below the new length is written again: what
        // `Shared::rows` relies on.
        shared.len.store(len + 1, Ordering::Release);
        true
    }

    /// The number of rows.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a count of rows, not a collection"
    )]
    pub fn len(&self) -> u32 {
        self.shared.len()
    }

    /// The components of a row, `None` at or beyond the length.
    #[must_use]
    pub fn row(&self, row: u32) -> Option<&[f32]> {
        self.shared.row(row)
    }

    /// Heap bytes of all blocks, filled or not.
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        self.shared.allocated.load(Ordering::Relaxed)
    }
}

impl RowsReader {
    /// The number of rows published so far.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a count of rows, not a collection"
    )]
    pub fn len(&self) -> u32 {
        self.shared.len()
    }

    /// The number of components of a row.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.shared.shape.dimension
    }

    /// The components of a row, `None` at or beyond the length.
    #[inline]
    #[must_use]
    pub fn row(&self, row: u32) -> Option<&[f32]> {
        self.shared.row(row)
    }

    /// Asks for a row's memory ahead of its use.
    pub fn prefetch(&self, row: u32) {
        prefetch(bytemuck::cast_slice(self.row(row).unwrap_or_default()));
    }

    /// The rows published so far as runs of contiguous memory, in order: the
    /// first row's number and the components of as many rows as follow it in
    /// one block. A scan pays the directory once per block, not once per row.
    pub fn runs(&self) -> impl Iterator<Item = (u32, &[f32])> {
        let len = self.shared.len();
        let mut next = 0;
        std::iter::from_fn(move || {
            let (block, _) = self.shared.shape.locate(next);
            let rows = next..len.min(next.saturating_add(self.shared.shape.rows_in(block)));
            let run = (!rows.is_empty()).then(|| self.shared.rows(rows.clone()))??;
            let first = std::mem::replace(&mut next, rows.end);
            Some((first, run))
        })
    }

    /// Heap bytes of all blocks, filled or not.
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        self.shared.allocated.load(Ordering::Relaxed)
    }
}

struct Shared {
    shape: Shape,
    /// Rows that readers may see.
    len: AtomicU32,
    allocated: AtomicUsize,
    /// Blocks by number; each shelf has twice the places of the one before, so
    /// that the directory grows without ever moving.
    shelves: [OnceLock<Box<[OnceLock<Block>]>>; SHELVES],
}

/// The bits of components, zero until they are written.
type Block = Box<[AtomicU32]>;

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows of {}", self.len(), self.shape.dimension)
    }
}

impl Shared {
    #[inline]
    fn len(&self) -> u32 {
        self.len.load(Ordering::Acquire)
    }

    #[inline]
    fn row(&self, row: u32) -> Option<&[f32]> {
        if row >= self.len() {
            return None;
        }
        self.rows(row..row + 1)
    }

    /// The components of published rows that lie in one block; `None` if they
    /// do not. The caller has read a length of at least `rows.end`.
    #[inline]
    fn rows(&self, rows: Range<u32>) -> Option<&[f32]> {
        debug_assert!(rows.end <= self.len.load(Ordering::Relaxed));
        let (block, slot) = self.shape.locate(rows.start);
        let (shelf, place) = shelf_of(block);
        let cells = self.shelves.get(shelf)?.get()?.get(place)?.get()?;
        let start = slot * self.shape.dimension;
        let cells = cells.get(start..start + rows.len() * self.shape.dimension)?;
        #[expect(
            unsafe_code,
            reason = "a published row is immutable, which the type cannot say"
        )]
        // SAFETY: pointer and length are those of a slice in bounds, initialised from
        // its allocation on, and borrowed from `self` as the result is. `AtomicU32`
        // has the size and alignment of `u32`, hence of `f32`, of which every bit
        // pattern is valid; the assertion below holds the compiler to it. No cell
        // changes while it is borrowed as `f32`: cells are stored to by `push_le_bytes`
        // alone, which takes `&mut` of the one handle that writes and stores to the
        // row at the length only, while callers of this private function have read
        // (acquire) a length above these rows. That read also orders the stores of
        // these rows, made before the length was released, before any read here.
        let floats = unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), cells.len()) };
        Some(floats)
    }

    /// The block, allocated and zeroed if this is its first row. Writer only.
    fn block_or_new(&self, block: usize) -> Option<&Block> {
        let (shelf, place) = shelf_of(block);
        let shelf = self.shelves.get(shelf)?.get_or_init(|| {
            let places = FIRST_SHELF << shelf;
            self.allocated
                .fetch_add(places * size_of::<OnceLock<Block>>(), Ordering::Relaxed);
            (0..places).map(|_| OnceLock::new()).collect()
        });
        Some(shelf.get(place)?.get_or_init(|| {
            let cells = self.shape.rows_in(block) as usize * self.shape.dimension;
            self.allocated
                .fetch_add(cells * size_of::<f32>(), Ordering::Relaxed);
            bytemuck::allocation::zeroed_slice_box(cells)
        }))
    }
}

const _: () = assert!(
    size_of::<AtomicU32>() == size_of::<f32>() && align_of::<AtomicU32>() >= align_of::<f32>()
);

/// The shelf that holds a block, and the place in it.
#[inline]
fn shelf_of(block: usize) -> (usize, usize) {
    let shelf = ((block / FIRST_SHELF) + 1).ilog2() as usize;
    (shelf, block - FIRST_SHELF * ((1 << shelf) - 1))
}

/// Which rows lie in which block, in powers of two so that finding one is shifts.
#[derive(Clone, Copy, Debug)]
struct Shape {
    dimension: usize,
    /// log2 of the rows of the first block.
    first: u32,
    /// How many blocks double before the size stays.
    doublings: u32,
}

impl Shape {
    fn of(dimension: usize) -> Self {
        let row_bytes = dimension.max(1).saturating_mul(size_of::<f32>());
        let first = (FIRST_BLOCK_BYTES / row_bytes).max(1).ilog2();
        let largest = (LARGEST_BLOCK_BYTES / row_bytes).max(1).ilog2();
        Self {
            dimension,
            first,
            doublings: largest - first,
        }
    }

    /// The block of a row and the row's slot in it.
    #[inline]
    fn locate(self, row: u32) -> (usize, usize) {
        let unit = row >> self.first;
        // Block b < doublings starts at unit 2^b - 1.
        let block = (unit + 1).ilog2();
        if block < self.doublings {
            let start = ((1 << block) - 1) << self.first;
            return (block as usize, (row - start) as usize);
        }
        let beyond = row - (((1 << self.doublings) - 1) << self.first);
        let size = self.first + self.doublings;
        let block = self.doublings + (beyond >> size);
        (block as usize, (beyond & ((1 << size) - 1)) as usize)
    }

    #[inline]
    fn rows_in(self, block: usize) -> u32 {
        let doubled = block.min(self.doublings as usize) as u32;
        1 << (self.first + doubled)
    }
}

#[cfg(test)]
mod tests {
    use super::{AppendRows, FIRST_BLOCK_BYTES, FIRST_SHELF, LARGEST_BLOCK_BYTES, Shape, shelf_of};
    use std::thread;

    fn row_of(row: u32, dimension: usize) -> Vec<f32> {
        (0..dimension as u32)
            .map(|i| (row * 31 + i) as f32)
            .collect()
    }

    #[test]
    fn every_row_has_its_own_slot_and_blocks_are_full() {
        let rows = if cfg!(miri) { 200 } else { 300_000 };
        for dimension in [1, 3, 16, 100, 768, 4096, 20_000, 65_535] {
            let shape = Shape::of(dimension);
            let (mut block, mut slot) = (0, 0);
            for row in 0..rows {
                assert_eq!(
                    shape.locate(row),
                    (block, slot),
                    "dimension {dimension} row {row}"
                );
                slot += 1;
                if slot == shape.rows_in(block) as usize {
                    (block, slot) = (block + 1, 0);
                }
            }
            let bytes = |block| shape.rows_in(block) as usize * dimension * 4;
            assert!(bytes(0) <= FIRST_BLOCK_BYTES.max(dimension * 4));
            assert!(
                (LARGEST_BLOCK_BYTES / 2..=LARGEST_BLOCK_BYTES).contains(&bytes(1000)),
                "{dimension}: {}",
                bytes(1000)
            );
            // The last row that a memtable can have is still in the directory.
            assert!(shelf_of(shape.locate(u32::MAX - 2).0).0 < super::SHELVES);
        }
    }

    #[test]
    fn shelves_number_blocks_without_gaps() {
        let (mut shelf, mut place) = (0, 0);
        for block in 0..if cfg!(miri) { 1_000 } else { 100_000 } {
            assert_eq!(shelf_of(block), (shelf, place));
            place += 1;
            if place == FIRST_SHELF << shelf {
                (shelf, place) = (shelf + 1, 0);
            }
        }
    }

    #[test]
    fn rows_come_back_bit_for_bit() {
        let mut rows = AppendRows::new(3);
        assert!(rows.push(&[1.0, -0.0, f32::MIN_POSITIVE]));
        // Unaligned bytes, and a NaN with a payload.
        let mut bytes = vec![0xAA];
        let odd = [f32::from_bits(0x7FC0_1234), 2.0, 3.0];
        odd.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
        assert!(rows.push_le_bytes(&bytes[1..]));
        assert!(!rows.push(&[1.0, 2.0]), "wrong dimension");
        assert!(!rows.push_le_bytes(&bytes), "wrong length");
        let reader = rows.reader();
        drop(rows);
        assert_eq!(reader.len(), 2);
        assert_eq!(reader.row(0).unwrap()[1].to_bits(), (-0.0f32).to_bits());
        assert_eq!(reader.row(1).unwrap()[0].to_bits(), 0x7FC0_1234);
        assert_eq!(reader.row(2), None);
        assert_eq!(reader.row(u32::MAX), None);
    }

    #[test]
    fn a_dimension_beyond_memory_takes_no_row() {
        for dimension in [usize::MAX, (usize::MAX >> 2) + 1, (usize::MAX >> 2) + 2] {
            let mut rows = AppendRows::new(dimension);
            for components in [0, 1, 2] {
                assert!(!rows.push(&[1.0, 2.0][..components]), "{dimension}");
            }
            assert_eq!((rows.len(), rows.row(0)), (0, None));
            assert_eq!(rows.allocated_bytes(), 0);
        }
        // Nor does a row of nothing need memory.
        let mut rows = AppendRows::new(0);
        assert!(rows.push(&[]) && rows.push(&[]) && !rows.push(&[1.0]));
        assert_eq!((rows.row(1), rows.row(2)), (Some(&[][..]), None));
        let all: Vec<_> = rows.reader().runs().map(|(_, run)| run.len()).collect();
        assert_eq!(all, [0]);
    }

    #[test]
    fn memory_starts_small_and_is_counted() {
        let mut rows = AppendRows::new(16);
        assert_eq!(rows.allocated_bytes(), 0);
        rows.push(&[0.5; 16]);
        let first = rows.allocated_bytes();
        let block = FIRST_BLOCK_BYTES;
        assert!((block..block + (2 << 10)).contains(&first), "{first}");
        for _ in 0..block / (16 * 4) {
            rows.push(&[0.5; 16]);
        }
        assert_eq!(rows.allocated_bytes(), first + 2 * block);
    }

    #[test]
    fn runs_are_all_rows_in_order() {
        const DIMENSION: usize = if cfg!(miri) { 40 } else { 1000 };
        let mut rows = AppendRows::new(DIMENSION);
        let reader = rows.reader();
        assert_eq!(reader.runs().count(), 0);
        for row in 0..if cfg!(miri) { 14 } else { 100 } {
            rows.push(&row_of(row, DIMENSION));
            let mut seen = 0;
            for (first, run) in reader.runs() {
                assert_eq!(first, seen);
                for vector in run.chunks_exact(DIMENSION) {
                    assert_eq!(vector, row_of(seen, DIMENSION));
                    seen += 1;
                }
            }
            assert_eq!(seen, row + 1);
        }
    }

    #[test]
    fn readers_see_whole_rows_while_the_writer_appends() {
        // Long rows, so that writing one takes a while.
        const DIMENSION: usize = if cfg!(miri) { 65 } else { 1025 };
        let total = if cfg!(miri) { 8 } else { 20_000 };
        let mut rows = AppendRows::new(DIMENSION);
        thread::scope(|scope| {
            for _ in 0..3 {
                let reader = rows.reader();
                scope.spawn(move || {
                    loop {
                        let len = reader.len();
                        // The newest first, its end first: what is written last.
                        for row in (len.saturating_sub(3)..len).rev() {
                            let last = reader.row(row).and_then(|row| row.last()).copied();
                            assert_eq!(last, Some((row * 31 + DIMENSION as u32 - 1) as f32));
                            assert_eq!(reader.row(row).unwrap(), row_of(row, DIMENSION));
                        }
                        if len == total {
                            return;
                        }
                        std::hint::spin_loop();
                    }
                });
            }
            for row in 0..total {
                assert!(rows.push(&row_of(row, DIMENSION)));
            }
        });
        assert_eq!(rows.row(total - 1).unwrap(), row_of(total - 1, DIMENSION));
    }
}
