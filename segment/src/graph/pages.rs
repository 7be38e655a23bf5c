//! Large arrays of a build, in memory of their own.
//!
//! Owns anonymous pages, huge ones where the system has them: rows are read at
//! random, and with small pages much of that time is spent on finding them
//! (docs/benchmarks.md). Given back to the system at once when dropped.
//! Invariant: zeroed at first. Must not know: what the numbers mean.

use std::io;
use std::marker::PhantomData;

use bytemuck::Pod;
use memmap2::MmapMut;

pub(crate) struct Pages<T> {
    map: MmapMut,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Pod> Pages<T> {
    /// An array of `len` zeroes.
    pub(crate) fn zeroed(len: usize) -> io::Result<Self> {
        let bytes = len
            .checked_mul(size_of::<T>())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let map = MmapMut::map_anon(bytes.max(1))?;
        // A wish: without it the array is only slower. Miri does not know it.
        #[cfg(all(target_os = "linux", not(miri)))]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self {
            map,
            len,
            element: PhantomData,
        })
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
