//! When a database has no more to do in the background.
//!
//! Owns the verdict. The engine does not say that it is idle, so it is told by its
//! counters and by the processor time that its threads take. Invariant: nothing counts as
//! settled while a retry of a failure is due. Must not know: what the work is.

use std::path::PathBuf;
use std::time::Duration;

use esker::Db;

use super::cpu;
use crate::failure::Failure;

/// Longer than background threads wait before they look for work again.
const LOOK: Duration = Duration::from_millis(600);
/// Looks in a row that must find nothing done, where processor time is told and where not.
const LOOKS: (u32, u32) = (2, 5);
/// Share of a look's time that threads may have run who only looked for work.
const IDLE: f64 = 0.1;

/// What changes whenever something is done.
type Done = (u64, u64, u64, u64, usize, u64);

/// Waits until nothing is done any more. The processor time of `searcher`, a thread of the
/// caller's, is not counted.
pub(super) fn settle(db: &Db, searcher: &dyn Fn() -> Option<PathBuf>) -> Result<(), Failure> {
    let (mut before, mut idle) = (done(db)?, 0);
    let mut cpu_before = background_seconds(searcher);
    loop {
        std::thread::sleep(LOOK);
        let (now, cpu_now) = (done(db)?, background_seconds(searcher));
        let ran = cpu_now.zip(cpu_before).map(|(now, before)| now - before);
        let is_idle = now == before
            && db.stats().build_bytes == 0
            && ran.is_none_or(|ran| ran <= LOOK.as_secs_f64() * IDLE);
        idle = if is_idle { idle + 1 } else { 0 };
        let looks = if ran.is_some() { LOOKS.0 } else { LOOKS.1 };
        if idle >= looks {
            return Ok(());
        }
        (before, cpu_before) = (now, cpu_now);
    }
}

fn done(db: &Db) -> Result<Done, Failure> {
    let stats = db.stats();
    if let Some(error) = stats.background_error {
        return Err(Failure::Failed(error));
    }
    Ok((
        stats.flushes,
        stats.merges,
        stats.bytes_written_segments,
        stats.graph_rows_built,
        stats.segments,
        stats.memory.frozen_memtables.total(),
    ))
}

fn background_seconds(searcher: &dyn Fn() -> Option<PathBuf>) -> Option<f64> {
    // One that has ended counts as everything else does.
    let of_searcher = searcher().and_then(|thread| cpu::seconds_of(&thread));
    Some(cpu::seconds()? - of_searcher.unwrap_or(0.0))
}
