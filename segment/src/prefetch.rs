//! A hint to the processor that memory will be read soon.
//!
//! Invariant: a hint changes no result, and touches no memory that the caller
//! has not lent. `diskann_vector`'s own hints exist only in builds for AVX2.

/// Bytes of a cache line on the processors that have the hint.
const LINE: usize = 64;

/// Lines asked for at most: beyond that the processor's own streams are ahead.
const MAX_LINES: usize = 16;

/// Asks for the cache lines of `bytes`, at most [`MAX_LINES`] of them and one more.
#[inline(always)]
pub(crate) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        let asked = bytes.get(..LINE * MAX_LINES).unwrap_or(bytes);
        // Rows begin anywhere in a line, so their last byte may be in one more than
        // they have chunks of a line's length.
        for chunk in asked
            .chunks(LINE)
            .chain(asked.last_chunk::<1>().map(<[u8; 1]>::as_slice))
        {
            // SAFETY: the hint needs SSE, which every x86-64 has. It reads nothing as
            // far as the program can see and faults nowhere, so that any address would
            // do; this one is that of a chunk, never empty, of a slice that is borrowed
            // here. A page of a map that cannot be read stays unread: no signal comes
            // of it.
            #[expect(unsafe_code, reason = "the hint takes a pointer")]
            unsafe {
                core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(
                    chunk.as_ptr().cast(),
                );
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, LINE, MAX_LINES);
}

#[cfg(test)]
mod tests {
    use super::{LINE, MAX_LINES, prefetch};

    #[test]
    fn a_hint_takes_any_slice_and_changes_nothing() {
        let bytes: Vec<u8> = (0..LINE * (MAX_LINES + 2)).map(|i| i as u8).collect();
        for range in [0..0, 0..1, 1..LINE, 3..LINE + 4, 7..bytes.len()] {
            prefetch(&bytes[range]);
        }
        prefetch(&[]);
        assert!(bytes.iter().enumerate().all(|(i, &byte)| byte == i as u8));
    }
}
