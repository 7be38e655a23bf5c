//! Memory of searches that outlives each of them.
//!
//! Owns the buffers that searches lend one another, so that in the steady state
//! only the answer is allocated. Invariant: no more buffers are kept than
//! searches ran at once, nor more bytes than [`MOST_KEPT`]. Must not know: what is
//! in them.

use esker_segment::{Row, SearchScratch};

use crate::sync::Mutex;

/// Bytes of all buffers that wait: those of many usual searches, or of a few with
/// an L of thousands.
const MOST_KEPT: usize = 8 << 20;

/// The buffers of one search.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) search: SearchScratch,
    /// Live rows of the segment in hand, nearest first.
    pub(super) found: Vec<(f32, Row)>,
}

impl Scratch {
    fn heap_bytes(&self) -> usize {
        self.search.heap_bytes() + self.found.capacity() * size_of::<(f32, Row)>()
    }
}

/// Buffers that no search uses now.
#[derive(Default)]
pub(crate) struct ScratchPool(Mutex<Vec<Scratch>>);

impl ScratchPool {
    pub(super) fn take(&self) -> Scratch {
        self.0.lock().pop().unwrap_or_default()
    }

    pub(super) fn give_back(&self, scratch: Scratch) {
        let mut waiting = self.0.lock();
        let kept: usize = waiting.iter().map(Scratch::heap_bytes).sum();
        if kept + scratch.heap_bytes() <= MOST_KEPT {
            waiting.push(scratch);
        }
    }

    /// Bytes of heap that wait here.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.0.lock().iter().map(Scratch::heap_bytes).sum()
    }
}
