//! What this process holds in memory, where the system tells (Linux).
//!
//! Must not know: what the memory is used for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use esker::Options;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// The most memory that was ever resident, in MiB.
pub(super) fn peak_rss_mb() -> Option<f64> {
    status_mb("VmHWM:")
}

/// Makes [`peak_rss_mb`] begin anew with what is resident now; whether it does.
pub(super) fn forget_peak() -> bool {
    // What 5 means: proc_pid_clear_refs(5).
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Memory that is resident, mapped files among it, in MiB.
pub(super) fn rss_mb() -> Option<f64> {
    status_mb("VmRSS:")
}

/// Resident memory that no file backs, so that the kernel cannot take it back, in MiB.
pub(super) fn anon_mb() -> Option<f64> {
    status_mb("RssAnon:")
}

/// Does something; and the most that [`anon_mb`] grew to meanwhile, looked at every few
/// milliseconds.
pub(super) fn with_peak_anon<T>(work: impl FnOnce() -> T) -> (T, Option<f64>) {
    let is_over = AtomicBool::new(false);
    let before = anon_mb();
    thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut most = before;
            while !is_over.load(Ordering::Relaxed) {
                most = most.into_iter().chain(anon_mb()).reduce(f64::max);
                thread::sleep(LOOK);
            }
            most.zip(before).map(|(most, before)| most - before)
        });
        let end = End(&is_over);
        let done = work();
        drop(end);
        (done, looks.join().ok().flatten())
    })
}

/// Tells threads beside some work that it is over, also when it panics.
pub(super) struct End<'a>(pub(super) &'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Options with a memory budget of so many MiB, if one is asked for.
pub(super) fn within(options: Options, mib: Option<u64>) -> Options {
    match mib {
        Some(mib) => options.memory_budget(usize::try_from(mib << 20).unwrap_or(usize::MAX)),
        None => options,
    }
}

fn status_mb(field: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_what_the_kernel_says() {
        let [anon, rss, peak] = [anon_mb(), rss_mb(), peak_rss_mb()].map(Option::unwrap);
        assert!((1.0..100_000.0).contains(&peak), "{peak}");
        if forget_peak() {
            assert!(peak_rss_mb().unwrap() <= peak.max(rss_mb().unwrap()) + 1.0);
        }
        assert!(0.0 < anon && anon < rss, "{anon} of {rss}");
    }
}
