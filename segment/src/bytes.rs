//! The bytes of a whole file: mapped, or owned in memory.
//!
//! Owns the only mapping of files in Esker. Invariants: the bytes start at an
//! address aligned to eight, so that tables and vectors can be viewed in place;
//! nothing is ever written through a mapping. Must not know: what the bytes mean.

use std::ops::Deref;
use std::sync::Arc;
use std::{fmt, fs, io};

use memmap2::Mmap;

/// Cheaply cloned bytes of a file.
#[derive(Clone)]
pub struct Bytes(Repr);

#[derive(Clone)]
enum Repr {
    Mapped(Arc<Mmap>),
    /// Words keep the first byte aligned; only the first `len` bytes count.
    Owned {
        words: Arc<[u64]>,
        len: usize,
    },
}

impl Bytes {
    /// Maps a whole file for reading.
    ///
    /// Nobody may truncate or write to the file while the bytes live, in this
    /// process or another: a truncation makes a later read raise SIGBUS, and bytes
    /// that change under a reference are undefined behaviour. No function can see
    /// to that, so that this one is not `unsafe` but a promise of its caller's: an
    /// engine maps files that it has finished and never writes again, in a
    /// directory that it holds locked, and whoever changes such a file in spite of
    /// that breaks the contract that the engine publishes.
    ///
    /// An empty file maps to no bytes. The length is the file's at this moment; who
    /// knows what it should be compares afterwards.
    ///
    /// # Errors
    /// Whatever the operating system reports; a file longer than `isize::MAX`.
    pub fn map(file: &fs::File) -> io::Result<Self> {
        // SAFETY: the map is read-only and shared, so that the file's bytes must stay
        // as they are while it lives: the caller's promise, documented above, because
        // no type can hold other processes to it. All else is the map's own: it starts
        // at a page, covers the file's length as asked of the descriptor, is refused
        // above `isize::MAX`, keeps its pages when the descriptor is closed, and is
        // unmapped with the last `Arc`, which every slice of it borrows from. Pages of
        // a file are initialised, and any bytes are `u8`.
        #[expect(unsafe_code, reason = "mapping a file cannot be expressed safely")]
        let map = unsafe { Mmap::map(file) }?;
        Ok(Self(Repr::Mapped(Arc::new(map))))
    }

    /// Copies bytes into aligned memory.
    #[must_use]
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self::build(bytes.len(), |copy| copy.copy_from_slice(&bytes))
    }

    /// `len` bytes of aligned memory, zero until `fill` has written them.
    pub(crate) fn build(len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        match Self::try_build(len, |bytes| {
            fill(bytes);
            Ok::<(), std::convert::Infallible>(())
        }) {
            Ok(bytes) => bytes,
            Err(never) => match never {},
        }
    }

    /// As [`Bytes::build`], for a `fill` that can fail.
    pub(crate) fn try_build<E>(
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut words: Arc<[u64]> = std::iter::repeat_n(0, len.div_ceil(8)).collect();
        if let Some(words) = Arc::get_mut(&mut words) {
            let bytes: &mut [u8] = bytemuck::must_cast_slice_mut(words);
            fill(bytes.get_mut(..len).unwrap_or_default())?;
        }
        Ok(Self(Repr::Owned { words, len }))
    }

    /// Whether they are a map of a file.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self.0, Repr::Mapped(_))
    }

    /// Heap bytes behind this value; a mapping has none.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Repr::Mapped(_) => 0,
            Repr::Owned { words, .. } => size_of_val::<[u64]>(words) + 16,
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Mapped(map) => map,
            Repr::Owned { words, len } => {
                let bytes: &[u8] = bytemuck::must_cast_slice(words);
                bytes.get(..*len).unwrap_or_default()
            }
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0 {
            Repr::Mapped(_) => "mapped",
            Repr::Owned { .. } => "owned",
        };
        write!(f, "Bytes({kind}, {} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::Bytes;
    use std::io::Write;

    #[test]
    fn owned_bytes_are_aligned_and_exact() {
        for len in [0, 1, 7, 8, 9, 64, if cfg!(miri) { 67 } else { 4099 }] {
            let source: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let bytes = Bytes::from_vec(source.clone());
            assert_eq!(&bytes[..], &source[..]);
            assert!(bytes.as_ptr().addr().is_multiple_of(8));
            assert!(bytes.heap_bytes() >= len);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "no mmap under Miri")]
    fn a_mapping_shows_the_file_and_owns_no_heap() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"vectors").unwrap();
        let bytes = Bytes::map(&file).unwrap();
        drop(file);
        assert_eq!(&bytes[..], b"vectors");
        assert_eq!(bytes.heap_bytes(), 0);
        assert!(
            Bytes::map(&tempfile::tempfile().unwrap())
                .unwrap()
                .is_empty()
        );
    }
}
