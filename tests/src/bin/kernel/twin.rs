//! Two machines that are asked the same: the kernel's files, and the simulated ones.
//!
//! Owns the `Env` that the database gets, and the recording of its calls. Invariants:
//! a call is on the tape once it has returned, in its turn; an answer in which the
//! machines differ fails the run; after a cut no call reaches either. Must not know:
//! what the calls are for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use esker::env::{Clock, Entropy, Env, StdEnv, Storage, StorageFile, StorageLock};
use esker_tests::rng::Rng;
use esker_tests::sim::SimEnv;
use rustix::fs::Advice;

use crate::device::Progress;
use crate::tape::Call;

/// What happens to the machine at a certain call.
pub(crate) enum Trap {
    /// It stops as soon as so many calls have returned: no call comes after.
    After(usize),
    /// Somebody is told when the call after so many begins.
    During(usize, Sender<()>),
}

struct Inner {
    /// Where `/` of the database is.
    root: PathBuf,
    real: StdEnv,
    sim: SimEnv,
    progress: Progress,
    tape: Mutex<Vec<Call>>,
    files: Mutex<usize>,
    trap: Mutex<Option<Trap>>,
    /// Set before the file system is cut off: from then on errors are expected.
    cut: AtomicBool,
    stopped: AtomicBool,
    /// Chance for writing back early; none without.
    nudge: Mutex<Option<Rng>>,
    /// The first thing in which the two machines differed.
    difference: Mutex<Option<String>>,
}

/// The two machines. Clones are the same two.
#[derive(Clone)]
pub(crate) struct Twin(Arc<Inner>);

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Twin {
    /// `nudge` seeds early writing back; without it only syncs reach the device.
    pub(crate) fn new(root: &Path, seed: u64, progress: Progress, nudge: Option<u64>) -> Self {
        Self(Arc::new(Inner {
            root: root.to_owned(),
            real: StdEnv::new(),
            sim: SimEnv::new(seed),
            progress,
            tape: Mutex::default(),
            files: Mutex::default(),
            trap: Mutex::default(),
            cut: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            nudge: Mutex::new(nudge.map(Rng::new)),
            difference: Mutex::default(),
        }))
    }

    pub(crate) fn set_trap(&self, trap: Trap) {
        *locked(&self.0.trap) = Some(trap);
    }

    /// From now on errors are the cut's.
    pub(crate) fn expect_cut(&self) {
        self.0.cut.store(true, Ordering::SeqCst);
    }

    pub(crate) fn was_cut(&self) -> bool {
        self.0.stopped.load(Ordering::SeqCst)
    }

    pub(crate) fn calls(&self) -> usize {
        locked(&self.0.tape).len()
    }

    pub(crate) fn tape(&self) -> Vec<Call> {
        locked(&self.0.tape).clone()
    }

    pub(crate) fn difference(&self) -> Option<String> {
        locked(&self.0.difference).clone()
    }

    fn real_path(&self, path: &Path) -> PathBuf {
        self.0.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn differs(&self, what: String) {
        locked(&self.0.difference).get_or_insert(what);
    }

    fn gone(&self) -> io::Result<()> {
        if self.0.stopped.load(Ordering::SeqCst) {
            return Err(io::Error::other("the file system was cut off"));
        }
        Ok(())
    }

    /// An error after the cut ends the run, before it, it is an answer.
    fn after_error(&self) -> bool {
        let cut = self.0.cut.load(Ordering::SeqCst);
        if cut {
            self.0.stopped.store(true, Ordering::SeqCst);
        }
        cut
    }

    /// A call that changes nothing: the same answer from both.
    fn ask<T>(
        &self,
        what: &str,
        real: impl FnOnce() -> io::Result<T>,
        sim: impl FnOnce(&T) -> Result<(), String>,
    ) -> io::Result<T> {
        self.gone()?;
        let answer = real().inspect_err(|_| {
            self.after_error();
        })?;
        if let Err(difference) = sim(&answer) {
            self.differs(format!("{what}: {difference}"));
        }
        Ok(answer)
    }

    /// A call that changes something: on one machine, then on the other.
    fn act<T, U>(
        &self,
        call: Call,
        real: impl FnOnce() -> io::Result<T>,
        sim: impl FnOnce() -> io::Result<U>,
    ) -> io::Result<(T, U)> {
        self.gone()?;
        let inner = &*self.0;
        let number = self.calls();
        if let Some(Trap::During(n, tell)) = &*locked(&inner.trap)
            && *n == number
        {
            let _ = tell.send(());
        }
        inner.progress.begin();
        let result = real();
        if result.is_err() && self.after_error() {
            // It was begun, and perhaps had a part of its effect; unless it failed
            // because there was nothing to do.
            if sim().is_ok() {
                locked(&inner.tape).push(call);
            }
        } else {
            let text = format!("{call:?}");
            if result.is_ok() {
                locked(&inner.tape).push(call);
            }
            inner.progress.end(result.is_ok());
            return match (result, sim()) {
                (Ok(real), Ok(sim)) => {
                    self.returned(number + 1);
                    Ok((real, sim))
                }
                (Err(real), sim) => {
                    if sim.err().map(|error| error.kind()) != Some(real.kind()) {
                        self.differs(format!("{text:.200}: only the real one failed: {real}"));
                    }
                    Err(real)
                }
                (Ok(_), Err(sim)) => {
                    self.differs(format!("{text:.200}: only the simulated one failed: {sim}"));
                    Err(sim)
                }
            };
        }
        Err(result.err().unwrap_or_else(|| io::ErrorKind::Other.into()))
    }

    fn returned(&self, calls: usize) {
        let inner = &*self.0;
        if let Some(Trap::After(n)) = &*locked(&inner.trap)
            && *n == calls
        {
            inner.stopped.store(true, Ordering::SeqCst);
            return;
        }
        let mut nudge = locked(&inner.nudge);
        if let Some(rng) = &mut *nudge
            && rng.chance(1, 100)
            && let Ok(dir) = std::fs::File::open(&inner.root)
        {
            let _ = rustix::fs::syncfs(dir);
        }
    }

    /// Sometimes lets the kernel begin to write a file back, without its journal.
    fn wrote(&self, path: &Path) {
        let mut nudge = locked(&self.0.nudge);
        if let Some(rng) = &mut *nudge
            && rng.chance(1, 4)
            && let Ok(file) = std::fs::File::open(path)
        {
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        }
    }

    fn file(
        &self,
        path: &Path,
        make: impl FnOnce(usize) -> Call,
        open: impl Fn(&dyn Storage, &Path) -> io::Result<Arc<dyn StorageFile>>,
    ) -> io::Result<Arc<dyn StorageFile>> {
        let number = *locked(&self.0.files);
        let real = self.real_path(path);
        let (real_file, sim) = self.act(
            make(number),
            || open(&self.0.real, &real),
            || open(&self.0.sim, path),
        )?;
        *locked(&self.0.files) += 1;
        Ok(Arc::new(TwinFile {
            twin: self.clone(),
            number,
            path: real,
            real: real_file,
            sim,
        }))
    }
}

impl std::fmt::Debug for Twin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Twin({})", self.0.root.display())
    }
}

impl Env for Twin {
    fn storage(&self) -> &dyn Storage {
        self
    }
    fn clock(&self) -> &dyn Clock {
        &self.0.sim
    }
    fn entropy(&self) -> &dyn Entropy {
        &self.0.sim
    }
}

impl Storage for Twin {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let make = |n| Call::Create(path.to_owned(), n);
        self.file(path, make, |storage, path| storage.create(path))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let make = |n| Call::Open(path.to_owned(), n);
        self.file(path, make, |storage, path| storage.open(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let call = Call::Rename(from.to_owned(), to.to_owned());
        let real = || {
            self.0
                .real
                .rename(&self.real_path(from), &self.real_path(to))
        };
        self.act(call, real, || self.0.sim.rename(from, to))
            .map(drop)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let real = || self.0.real.remove(&self.real_path(path));
        let sim = || self.0.sim.remove(path);
        self.act(Call::Remove(path.to_owned()), real, sim).map(drop)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let real = || self.0.real.list(&self.real_path(dir));
        self.ask("list", real, |names| match self.0.sim.list(dir) {
            Ok(sim) if sim == *names => Ok(()),
            sim => Err(format!("{names:?}, simulated {sim:?}")),
        })
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let real = || self.0.real.create_dir(&self.real_path(dir));
        let sim = || self.0.sim.create_dir(dir);
        self.act(Call::CreateDir(dir.to_owned()), real, sim)
            .map(drop)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let real = || self.0.real.sync_dir(&self.real_path(dir));
        let sim = || self.0.sim.sync_dir(dir);
        self.act(Call::SyncDir(dir.to_owned()), real, sim).map(drop)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let real = || self.0.real.lock(&self.real_path(path));
        let sim = || self.0.sim.lock(path);
        let both = self.act(Call::Lock(path.to_owned()), real, sim)?;
        Ok(Box::new(TwinLock(both)))
    }

    /// How full the real disk is says nothing about the simulated one.
    fn available_space(&self, dir: &Path) -> io::Result<Option<u64>> {
        let real = || self.0.real.available_space(&self.real_path(dir));
        self.ask("space", real, |_| Ok(()))
    }
}

struct TwinFile {
    twin: Twin,
    number: usize,
    /// Where it was when it was opened.
    path: PathBuf,
    real: Arc<dyn StorageFile>,
    sim: Arc<dyn StorageFile>,
}

impl StorageFile for TwinFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let call = Call::Write {
            file: self.number,
            offset,
            bytes: bytes.into(),
        };
        let real = || self.real.write_at(offset, bytes);
        let sim = || self.sim.write_at(offset, bytes);
        self.twin.act(call, real, sim)?;
        self.twin.wrote(&self.path);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut simulated = vec![0; buffer.len()];
        let mut text = Ok(());
        let answer = self.twin.ask(
            "read",
            || {
                let n = self.real.read_at(offset, buffer)?;
                text = match self.sim.read_at(offset, &mut simulated) {
                    Ok(m) if m == n && simulated[..n] == buffer[..n] => Ok(()),
                    Ok(m) => Err(format!("{n} bytes at {offset}, simulated {m}, or others")),
                    Err(error) => Err(error.to_string()),
                };
                Ok(n)
            },
            |_| Ok(()),
        )?;
        if let Err(difference) = text {
            self.twin
                .differs(format!("{}: {difference}", self.path.display()));
        }
        Ok(answer)
    }

    fn sync_data(&self) -> io::Result<()> {
        let real = || self.real.sync_data();
        let sim = || self.sim.sync_data();
        self.twin.act(Call::Sync(self.number), real, sim).map(drop)
    }

    fn len(&self) -> io::Result<u64> {
        let real = || self.real.len();
        self.twin.ask("len", real, |len| match self.sim.len() {
            Ok(sim) if sim == *len => Ok(()),
            sim => Err(format!("{len}, simulated {sim:?}")),
        })
    }

    fn map(&self) -> io::Result<esker_segment::Bytes> {
        self.twin.ask("map", || self.real.map(), |_| Ok(()))
    }
}

/// Held in both, let go in both.
struct TwinLock(
    #[allow(dead_code, reason = "held, not read")] (Box<dyn StorageLock>, Box<dyn StorageLock>),
);

impl StorageLock for TwinLock {}
