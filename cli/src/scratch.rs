//! A temporary directory that goes away however the process ends.
//!
//! Owns the directory's life. When its owner returns, also with an error, the
//! directory is removed at once. For Ctrl-C, a closed terminal and even SIGKILL
//! there is a sweeper: a second process of this program, in a process group of
//! its own so that Ctrl-C does not reach it, that waits for the end of a pipe
//! which only the owner holds open, and then removes what is left. That needs
//! neither signal handlers nor unsafe code. Invariant: the sweeper touches no
//! directory whose name does not begin with [`PREFIX`].
//! Must not know: what is inside the directory.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::failure::Failure;

/// How the names of all scratch directories begin.
const PREFIX: &str = "esker-scratch-";
/// The hidden subcommand that waits and sweeps.
pub(crate) const SWEEP_COMMAND: &str = "sweep-scratch";
/// A child that still writes into the directory can make a removal fail; it
/// ends soon, since its own pipe to the owner broke too.
const SWEEP_ATTEMPTS: u32 = 100;
const SWEEP_PAUSE: Duration = Duration::from_millis(50);

/// A temporary directory and its sweeper. Dropping it removes the directory.
pub(crate) struct Scratch {
    dir: Option<TempDir>,
    sweeper: Child,
}

impl Scratch {
    /// Makes a directory with an unused name inside `parent`.
    pub(crate) fn new_in(parent: &Path) -> Result<Self, Failure> {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent);
        let dir =
            dir.map_err(|error| Failure::file("making a temporary directory in", parent, &error))?;
        let sweeper = start_sweeper(dir.path()).map_err(|error| {
            Failure::failed(format!("starting a process that cleans up failed: {error}"))
        })?;
        Ok(Self {
            dir: Some(dir),
            sweeper,
        })
    }

    /// Makes a directory inside the system's directory for temporary files (`TMPDIR`).
    pub(crate) fn new() -> Result<Self, Failure> {
        Self::new_in(&std::env::temp_dir())
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.dir
            .as_ref()
            .map_or_else(|| Path::new(""), TempDir::path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Removes it; the sweeper tries again where this fails.
        drop(self.dir.take());
        // The end of the pipe tells the sweeper to look and leave.
        drop(self.sweeper.stdin.take());
        let _ = self.sweeper.wait();
    }
}

fn start_sweeper(dir: &Path) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(SWEEP_COMMAND).arg(dir);
    // It must not hold the owner's output open.
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn()
}

/// The sweeper's whole life: waits until its owner is gone, then removes `dir`.
pub(crate) fn sweep(dir: &Path) -> Result<(), Failure> {
    let name = dir.file_name().and_then(|name| name.to_str());
    if !name.is_some_and(|name| name.starts_with(PREFIX)) {
        return Err(Failure::Usage(format!(
            "{} is no temporary directory of this program, so it is left alone",
            dir.display()
        )));
    }
    // Nothing is ever sent: reading ends when the owner does.
    let _ = io::stdin().lock().read(&mut [0]);
    for _ in 0..SWEEP_ATTEMPTS {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                std::thread::sleep(SWEEP_PAUSE);
            }
            _ => return Ok(()),
        }
    }
    Err(Failure::failed(format!(
        "{} could not be removed; please remove it",
        dir.display()
    )))
}

/// The directory that `path` is in, as one that can be opened.
pub(crate) fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => path.to_owned(),
    }
}
