//! Asking the system to begin writing, without waiting for it.
//!
//! Owns one call of Linux that no safe interface of our dependencies has. Invariant: it
//! is a hint; a sync afterwards writes what is left, waits for all of it and reports
//! every error, those of writes that were begun here among them. Must not know: what
//! the bytes are, why they are to be synced.

use std::fs::File;

/// Begins to write `len` dirty bytes from `offset` on to the device.
#[cfg(target_os = "linux")]
pub(super) fn begin_writeback(file: &File, offset: u64, len: u64) {
    use std::os::fd::AsRawFd;

    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return;
    };
    #[expect(
        unsafe_code,
        reason = "the system call has no safe wrapper in our dependencies"
    )]
    // SAFETY: the call takes numbers alone and touches no memory of this process; the
    // descriptor is open for as long as `file` is borrowed. What it returns makes no
    // difference: without the waiting flags it leaves the file's error state, which the
    // next sync reports, as it is.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE);
    }
}

/// Elsewhere a sync does all of it.
#[cfg(not(target_os = "linux"))]
pub(super) fn begin_writeback(_file: &File, _offset: u64, _len: u64) {}
