//! A hint to the processor that memory will be read soon.
//!
//! Invariant: a hint changes no result, and touches no memory that the caller
//! has not lent. `diskann_vector`'s own hints exist only in builds for AVX2.

/// Bytes of a cache line on the processors that have the hint.
const LINE: usize = 64;

/// Lines asked for at most: beyond that the processor's own streams are ahead.
const MAX_LINES: usize = 16;

/// Asks for the cache lines of `bytes`, at most [`MAX_LINES`] of them.
#[inline(always)]
pub(crate) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(LINE).take(MAX_LINES) {
        // SAFETY: the address lies in a live slice; the hint needs SSE, which
        // every x86-64 has, and reads nothing as far as the program can see.
        #[expect(unsafe_code, reason = "the hint takes a pointer")]
        unsafe {
            core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(
                line.as_ptr().cast(),
            );
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, LINE, MAX_LINES);
}
