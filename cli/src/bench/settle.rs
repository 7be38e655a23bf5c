//! When a database has no more to do in the background.
//!
//! Owns the verdict. The engine does not say that it is idle, so it is told by its
//! counters and by the processor time that its threads take. Invariants: nothing counts as
//! settled while a retry of a failure or a merge is due, one that runs among them; what
//! the verdict itself waits for is no part of the time that it tells. Must not know: what
//! the work is.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use esker::Db;

use super::cpu;
use crate::failure::Failure;

/// Longer than background threads wait before they look for work again.
const LOOK: Duration = Duration::from_millis(600);
/// Looks in a row that must find nothing done, where processor time is told and where not.
const LOOKS: (u32, u32) = (2, 5);
/// Looks in a row at merges that are due and that nobody does, before that is an error.
const STUCK_LOOKS: u32 = 200;
/// Share of a look's time that threads may have run who only looked for work.
const IDLE: f64 = 0.1;

/// Whether the merges that the policy wants are to come, too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Merges {
    AreDone,
    /// The database was opened without them.
    StayDue,
}

/// What changes whenever something is done.
type Done = (u64, u64, u64, u64, usize, u64);

/// What one look finds.
struct Look {
    done: Done,
    merges_due: u64,
    builds: bool,
    /// Seconds that threads ran since the look before, where that is told.
    ran: Option<f64>,
}

/// What the looks so far amount to.
struct Verdict {
    before: Done,
    /// Looks in a row that found nothing done.
    idle: u32,
    /// When one last found something done, or at work.
    last_change: Duration,
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Work,
    /// Nothing is left to do since then.
    Settled(Duration),
    Stuck,
}

impl Verdict {
    fn new(before: Done) -> Self {
        Self {
            before,
            idle: 0,
            last_change: Duration::ZERO,
        }
    }

    /// A look so long after the wait began.
    fn look(&mut self, at: Duration, look: &Look) -> Found {
        let is_idle = look.done == self.before
            && !look.builds
            && look.ran.is_none_or(|ran| ran <= LOOK.as_secs_f64() * IDLE);
        self.before = look.done;
        self.idle = if is_idle { self.idle + 1 } else { 0 };
        if !is_idle || look.merges_due > 0 {
            self.last_change = at;
        }
        let looks = if look.ran.is_some() { LOOKS.0 } else { LOOKS.1 };
        match look.merges_due {
            0 if self.idle >= looks => Found::Settled(self.last_change),
            1.. if self.idle >= STUCK_LOOKS => Found::Stuck,
            _ => Found::Work,
        }
    }
}

/// Waits until nothing is done any more; when it was last found at work, to the length of a
/// look. The processor time of `searcher`, a thread of the caller's, is not counted.
pub(super) fn settle(
    db: &Db,
    merges: Merges,
    searcher: &dyn Fn() -> Option<PathBuf>,
) -> Result<Instant, Failure> {
    let began = Instant::now();
    let mut verdict = Verdict::new(look(db, merges, None)?.done);
    let mut cpu_before = background_seconds(searcher);
    loop {
        std::thread::sleep(LOOK);
        let cpu_now = background_seconds(searcher);
        let ran = cpu_now.zip(cpu_before).map(|(now, before)| now - before);
        match verdict.look(began.elapsed(), &look(db, merges, ran)?) {
            Found::Settled(after) => return Ok(began + after),
            Found::Stuck => return Err(Failure::failed("merges are due, and none is done")),
            Found::Work => cpu_before = cpu_now,
        }
    }
}

fn look(db: &Db, merges: Merges, ran: Option<f64>) -> Result<Look, Failure> {
    let stats = db.stats();
    if let Some(error) = stats.background_error {
        return Err(Failure::Failed(error));
    }
    let done = (
        stats.flushes,
        stats.merges + stats.merges_cancelled,
        stats.bytes_written_segments,
        stats.graph_rows_built,
        stats.segments,
        stats.memory.frozen_memtables.total(),
    );
    Ok(Look {
        done,
        // One that runs is due until it is committed.
        merges_due: match merges {
            Merges::AreDone => stats.merges_due,
            Merges::StayDue => 0,
        },
        builds: stats.build_bytes > 0,
        ran,
    })
}

fn background_seconds(searcher: &dyn Fn() -> Option<PathBuf>) -> Option<f64> {
    // One that has ended counts as everything else does.
    let of_searcher = searcher().and_then(|thread| cpu::seconds_of(&thread));
    Some(cpu::seconds()? - of_searcher.unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks, one a second, at what was done; the verdict and after how many of them.
    fn judge(looks: impl IntoIterator<Item = (u64, Look)>) -> (u64, Found) {
        let mut verdict = Verdict::new((0, 0, 0, 0, 0, 0));
        let mut count = 0;
        for (flushes, mut look) in looks {
            count += 1;
            look.done.0 = flushes;
            let found = verdict.look(Duration::from_secs(count), &look);
            if found != Found::Work {
                return (count, found);
            }
        }
        (count, Found::Work)
    }

    fn idle() -> Look {
        Look {
            done: (0, 0, 0, 0, 0, 0),
            merges_due: 0,
            builds: false,
            ran: Some(0.0),
        }
    }

    fn settled(seconds: u64) -> Found {
        Found::Settled(Duration::from_secs(seconds))
    }

    #[test]
    fn what_was_done_last_is_the_end() {
        assert_eq!(judge([(0, idle()), (0, idle())]), (2, settled(0)));
        let looks = [1, 2, 2, 3, 3, 3].map(|flushes| (flushes, idle()));
        assert_eq!(judge(looks), (6, settled(4)));
        // Where nobody tells processor time, more looks are needed.
        let untold = || Look {
            ran: None,
            ..idle()
        };
        let looks = [1, 1, 1, 1, 1, 1].map(|flushes| (flushes, untold()));
        assert_eq!(judge(looks), (6, settled(1)));
    }

    #[test]
    fn threads_at_work_and_graphs_that_are_built_are_no_rest() {
        let ran = |ran| Look {
            ran: Some(ran),
            ..idle()
        };
        let looks = [0.0, 0.07, 0.0, 0.06].map(|seconds| (0, ran(seconds)));
        assert_eq!(judge(looks), (4, settled(2)));
        let builds = |builds| Look { builds, ..idle() };
        let looks = [true, false, true, false, false].map(|b| (0, builds(b)));
        assert_eq!(judge(looks), (5, settled(3)));
    }

    /// A merge that waits for its disk leaves no trace in counters or processor time.
    #[test]
    fn a_merge_in_its_middle_is_not_settled() {
        let due = |merges_due| Look {
            merges_due,
            ..idle()
        };
        let quiet = (0..50).map(|_| (0, due(1)));
        assert_eq!(judge(quiet), (50, Found::Work));
        let looks = (0..8).map(|n| (u64::from(n >= 6), due(u64::from(n < 6))));
        assert_eq!(judge(looks), (8, Found::Work));
        let looks = (0..9).map(|n| (u64::from(n >= 6), due(u64::from(n < 6))));
        assert_eq!(judge(looks), (9, settled(7)));
        let stuck = (0..1000).map(|_| (0, due(2)));
        assert_eq!(judge(stuck), (u64::from(STUCK_LOOKS), Found::Stuck));
    }
}
