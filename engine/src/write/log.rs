//! The write-ahead log as a chain of files.
//!
//! Owns rotation, and which files are still on disk; [`ahead`] is what is prepared.
//! Invariants: a file is synced before its successor's header is written; once a
//! successor's header may exist, nothing is appended to the predecessor again; a
//! file's name is durable before its first frame; numbers are never reused.
//! A failed sync is reported as [`LogError::Unknown`] and never retried.
//! Must not know: what frames mean, memtables, durability settings.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use esker_wal::mutants::planted;
use esker_wal::{FileId, LogFile, LogHeader, LogKind, LogNumber, LogWriter, SequencedFrame};

use crate::dir::Directory;
use crate::env::Env;
use crate::error::Error;
use crate::files::{FileName, discard};
use crate::log_file::FileHandle;
use crate::sync::{AtomicU64, Mutex, Ordering, counter};

mod ahead;

use ahead::Prepared;

/// Gives out file numbers, each once.
pub(crate) struct FileNumbers(AtomicU64);

impl FileNumbers {
    pub(crate) fn new(next: u64) -> Self {
        Self(AtomicU64::new(next))
    }

    pub(crate) fn take(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// Gives out no number below `next` any more.
    pub(crate) fn skip_to(&self, next: u64) {
        self.0.fetch_max(next, Ordering::Relaxed);
    }

    /// The number that the next call of [`FileNumbers::take`] will give.
    pub(crate) fn peek(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why frames were not logged.
#[derive(Clone, Debug)]
pub(crate) enum LogError {
    /// They were not, or not wholly; the next group starts a new file.
    Failed(Error),
    /// A sync failed: what is on the disk is unknown.
    Unknown(Error),
}

impl LogError {
    /// The error, where what it leaves behind makes no difference.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Failed(error) | Self::Unknown(error) => error,
        }
    }
}

/// The chain of log files, newest last.
pub(crate) struct Log {
    dir: Arc<Directory>,
    numbers: Arc<FileNumbers>,
    file_bytes: u64,
    session: Session,
    inner: Mutex<Inner>,
    /// Held for every sync; true once one failed. The kernel reports a lost write
    /// to one caller only, so a sync that overlaps or follows a failed one may
    /// return `Ok` for data that is gone. Taken after `inner`, never before.
    sync_failed: Mutex<bool>,
    /// Syncs of the current file that writers waited for.
    syncs: counter::AtomicU64,
    bytes_written: counter::AtomicU64,
}

struct Inner {
    current: LogWriter<FileHandle>,
    /// A successor's header may be on disk.
    superseded: bool,
    last_seqno: u64,
    synced_seqno: u64,
    prepared: Option<Prepared>,
    /// In front of this offset the current file has no place that was never written.
    written_to: u64,
    /// Preparing failed while this file was current: rotation will do it itself.
    gave_up_preparing: bool,
    /// Older files still on disk: number and length.
    retained: VecDeque<(u64, u64)>,
}

/// Which open a log was begun after: the second half of its file's id, which is
/// random in the first log of a chain. So what is left of a chain can be told from
/// other chains also where the log is gone that it follows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session(u64);

impl Session {
    pub(crate) fn of(log: &LogHeader) -> Self {
        Self(u128::from_be_bytes(log.file_id) as u64)
    }

    /// The id with this session in it.
    fn mark(self, file_id: FileId) -> FileId {
        let own = u128::from_be_bytes(file_id) >> 64 << 64;
        (own | u128::from(self.0)).to_be_bytes()
    }
}

/// A place in the log to make durable, taken under the lock and synced outside it.
struct SyncPoint {
    number: u64,
    file: FileHandle,
    offset: u64,
    seqno: u64,
}

impl Log {
    /// Begins a chain with a fresh file whose predecessor is none. The caller
    /// syncs the directory before it names the file.
    pub(crate) fn create(
        dir: Arc<Directory>,
        numbers: Arc<FileNumbers>,
        file_bytes: u64,
    ) -> Result<Self, Error> {
        let number = numbers.take();
        let path = FileName::Log(number).path(dir.path());
        let current = (|| {
            let file = FileHandle(dir.storage().create(&path)?);
            begin(dir.env(), file, number, None)
        })()
        .map_err(|error| {
            discard(dir.storage(), &path);
            Error::io(&path, "creating", error)
        })?;
        let session = Session::of(current.header());
        let inner = Inner {
            current,
            superseded: false,
            last_seqno: 0,
            synced_seqno: 0,
            prepared: None,
            written_to: 0,
            gave_up_preparing: false,
            retained: VecDeque::new(),
        };
        Ok(Self {
            dir,
            numbers,
            file_bytes,
            session,
            inner: Mutex::new(inner),
            sync_failed: Mutex::new(false),
            syncs: counter::AtomicU64::new(0),
            bytes_written: counter::AtomicU64::new(0),
        })
    }

    /// Appends frames; returns the number of their file. If a sync follows, the device
    /// may begin with it at once.
    pub(crate) fn append(
        &self,
        frames: &mut [SequencedFrame<'_>],
        sync_follows: bool,
    ) -> Result<u64, LogError> {
        /// Less is written as fast as it is asked for.
        const WORTH_BEGINNING: u64 = 64 << 10;
        let inner = &mut *self.inner.lock();
        let needed: u64 = frames
            .iter()
            .map(|frame| frame.buf.encoded_len() as u64)
            .sum();
        let full = inner.current.end().offset + needed > self.file_bytes && inner.has_frames();
        let superseded = inner.superseded && !planted("log.superseded");
        if full || inner.current.is_abandoned() || superseded {
            self.rotate(inner)?;
        }
        let number = inner.current.header().number.0;
        let start = inner.current.end().offset;
        let zeros = if sync_follows {
            self.zeros_behind(inner, start + needed)
        } else {
            0
        };
        let appended = inner.current.append_ahead_of_zeros(frames, zeros as usize);
        appended.map_err(|error| {
            LogError::Failed(Error::io(
                &FileName::Log(number).path(self.dir.path()),
                "writing",
                error,
            ))
        })?;
        inner.written_to = inner.written_to.max(start + needed + zeros);
        if sync_follows && needed >= WORTH_BEGINNING {
            inner.current.file().begin_sync(start, needed);
        }
        self.bytes_written.fetch_add(needed, Ordering::Relaxed);
        if let Some(last) = frames.last() {
            inner.last_seqno = last.first_seqno + u64::from(last.seqno_count).saturating_sub(1);
        }
        Ok(number)
    }

    fn rotate(&self, inner: &mut Inner) -> Result<(), LogError> {
        let old = inner.current.header().number.0;
        let end = inner.current.end();
        let unsynced = inner.current.durable_up_to() < end.offset || inner.current.is_abandoned();
        if unsynced && !planted("log.rotation_sync") {
            self.finish_sync(inner, old)?;
        }
        let next = match inner.prepared.take() {
            Some(prepared) => prepared,
            None => self.prepare(false).map_err(LogError::Failed)?,
        };
        inner.superseded = true;
        let path = FileName::Log(next.number).path(self.dir.path());
        let chained = Some((LogNumber(old), end, self.session));
        match begin(self.dir.env(), next.file, next.number, chained) {
            Ok(writer) => {
                inner.retained.push_back((old, end.offset));
                inner.current = writer;
                inner.written_to = next.zeroed;
                inner.superseded = false;
                inner.gave_up_preparing = false;
                self.syncs.store(0, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                discard(self.dir.storage(), &path);
                Err(LogError::Failed(Error::io(&path, "beginning", error)))
            }
        }
    }

    fn finish_sync(&self, inner: &mut Inner, number: u64) -> Result<(), LogError> {
        let end = inner.current.end().offset;
        self.sync_file(inner.current.file(), number)?;
        inner.current.note_synced(end);
        inner.synced_seqno = inner.last_seqno;
        Ok(())
    }

    /// Makes everything appended before the call durable; returns the last such
    /// SeqNo. Writers go on meanwhile.
    pub(crate) fn sync(&self) -> Result<u64, LogError> {
        let point = {
            let inner = self.inner.lock();
            let offset = inner.current.end().offset;
            if inner.current.durable_up_to() >= offset {
                return Ok(inner.last_seqno);
            }
            SyncPoint {
                number: inner.current.header().number.0,
                file: inner.current.file().clone(),
                offset,
                seqno: inner.last_seqno,
            }
        };
        self.sync_file(&point.file, point.number)?;
        let mut inner = self.inner.lock();
        if inner.current.header().number.0 == point.number {
            inner.current.note_synced(point.offset);
        }
        inner.synced_seqno = inner.synced_seqno.max(point.seqno);
        Ok(point.seqno)
    }

    fn sync_file(&self, file: &FileHandle, number: u64) -> Result<(), LogError> {
        let mut failed = self.sync_failed.lock();
        let result = if *failed && !planted("log.sync_again") {
            Err(io::Error::other("an earlier sync of the log failed"))
        } else if planted("log.sync") {
            Ok(())
        } else {
            file.sync_data()
        };
        result.map_err(|error| {
            *failed = true;
            LogError::Unknown(Error::io(
                &FileName::Log(number).path(self.dir.path()),
                "syncing",
                error,
            ))
        })
    }

    /// The last SeqNo known to be durable.
    pub(crate) fn synced_seqno(&self) -> u64 {
        self.inner.lock().synced_seqno
    }

    /// Number of the file that frames go to, its end and its chain CRC.
    pub(crate) fn end(&self) -> (u64, esker_wal::LogEnd) {
        let inner = self.inner.lock();
        (inner.current.header().number.0, inner.current.end())
    }

    /// Number and length of every file of the chain, oldest first, and where the last
    /// of them ends.
    pub(crate) fn chain(&self) -> (Vec<(u64, u64)>, esker_wal::LogEnd) {
        let inner = self.inner.lock();
        let end = inner.current.end();
        let current = (inner.current.header().number.0, end.offset);
        let retained = inner.retained.iter().copied();
        (retained.chain([current]).collect(), end)
    }

    /// Number of the oldest file of the chain.
    pub(crate) fn oldest(&self) -> u64 {
        let inner = self.inner.lock();
        let front = inner.retained.front();
        front.map_or(inner.current.header().number.0, |&(number, _)| number)
    }

    /// Heap bytes of the buffer that frames are joined in.
    pub(crate) fn buffer_bytes(&self) -> usize {
        self.inner.lock().current.heap_bytes()
    }

    /// Bytes of all files of the chain.
    pub(crate) fn total_bytes(&self) -> u64 {
        let inner = self.inner.lock();
        inner.retained.iter().map(|&(_, len)| len).sum::<u64>() + inner.current.end().offset
    }

    /// Bytes appended since the database was opened.
    pub(crate) fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }

    /// Paths of all files, of a chain that nothing names and nobody will append to.
    pub(crate) fn abandon(&self) -> Vec<PathBuf> {
        let mut paths = self.release_below(u64::MAX);
        paths.push(FileName::Log(self.end().0).path(self.dir.path()));
        paths
    }

    /// Forgets files older than `first`, and returns their paths.
    pub(crate) fn release_below(&self, first: u64) -> Vec<PathBuf> {
        let mut inner = self.inner.lock();
        let mut paths = Vec::new();
        while let Some(&(number, _)) = inner.retained.front()
            && number < first
        {
            paths.push(FileName::Log(number).path(self.dir.path()));
            inner.retained.pop_front();
        }
        paths
    }
}

impl Inner {
    fn has_frames(&self) -> bool {
        self.current.end().offset > esker_wal::HEADER_LEN as u64
    }
}

/// Writes and syncs the header of a file that exists.
fn begin(
    env: &dyn Env,
    file: FileHandle,
    number: u64,
    chained: Option<(LogNumber, esker_wal::LogEnd, Session)>,
) -> io::Result<LogWriter<FileHandle>> {
    let random = env.entropy().file_id()?;
    let file_id = chained.map_or(random, |(_, _, session)| session.mark(random));
    let header = LogHeader {
        number: LogNumber(number),
        file_id,
        kind: LogKind::Writes,
        predecessor: chained.map(|(number, end, _)| (number, end)),
    };
    LogWriter::create(file, &header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Clock, Entropy, StdEnv, Storage, StorageFile, StorageLock};
    use esker_wal::FrameBuf;
    use std::path::Path;
    use std::sync::atomic::AtomicBool;

    /// The real world, but for one sync that fails.
    #[derive(Debug, Default)]
    struct OneBadSync {
        real: StdEnv,
        fail: Arc<AtomicBool>,
    }

    struct BadFile {
        real: Arc<dyn StorageFile>,
        fail: Arc<AtomicBool>,
    }

    impl StorageFile for BadFile {
        fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.real.write_at(offset, bytes)
        }
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
            self.real.read_at(offset, buffer)
        }
        fn sync_data(&self) -> io::Result<()> {
            if self.fail.swap(false, Ordering::Relaxed) {
                return Err(io::Error::other("a planned failure"));
            }
            self.real.sync_data()
        }
        fn len(&self) -> io::Result<u64> {
            self.real.len()
        }
        fn map(&self) -> io::Result<esker_segment::Bytes> {
            self.real.map()
        }
    }

    impl Env for OneBadSync {
        fn storage(&self) -> &dyn Storage {
            self
        }
        fn clock(&self) -> &dyn Clock {
            self.real.clock()
        }
        fn entropy(&self) -> &dyn Entropy {
            self.real.entropy()
        }
    }

    impl Storage for OneBadSync {
        fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
            let real = self.real.create(path)?;
            let fail = Arc::clone(&self.fail);
            Ok(Arc::new(BadFile { real, fail }))
        }
        fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
            self.real.open(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.real.rename(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            self.real.remove(path)
        }
        fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
            self.real.list(dir)
        }
        fn create_dir(&self, dir: &Path) -> io::Result<()> {
            self.real.create_dir(dir)
        }
        fn sync_dir(&self, dir: &Path) -> io::Result<()> {
            self.real.sync_dir(dir)
        }
        fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
            self.real.lock(path)
        }
        fn available_space(&self, dir: &Path) -> io::Result<Option<u64>> {
            self.real.available_space(dir)
        }
    }

    /// Linux reports a lost write once: the sync after it succeeds for nothing.
    #[test]
    fn no_sync_succeeds_after_one_failed() {
        let dir = tempfile::tempdir().unwrap();
        let env = OneBadSync::default();
        let fail = Arc::clone(&env.fail);
        let numbers = Arc::new(FileNumbers::new(1));
        let directory = Arc::new(Directory::new(Arc::new(env), dir.path().to_owned()));
        let log = Log::create(directory, numbers, 4_096).unwrap();
        let append = |seqno: u64, bytes: &[u8]| {
            let mut buf = FrameBuf::new(1);
            buf.extend_from_slice(bytes);
            buf.seal();
            log.append(
                &mut [SequencedFrame {
                    buf: &mut buf,
                    first_seqno: seqno,
                    seqno_count: 1,
                }],
                true,
            )
        };
        append(1, b"one").unwrap();
        assert_eq!(log.sync().unwrap(), 1);
        append(2, b"two").unwrap();
        fail.store(true, Ordering::Relaxed);
        assert!(matches!(log.sync(), Err(LogError::Unknown(_))));
        assert!(matches!(log.sync(), Err(LogError::Unknown(_))));
        assert_eq!(log.synced_seqno(), 1);
        let full = append(3, &[7; 4_096]);
        assert!(
            matches!(full, Err(LogError::Unknown(_))),
            "rotation syncs the old file"
        );
    }
}
