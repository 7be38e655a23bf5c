//! What this machine offers, its commands, and the two requests that only the
//! kernel can answer.
//!
//! Owns the reasons for which a part is skipped. Must not know: what the parts do.

use std::io;
use std::path::Path;
use std::process::Command;

use rustix::fs::{Mode, OFlags};

/// A file per attached loop device, below the scratch directory.
pub(crate) const LOOPS: &str = "loops";

/// A file system of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    pub(crate) fn mkfs(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
        }
    }

    /// Bytes of a device: XFS refuses small ones.
    pub(crate) fn size(self) -> u64 {
        match self {
            Self::Ext4 => 32 << 20,
            Self::Xfs => 320 << 20,
        }
    }

    /// Shapes of a file system: words for mkfs, options for mounting. They differ
    /// in what a power cut may leave.
    pub(crate) fn shapes(self) -> &'static [Shape] {
        match self {
            Self::Ext4 => &EXT4,
            Self::Xfs => &XFS,
        }
    }

    /// Why it cannot be used here.
    pub(crate) fn missing(self) -> Option<String> {
        if !runs(self.mkfs()) {
            return Some(format!("{}: no {}", self.name(), self.mkfs()));
        }
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let known = known
            .lines()
            .any(|line| line.split_whitespace().last() == Some(self.name()));
        (!known).then(|| format!("{}: not in /proc/filesystems", self.name()))
    }
}

/// Words for mkfs, options for mounting.
pub(crate) struct Shape {
    pub(crate) mkfs: &'static [&'static str],
    pub(crate) mount: &'static str,
}

const EXT4_4K: &[&str] = &[
    "-q",
    "-F",
    "-b",
    "4096",
    "-E",
    "lazy_itable_init=0,nodiscard",
];
const EXT4_1K: &[&str] = &[
    "-q",
    "-F",
    "-b",
    "1024",
    "-E",
    "lazy_itable_init=0,nodiscard",
];
/// A log as small as XFS takes: each mount after a cut clears all that is free of it.
const XFS_SMALL: &[&str] = &["-q", "-f", "-K", "-l", "size=8m"];

const EXT4: [Shape; 5] = [
    Shape {
        mkfs: EXT4_4K,
        mount: "",
    },
    Shape {
        mkfs: EXT4_1K,
        mount: "nodelalloc",
    },
    Shape {
        mkfs: EXT4_4K,
        mount: "data=writeback",
    },
    Shape {
        mkfs: EXT4_4K,
        mount: "data=journal",
    },
    Shape {
        mkfs: EXT4_1K,
        mount: "data=writeback,nodelalloc,commit=1",
    },
];

const XFS: [Shape; 2] = [
    Shape {
        mkfs: XFS_SMALL,
        mount: "",
    },
    Shape {
        mkfs: XFS_SMALL,
        mount: "logbsize=256k",
    },
];

/// Why no device can be made here.
pub(crate) fn no_devices() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    for path in ["/dev/fuse", "/dev/loop-control"] {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        if let Err(error) = rustix::fs::open(path, flags, Mode::empty()) {
            return Some(format!("{path}: {error}"));
        }
    }
    (!runs("losetup")).then(|| "no losetup".to_owned())
}

/// Whether a process may have mounts of its own.
pub(crate) fn encloses() -> bool {
    let words = ["--mount", "--propagation", "private", "true"];
    output("unshare", &words).is_ok()
}

/// Why no process can be killed at its calls here.
pub(crate) fn no_strace() -> Option<String> {
    if !runs("strace") {
        return Some("no strace".to_owned());
    }
    let words = ["-qq", "-o", "/dev/null", "-e", "trace=none", "true"];
    output("strace", &words).err()
}

/// Whether there is a command of this name.
pub(crate) fn runs(command: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<_> = std::env::split_paths(&path).collect();
    dirs.extend(["/usr/sbin".into(), "/sbin".into()]);
    dirs.iter().any(|dir| dir.join(command).is_file())
}

/// What a command printed, if it succeeded.
pub(crate) fn output(command: &str, words: &[&str]) -> Result<String, String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let done = Command::new(command)
        .args(words)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        // mkfs.xfs makes small logs for tests only, which it knows by these.
        .envs(["TEST_DIR", "TEST_DEV", "QA_CHECK_FS"].map(|name| (name, "1")))
        .output()
        .map_err(|error| format!("{command}: {error}"))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&done.stderr);
    Err(format!(
        "{command} {words:?}: {} {}",
        done.status,
        complaint.trim()
    ))
}

/// A directory in memory if there is one: for files whose syncs need not be waited for.
pub(crate) fn in_memory() -> Result<tempfile::TempDir, String> {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.map_err(|error| error.to_string())
}

/// A path of ours, which is always UTF-8.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours is UTF-8")
}

/// `_IOR('X', 125, u32)`: ext4 and XFS agree on it.
const SHUT_DOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
/// Without writing the journal first: what a power cut does.
const NO_LOG_FLUSH: u32 = 2;
/// `BLKFLSBUF`.
const FLUSH_BUFFERS: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 97);

/// Cuts the file system of an open directory off from its device.
pub(crate) fn shut_down(dir: &std::fs::File) -> io::Result<()> {
    #[allow(unsafe_code, reason = "no safe wrapper of this request exists")]
    // SAFETY: the request reads one u32 through the pointer, and `Setter` passes
    // a pointer to one that lives as long as the call.
    unsafe {
        let request = rustix::ioctl::Setter::<SHUT_DOWN, u32>::new(NO_LOG_FLUSH);
        rustix::ioctl::ioctl(dir, request)?;
    }
    Ok(())
}

/// Gives the calling thread a table of open files of its own.
pub(crate) fn own_files() -> io::Result<()> {
    #[allow(unsafe_code, reason = "no safe wrapper of this request exists")]
    // SAFETY: the thread that asks for it hands no file to another one, nor takes
    // one that another opens later.
    unsafe {
        rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FILES)?;
    }
    Ok(())
}

/// Forgets what the kernel remembers of a block device that nobody uses.
pub(crate) fn drop_cache(device: &Path) -> io::Result<()> {
    let device = std::fs::File::open(device)?;
    #[allow(unsafe_code, reason = "no safe wrapper of this request exists")]
    // SAFETY: the request takes no argument.
    unsafe {
        let request = rustix::ioctl::NoArg::<FLUSH_BUFFERS>::new();
        rustix::ioctl::ioctl(&device, request)?;
    }
    Ok(())
}
