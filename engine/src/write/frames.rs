//! Memory of frames that were written, for those to come.
//!
//! Owns a few buffers between two batches. Invariants: a bounded number of bounded
//! size; what a buffer held before is never read. A batch of half a megabyte in fresh
//! memory costs more in page faults than in copying. Must not know: what frames mean.

use esker_wal::FrameBuf;

use crate::sync::Mutex;

/// Buffers that are kept: those of a few writers.
const KEPT: usize = 4;
/// The largest buffer that is kept, in bytes.
const LARGEST: usize = 2 << 20;

/// The buffers.
#[derive(Default)]
pub(crate) struct SpareFrames(Mutex<Vec<Vec<u8>>>);

impl SpareFrames {
    /// An empty frame, in memory that an earlier one had if there is any.
    pub(crate) fn take(&self, kind: u8) -> FrameBuf {
        match self.0.lock().pop() {
            Some(memory) => FrameBuf::reusing(kind, memory),
            None => FrameBuf::new(kind),
        }
    }

    /// Keeps the memory of a frame that nobody needs any more.
    pub(crate) fn give(&self, frame: FrameBuf) {
        let memory = frame.into_memory();
        let mut spare = self.0.lock();
        if spare.len() < KEPT && memory.capacity() <= LARGEST {
            spare.push(memory);
        }
    }

    /// Bytes kept now.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.0.lock().iter().map(Vec::capacity).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, LARGEST, SpareFrames};
    use esker_wal::FrameBuf;

    fn frame(len: usize) -> FrameBuf {
        let mut frame = FrameBuf::new(1);
        frame.reserve(len);
        frame.extend_from_slice(b"what was there before");
        frame.seal();
        frame
    }

    #[test]
    fn a_few_of_bounded_size_are_kept_and_come_back_empty() {
        let spare = SpareFrames::default();
        assert!(spare.take(7).payload().is_empty());
        (0..2 * KEPT).for_each(|_| spare.give(frame(1 << 10)));
        let kept = spare.heap_bytes();
        assert!((KEPT << 10..KEPT << 12).contains(&kept), "{kept}");
        for _ in 0..KEPT {
            let mut taken = spare.take(7);
            assert!(taken.payload().is_empty());
            taken.extend_from_slice(b"new");
            taken.seal();
            assert_eq!(taken.payload(), b"new");
        }
        assert_eq!(spare.heap_bytes(), 0);
        spare.give(frame(LARGEST + 1));
        assert_eq!(spare.heap_bytes(), 0);
    }
}
