//! A block device whose every write and flush is seen.
//!
//! Owns the one-file FUSE file system, the loop device on top of it, and mounts of
//! that. Invariants: what is attached or mounted is let go in the reverse order,
//! on failure too; no cache of the device outlives [`Device::load`]. Must not know:
//! what is written, or why.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    WriteFlags,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::host::{self, Kind};
use crate::store::{Event, Mark, Pages, Store};

const DISK: INodeNo = INodeNo(2);
const NAME: &str = "disk";
const TTL: Duration = Duration::from_secs(3_600);

/// How far the calls have come: twice those that returned, plus one inside a call.
/// One number, so that a reader never sees half of a step.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    pub(crate) fn begin(&self) {
        self.0.fetch_or(1, Ordering::SeqCst);
    }

    /// The call has returned; it counts if it had an effect.
    pub(crate) fn end(&self, counts: bool) {
        let before = self.0.load(Ordering::SeqCst);
        let done = before / 2 + u64::from(counts);
        self.0.store(done * 2, Ordering::SeqCst);
    }

    pub(crate) fn mark(&self) -> Mark {
        let now = self.0.load(Ordering::SeqCst) as usize;
        Mark {
            done: now / 2,
            begun: now.div_ceil(2),
        }
    }

    pub(crate) fn reset(&self) {
        self.0.store(0, Ordering::SeqCst);
    }
}

/// The file system with the one file.
struct OneFile {
    size: u64,
    store: Arc<Mutex<Store>>,
    progress: Progress,
}

impl OneFile {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        let dir = ino == INodeNo::ROOT;
        FileAttr {
            ino,
            size: if dir { 0 } else { self.size },
            blocks: if dir { 0 } else { self.size / 512 },
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if dir {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: if dir { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Filesystem for OneFile {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&TTL, &self.attr(DISK), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino));
    }

    /// Nothing of the file is cached: what the loop device does arrives here, in
    /// its order, and what is put in here is what it reads.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let len = u64::from(size).min(self.size.saturating_sub(offset));
        let mut buffer = vec![0; len as usize];
        lock(&self.store).pages.read(offset, &mut buffer);
        reply.data(&buffer);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        lock(&self.store).write(offset, data, self.progress.mark());
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        lock(&self.store).flush();
        reply.ok();
    }
}

/// The mounted file system with the one file, until it is dropped.
struct Server {
    dir: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves on a thread whose open files are its own. The other threads wait for
    /// the device where no signal reaches them; if the process is killed then, this
    /// thread ends, with it the connection, and the wait.
    fn start(files: OneFile, dir: PathBuf) -> Result<Self, String> {
        let (fail, failed) = channel();
        let place = dir.clone();
        let thread = std::thread::spawn(move || {
            let served = host::own_files()
                .and_then(|()| fuser::mount(files, &place, &fuser::Config::default()));
            if let Err(error) = served {
                let _ = fail.send(error);
            }
        });
        let server = Self {
            dir,
            thread: Some(thread),
        };
        for _ in 0..1_000 {
            if server.dir.join(NAME).exists() {
                return Ok(server);
            }
            if let Ok(error) = failed.recv_timeout(Duration::from_millis(5)) {
                return Err(format!("FUSE cannot be mounted: {error}"));
            }
        }
        Err("FUSE does not come up".to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if it never came up, or went down by itself.
        let _ = unmount(&self.dir, UnmountFlags::DETACH);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A loop device, until it is dropped.
struct Loop {
    path: PathBuf,
    /// Tells the outer process what to detach if this one dies.
    note: PathBuf,
}

impl Loop {
    fn attach(file: &Path, scratch: &Path) -> Result<Self, String> {
        let path = host::output("losetup", &["--find", "--show", host::text(file)])?;
        let path = PathBuf::from(path.trim());
        let name = path.file_name().ok_or("losetup named no device")?;
        let note = scratch.join(host::LOOPS).join(name);
        std::fs::write(&note, host::text(&path)).map_err(|error| error.to_string())?;
        Ok(Self { path, note })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        match host::output("losetup", &["-d", host::text(&self.path)]) {
            Ok(_) => drop(std::fs::remove_file(&self.note)),
            Err(error) => println!("left behind: {error}"),
        }
    }
}

/// A mounted file system, until it is dropped.
pub(crate) struct Mounted {
    path: PathBuf,
    /// Open from the start: XFS lets nobody open anything once it is cut off.
    root: Option<File>,
}

impl Mounted {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Cuts it off from its device.
    pub(crate) fn cut(&self) -> io::Result<()> {
        match &self.root {
            Some(root) => host::shut_down(root),
            None => Ok(()),
        }
    }

    /// Unmounts without writing back what is dirty: nobody will look at it.
    pub(crate) fn discard(self) -> io::Result<()> {
        self.cut()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.root = None;
        for pause in [0, 1, 10, 100, 1_000] {
            std::thread::sleep(Duration::from_millis(pause));
            if unmount(&self.path, UnmountFlags::empty()).is_ok() {
                return;
            }
        }
        if let Err(error) = unmount(&self.path, UnmountFlags::DETACH) {
            println!("left behind: {}: {error}", self.path.display());
        }
    }
}

/// The device. Dropped from top to bottom.
pub(crate) struct Device {
    lo: Loop,
    _server: Server,
    store: Arc<Mutex<Store>>,
    pub(crate) progress: Progress,
    mount_point: PathBuf,
}

impl Device {
    /// A device of zeroes, with what it needs below `scratch`.
    pub(crate) fn new(scratch: &Path, name: &str, size: u64) -> Result<Self, String> {
        let store = Arc::new(Mutex::new(Store::default()));
        let progress = Progress::default();
        let file_system = OneFile {
            size,
            store: Arc::clone(&store),
            progress: progress.clone(),
        };
        let below = scratch.join(format!("{name}.fuse"));
        let mount_point = scratch.join(format!("{name}.mount"));
        for dir in [&below, &mount_point] {
            std::fs::create_dir(dir).map_err(|error| error.to_string())?;
        }
        let server = Server::start(file_system, below.clone())?;
        Ok(Self {
            lo: Loop::attach(&below.join(NAME), scratch)?,
            _server: server,
            store,
            progress,
            mount_point,
        })
    }

    /// Makes a file system and returns its bytes.
    pub(crate) fn format(&self, kind: Kind, options: &[&str]) -> Result<Pages, String> {
        self.load(Pages::default(), false)?;
        let mut words = options.to_vec();
        words.push(host::text(&self.lo.path));
        host::output(kind.mkfs(), &words)?;
        Ok(lock(&self.store).pages.clone())
    }

    /// Replaces all that the device holds and begins a log, or none.
    pub(crate) fn load(&self, pages: Pages, logging: bool) -> Result<(), String> {
        // Whoever looked at the device last may have left it in the cache.
        host::drop_cache(&self.lo.path).map_err(|error| format!("dropping a cache: {error}"))?;
        let mut store = lock(&self.store);
        store.pages = pages;
        store.log = logging.then(Vec::new);
        self.progress.reset();
        Ok(())
    }

    /// Ends the log.
    pub(crate) fn take_log(&self) -> Vec<Event> {
        lock(&self.store).log.take().unwrap_or_default()
    }

    pub(crate) fn mount(&self, kind: Kind, options: &str) -> io::Result<Mounted> {
        let data = CString::new(options)?;
        mount(
            &self.lo.path,
            &self.mount_point,
            kind.name(),
            MountFlags::NOATIME,
            &*data,
        )?;
        let mut mounted = Mounted {
            path: self.mount_point.clone(),
            root: None,
        };
        mounted.root = Some(File::open(&self.mount_point)?);
        Ok(mounted)
    }
}
