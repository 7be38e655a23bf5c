//! Processor time of this process, where the system tells (Linux).
//!
//! Must not know: what the time was used for.

use std::path::{Path, PathBuf};

/// Ticks of a second in `/proc`, on every Linux.
const TICKS: f64 = 100.0;

/// Seconds that all threads have run, their system calls included.
pub(super) fn seconds() -> Option<f64> {
    seconds_of(Path::new("/proc/self"))
}

/// The thread that calls, for [`seconds_of`].
pub(super) fn this_thread() -> Option<PathBuf> {
    Some(Path::new("/proc").join(std::fs::read_link("/proc/thread-self").ok()?))
}

/// Seconds that a process or a thread has run, by its directory.
pub(super) fn seconds_of(dir: &Path) -> Option<f64> {
    let stat = std::fs::read_to_string(dir.join("stat")).ok()?;
    // The name of the program, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    // proc_pid_stat(5): utime and stime are the 14th and 15th, counted from the pid.
    let mut ticks = fields.split_ascii_whitespace().skip(11);
    let [user, system] = [ticks.next()?, ticks.next()?].map(|field| field.parse::<f64>().ok());
    Some((user? + system?) / TICKS)
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_os = "linux")]
    fn time_passes_while_working() {
        let before = super::seconds().unwrap();
        let mut sum = 0u64;
        while super::seconds().unwrap() <= before {
            (0..1_000_000u64).for_each(|n| sum = std::hint::black_box(sum ^ n));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_that_does_nothing_takes_no_time() {
        let idle = std::thread::scope(|scope| {
            let idle = scope.spawn(|| super::seconds_of(&super::this_thread().unwrap()));
            idle.join().unwrap()
        });
        assert!(idle.unwrap() < 0.1);
        let this = super::this_thread().unwrap();
        let mut sum = 0u64;
        while super::seconds_of(&this).unwrap() < 0.05 {
            (0..1_000_000u64).for_each(|n| sum = std::hint::black_box(sum ^ n));
        }
    }
}
