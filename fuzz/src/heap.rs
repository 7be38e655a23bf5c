//! Counts heap bytes per thread, so that what hostile bytes cost can be bounded.
//!
//! Owns the allocator of everything that links this crate, fuzz targets and tests
//! alike, and the bound of an open. Under a sanitizer each call still reaches the
//! sanitizer's allocator, because that is what the system's then is. Invariants:
//! nothing is allocated here; another thread's bytes are not counted. Must not know:
//! what is opened.
#![allow(unsafe_code, reason = "a global allocator cannot be written safely")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

struct Counting;

thread_local! {
    static HELD: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: i64) {
    // A thread's last deallocations may come after its counters are gone.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        PEAK.with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system's allocator with the arguments that it came
// with, and its answer is passed on as it is; counting neither allocates nor unwinds.
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

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // For a moment there may be both.
        count(size as i64);
        count(-(layout.size() as i64));
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What `f` returns, and the most heap bytes that this thread held in it beyond
/// those it held before.
pub fn peak<T>(f: impl FnOnce() -> T) -> (T, u64) {
    let before = HELD.get();
    let outer = PEAK.replace(before);
    let value = f();
    let most = PEAK.get();
    PEAK.set(outer.max(most));
    (value, (most - before).unsigned_abs())
}

/// The most heap that opening files of so many bytes in all may take.
#[must_use]
pub fn open_bound(file_bytes: u64) -> u64 {
    2 * file_bytes + (16 << 20)
}

/// What no call of [`bounded`] has exceeded, beside twice its files.
static MOST: AtomicU64 = AtomicU64::new(0);

/// The most heap that anything [`bounded`] took until now, beside twice its files.
#[must_use]
pub fn most() -> u64 {
    MOST.load(Ordering::Relaxed)
}

/// What `open` returns.
///
/// # Panics
/// If it took more than the bound, or more than `fixed` beside twice the files:
/// what small files need lies far below the bound, and a hostile length should not
/// hide in the difference.
pub fn bounded<T>(file_bytes: u64, fixed: u64, open: impl FnOnce() -> T) -> T {
    let (value, bytes) = peak(open);
    MOST.fetch_max(bytes.saturating_sub(2 * file_bytes), Ordering::Relaxed);
    let most = open_bound(file_bytes).min(2 * file_bytes + fixed);
    assert!(
        bytes <= most,
        "{bytes} bytes of heap for {file_bytes} bytes of files; {most} are allowed"
    );
    value
}
