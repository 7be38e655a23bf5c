//! Large arrays, in memory of their own.
//!
//! Owns anonymous pages, huge ones where the system has them: what is read at
//! random places spends much of its time on finding small pages
//! (docs/benchmarks.md). An allocator does not see them, so they are counted here.
//! Invariants: zeroed at first; given back to the system at once when dropped, and
//! counted exactly as long. Must not know: what the numbers mean.

use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytemuck::Pod;
use memmap2::MmapMut;

use crate::memory::{Held, Meter};

/// Memory comes in pages of this many bytes or more.
const PAGE: usize = 4096;

/// Bytes of all arrays of the process.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// Bytes of all arrays that the process holds now, in whole pages.
pub(crate) fn live_bytes() -> usize {
    LIVE.load(Ordering::Relaxed)
}

pub(crate) struct Pages<T> {
    map: MmapMut,
    len: usize,
    _held: Option<Held>,
    element: PhantomData<T>,
}

impl<T> Drop for Pages<T> {
    fn drop(&mut self) {
        LIVE.fetch_sub(pages_of(self.map.len()), Ordering::Relaxed);
    }
}

/// What an array of so many bytes takes.
pub(crate) const fn pages_of(bytes: usize) -> usize {
    bytes.saturating_add(PAGE - 1) / PAGE * PAGE
}

impl<T: Pod> Pages<T> {
    /// An array of `len` zeroes.
    ///
    /// # Errors
    /// `OutOfMemory`, or whatever else the system reports.
    pub(crate) fn zeroed(len: usize) -> io::Result<Self> {
        let bytes = len
            .checked_mul(size_of::<T>())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let map = MmapMut::map_anon(bytes.max(1))?;
        LIVE.fetch_add(pages_of(map.len()), Ordering::Relaxed);
        // A wish: without it the array is only slower. Miri does not know it.
        #[cfg(all(target_os = "linux", not(miri)))]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self {
            map,
            len,
            _held: None,
            element: PhantomData,
        })
    }

    /// The same, counted by a meter as long as it lives.
    pub(crate) fn metered(mut self, meter: Option<&Meter>) -> Self {
        self._held = meter.map(|meter| meter.hold(self.bytes()));
        self
    }

    /// Bytes that it takes, in whole pages.
    pub(crate) fn bytes(&self) -> usize {
        pages_of(self.map.len())
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[T] {
        let bytes = self.map.get(..self.len * size_of::<T>());
        // Maps start on pages, which is alignment enough for any number.
        bytemuck::try_cast_slice(bytes.unwrap_or_default()).unwrap_or_default()
    }

    /// Forgets what is behind the first `len`; its memory stays until the drop.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    #[inline]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        let bytes = self.map.get_mut(..self.len * size_of::<T>());
        bytemuck::try_cast_slice_mut(bytes.unwrap_or_default()).unwrap_or_default()
    }
}

impl<T> std::fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pages({} bytes)", self.map.len())
    }
}
