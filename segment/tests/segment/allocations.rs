//! Counts heap bytes per thread, so that a test can bound what hostile bytes cost.
#![allow(unsafe_code, reason = "a global allocator cannot be written safely")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static HELD: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: i64) {
    // A thread's last deallocations may come after its counters are gone.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        if bytes >= 0 {
            CALLS.with(|calls| calls.set(calls.get() + 1));
        }
        PEAK.with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What `f` returns, and the most heap bytes that this thread held in it beyond
/// those it held before.
pub(crate) fn peak<T>(f: impl FnOnce() -> T) -> (T, i64) {
    let before = HELD.get();
    PEAK.set(before);
    let value = f();
    (value, PEAK.get() - before)
}

/// What `f` returns, how many allocations this thread made in it, and how many
/// of their bytes it holds when `f` is over.
pub(crate) fn counted<T>(f: impl FnOnce() -> T) -> (T, u64, i64) {
    let (calls, held) = (CALLS.get(), HELD.get());
    let value = f();
    (value, CALLS.get() - calls, HELD.get() - held)
}

#[test]
fn allocations_are_counted_where_they_happen() {
    let (kept, calls, bytes) = counted(|| {
        let mut grown = Vec::<u64>::with_capacity(4);
        grown.extend([0; 5]);
        drop(vec![0u8; 999]);
        grown
    });
    assert_eq!((calls, bytes), (3, kept.capacity() as i64 * 8));
    assert_eq!(peak(|| drop(vec![0u8; 999])).1, 999);
}
