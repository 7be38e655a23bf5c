//! What the disk itself can do: the yardstick for ingest.
//!
//! Owns a loop of plain writes to one growing file, each as large as one batch's
//! rows, each followed by `fdatasync` under `sync`. That is what a host without
//! an engine would do at best. Invariant: it writes at least the bytes of a
//! batch's keys and vectors and no more, so it is never slower by its own doing.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use super::random::Random;
use crate::failure::Failure;

/// Most bytes of one measurement. The rate does not change with more, and a
/// large run should not need twice its disk.
const MAX_BYTES: u64 = 1 << 30;

/// The shape of the writes to be measured.
pub(crate) struct RawWrites {
    /// Rows of the whole run.
    pub(crate) rows: u64,
    /// Rows in one write.
    pub(crate) batch: u64,
    /// Bytes of one row: its key and its vector.
    pub(crate) row_bytes: u64,
    /// Whether each write is followed by `fdatasync`.
    pub(crate) sync: bool,
}

impl RawWrites {
    /// Rows of one measurement: the run's, within [`MAX_BYTES`], at least one write.
    fn measured_rows(&self) -> u64 {
        self.rows.min((MAX_BYTES / self.row_bytes).max(self.batch))
    }

    /// Writes a file in `dir` and removes it; rows written in a second.
    pub(crate) fn measure(&self, dir: &Path) -> Result<f64, Failure> {
        let path = dir.join("raw-writes");
        let result = self
            .write(&path)
            .map_err(|error| Failure::file("writing", &path, &error));
        // Before the error is looked at: a full disk should not stay full.
        let removed = std::fs::remove_file(&path);
        let elapsed = result?;
        removed.map_err(|error| Failure::file("removing", &path, &error))?;
        Ok(self.measured_rows() as f64 / elapsed.as_secs_f64())
    }

    fn write(&self, path: &Path) -> std::io::Result<Duration> {
        let too_large = |_| std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        let largest = usize::try_from(self.batch.min(self.rows) * self.row_bytes);
        let bytes = noise(largest.map_err(too_large)?);
        let mut file = File::create(path)?;
        let started = Instant::now();
        let mut left = self.measured_rows() * self.row_bytes;
        while left > 0 {
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            file.write_all(bytes.get(..len).unwrap_or(&bytes))?;
            if self.sync {
                file.sync_data()?;
            }
            left -= len as u64;
        }
        Ok(started.elapsed())
    }
}

/// Bytes that neither a disk nor a filesystem compresses.
fn noise(len: usize) -> Vec<u8> {
    let mut random = Random::new(1);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_writes_every_row_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        // The last write is a partial batch.
        let raw = RawWrites {
            rows: 25,
            batch: 10,
            row_bytes: 40,
            sync: true,
        };
        let path = dir.path().join("seen");
        raw.write(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1000);
        std::fs::remove_file(&path).unwrap();
        assert!(raw.measure(dir.path()).unwrap() > 0.0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_large_run_is_measured_by_a_part() {
        let raw = RawWrites {
            rows: u64::MAX,
            batch: 10,
            row_bytes: 1 << 20,
            sync: false,
        };
        assert_eq!(raw.measured_rows(), 1024);
        let raw = RawWrites {
            rows: 50,
            batch: 10,
            row_bytes: 1 << 30,
            sync: false,
        };
        assert_eq!(raw.measured_rows(), 10, "never less than one write");
    }
}
