//! A small real file system that can be filled up.
//!
//! Owns mounting and unmounting. Invariant: the mount goes with the value, whatever
//! the test did. Must not know: what is written to it.

use std::path::Path;
use std::process::Command;

/// A mounted tmpfs.
pub struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// Mounts one of this size, in mount's words; `None` where that is not allowed.
    #[must_use]
    pub fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().ok()?;
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .output();
        output
            .is_ok_and(|output| output.status.success())
            .then_some(Self(dir))
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a handle may still be open where a test failed.
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}
