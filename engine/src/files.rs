//! Names of files, and the few multi-call effects on them.
//!
//! Owns which names are this engine's own, and the one way in which a file
//! comes to exist under its final name: temporary name, content, sync, rename,
//! directory sync. Invariant: a name that [`FileName::parse`] does not know is
//! never touched. Must not know: what is inside the files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use esker_wal::mutants::planted;

use crate::dir::Directory;
use crate::env::{Storage, StorageFile};
use crate::error::{Error, Result};

pub(crate) const CURRENT: &str = "CURRENT";
pub(crate) const LOCK: &str = "LOCK";

/// A file that belongs to a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileName {
    Current,
    Lock,
    Log(u64),
    Manifest(u64),
    Segment(u64),
    Deletions(u64),
    /// A segment, or deletion vectors, that a crash cut off. The number counts: a
    /// later file of the same name could not be created.
    UnfinishedSegment(u64),
    UnfinishedDeletions(u64),
    Temporary,
}

impl FileName {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Current => CURRENT.to_owned(),
            Self::Lock => LOCK.to_owned(),
            Self::Log(n) => format!("{n:012}.log"),
            Self::Manifest(n) => format!("{n:012}.manifest"),
            Self::Segment(n) => format!("{n:012}.segment"),
            Self::Deletions(n) => format!("{n:012}.deletions"),
            Self::UnfinishedSegment(n) => format!("{n:012}.segment.tmp"),
            Self::UnfinishedDeletions(n) => format!("{n:012}.deletions.tmp"),
            Self::Temporary => format!("{CURRENT}.tmp"),
        }
    }

    pub(crate) fn path(self, dir: &Path) -> PathBuf {
        dir.join(self.name())
    }

    /// The file of this name, or `None` for a foreign one.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            CURRENT => return Some(Self::Current),
            LOCK => return Some(Self::Lock),
            _ => {}
        }
        let (stem, kind) = name.split_once('.')?;
        if kind == "tmp" && stem == CURRENT {
            return Some(Self::Temporary);
        }
        if stem.len() != 12 || !stem.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let number = stem.parse().ok()?;
        match kind {
            "log" => Some(Self::Log(number)),
            "manifest" => Some(Self::Manifest(number)),
            "segment" => Some(Self::Segment(number)),
            "deletions" => Some(Self::Deletions(number)),
            "segment.tmp" => Some(Self::UnfinishedSegment(number)),
            "deletions.tmp" => Some(Self::UnfinishedDeletions(number)),
            _ => None,
        }
    }

    /// The number in the name, for the counter that never gives one out twice.
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Log(n)
            | Self::Manifest(n)
            | Self::Segment(n)
            | Self::Deletions(n)
            | Self::UnfinishedSegment(n)
            | Self::UnfinishedDeletions(n) => n,
            Self::Current | Self::Lock | Self::Temporary => 0,
        }
    }
}

/// The names of a directory that are this engine's own.
pub(crate) fn own_files(storage: &dyn Storage, dir: &Path) -> Result<Vec<(String, FileName)>> {
    let names = storage
        .list(dir)
        .map_err(|error| Error::io(dir, "listing", error))?;
    Ok(names
        .into_iter()
        .filter_map(|name| FileName::parse(&name).map(|f| (name, f)))
        .collect())
}

/// Sequential writer into a [`StorageFile`] that gathers small writes.
pub(crate) struct FileOutput {
    file: Arc<dyn StorageFile>,
    offset: u64,
    /// In front of this offset the device has begun to write.
    begun: u64,
    buffer: Vec<u8>,
    /// What the file said to the first write that failed. Whoever writes through
    /// [`io::Write`] is told less: `write_all` would repeat an interrupted write
    /// for ever, and a writer of segments cannot tell its output from its input.
    failure: Option<io::Error>,
}

/// As much as a segment's writer hands on at a time: its pieces go to the file as they
/// are, without a copy in between.
pub(crate) const OUTPUT_BUFFER: usize = 256 << 10;

/// Bytes after which the device is asked to begin. What an output leaves to its one sync
/// at the end is in the way of every sync of the log meanwhile.
const BEGIN_EVERY: u64 = 1 << 20;

impl FileOutput {
    pub(crate) fn new(file: Arc<dyn StorageFile>) -> Self {
        Self {
            file,
            offset: 0,
            begun: 0,
            buffer: Vec::new(),
            failure: None,
        }
    }

    fn spill(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            let written = self.file.write_at(self.offset, &self.buffer);
            self.note(written)?;
            self.advance(self.buffer.len());
            self.buffer.clear();
        }
        Ok(())
    }

    fn advance(&mut self, written: usize) {
        self.offset += written as u64;
        if self.offset - self.begun >= BEGIN_EVERY {
            self.file.begin_sync(self.begun, self.offset - self.begun);
            self.begun = self.offset;
        }
    }

    /// Keeps the first failure for [`publish_file`].
    fn note(&mut self, written: io::Result<()>) -> io::Result<()> {
        written.map_err(|error| {
            self.failure.get_or_insert(error);
            io::Error::other("the output could not be written")
        })
    }
}

impl io::Write for FileOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > OUTPUT_BUFFER {
            self.spill()?;
        }
        if bytes.len() >= OUTPUT_BUFFER {
            let written = self.file.write_at(self.offset, bytes);
            self.note(written)?;
            self.advance(bytes.len());
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.spill()
    }
}

/// Makes a file appear whole and durable under its final name, or not at all:
/// written under a temporary name, synced, renamed, its directory synced. On an
/// error the debris is removed as far as that works; the name may or may not
/// exist, so the caller retries under a number never used before.
pub(crate) fn publish_file<T>(
    dir: &Directory,
    name: FileName,
    write: impl FnOnce(&mut FileOutput) -> Result<T>,
) -> Result<T> {
    let (storage, path) = (dir.storage(), name.path(dir.path()));
    let temporary = dir.path().join(format!("{}.tmp", name.name()));
    let result = (|| {
        let file = storage
            .create(&temporary)
            .map_err(|error| Error::io(&temporary, "creating", error))?;
        let mut output = FileOutput::new(Arc::clone(&file));
        let writing = |error| Error::io(&temporary, "writing", error);
        let written = write(&mut output).and_then(|value| {
            output.spill().map_err(writing)?;
            Ok(value)
        });
        // It comes before whatever the writer made of it.
        let value = match output.failure.take() {
            Some(failure) => return Err(writing(failure)),
            None => written?,
        };
        if !planted("output.sync") {
            file.sync_data()
                .map_err(|error| Error::io(&temporary, "syncing", error))?;
        }
        let before = dir.before();
        storage
            .rename(&temporary, &path)
            .map_err(|error| Error::io(&path, "renaming", error))?;
        if !planted("output.dir_sync") {
            dir.sync(before)
                .map_err(|error| Error::io(dir.path(), "syncing", error))?;
        }
        Ok(value)
    })();
    if result.is_err() {
        discard(storage, &temporary);
        discard(storage, &path);
    }
    result
}

/// Removes an output that nothing names. What cannot be removed now is swept at
/// the next open, so a failure changes nothing.
pub(crate) fn discard(storage: &dyn Storage, path: &Path) {
    let _ = storage.remove(path);
}

#[cfg(test)]
mod tests {
    use super::{FileName, FileOutput, OUTPUT_BUFFER};
    use crate::env::{Env, StdEnv};
    use std::io::Write;

    #[test]
    fn names_are_read_back_and_foreign_ones_are_not_ours() {
        for name in [
            FileName::Current,
            FileName::Lock,
            FileName::Log(7),
            FileName::Manifest(u64::from(u32::MAX)),
            FileName::Segment(999_999_999_999),
            FileName::Deletions(0),
            FileName::UnfinishedSegment(8),
            FileName::UnfinishedDeletions(9),
            FileName::Temporary,
        ] {
            assert_eq!(FileName::parse(&name.name()), Some(name));
            let digits: String = name
                .name()
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            assert_eq!(name.number(), digits.parse().unwrap_or(0), "{name:?}");
        }
        for foreign in [
            "",
            "notes.txt",
            "7.log",
            "00000000000x.log",
            "CURRENT.bak",
            "LOCK.tmp",
            "000000000001.txt",
            "000000000001.log.tmp",
            "+00000000001.log",
        ] {
            assert_eq!(FileName::parse(foreign), None, "{foreign}");
        }
    }

    /// Small writes are gathered, large ones go through, and all stay in order.
    #[test]
    fn an_output_holds_what_was_written_in_its_order() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("output");
        let file = StdEnv::new().storage().create(&path).expect("created");
        let mut output = FileOutput::new(file);
        let mut expected = Vec::new();
        let sizes = [
            3,
            OUTPUT_BUFFER - 3,
            1,
            OUTPUT_BUFFER,
            7,
            2 * OUTPUT_BUFFER + 1,
            9,
        ];
        for (n, len) in sizes.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251 + n) as u8).collect();
            output.write_all(&bytes).expect("written");
            expected.extend(bytes);
        }
        output.flush().expect("written");
        let file = StdEnv::new().storage().open(&path).expect("there");
        let mut found = vec![0; expected.len() + 1];
        assert_eq!(file.read_at(0, &mut found).expect("reads"), expected.len());
        assert!(found[..expected.len()] == expected);
    }
}
