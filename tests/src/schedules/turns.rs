//! Whose turn it is.
//!
//! Owns the seeded scheduler: random walks, and priorities that change at a few
//! random places (probabilistic concurrency testing: a bug that needs d ordered
//! places is found with a chance that depends on d, not on the number of threads).
//! Invariant: a schedule depends on its own seed alone, so one that failed can be
//! run again without those before it. Must not know: what the tasks do.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use crate::rng::Rng;

/// Stack of a task: recovery and merges run on it.
const STACK: usize = 512 << 10;

/// Turns of one schedule at most; more would be a livelock.
const MOST_TURNS: usize = 500_000;

/// Turns among which priorities change, about as many as schedules have.
const USUAL_TURNS: [u64; 4] = [50, 300, 1_000, 3_000];

enum Walk {
    /// Passes the turn on with a chance of one in so many.
    Random(u64),
    /// The highest first; the task whose turn it is falls below all others at the
    /// turns of `falls`.
    Priorities {
        of: BTreeMap<usize, u64>,
        falls: BTreeSet<u64>,
        lowest: u64,
    },
}

/// Set by the first schedule that fails: the other threads need not go on.
static FAILED: AtomicBool = AtomicBool::new(false);

struct Turns<S> {
    seeds: S,
    current: Arc<AtomicU64>,
    rng: Rng,
    walk: Walk,
    turn: u64,
}

impl<S: Iterator<Item = u64>> Scheduler for Turns<S> {
    fn new_execution(&mut self) -> Option<Schedule> {
        let next = self.seeds.next();
        let seed = next.filter(|_| !FAILED.load(Ordering::Relaxed))?;
        self.current.store(seed, Ordering::Relaxed);
        self.rng = Rng::part(seed, 0);
        self.turn = 0;
        self.walk = if self.rng.chance(1, 2) {
            Walk::Random([1, 2, 8, 32, 128][self.rng.below(5) as usize])
        } else {
            let turns = USUAL_TURNS[self.rng.below(4) as usize];
            let depth = 1 + self.rng.below(5);
            Walk::Priorities {
                of: BTreeMap::new(),
                falls: (0..depth).map(|_| 1 + self.rng.below(turns)).collect(),
                lowest: 1 << 32,
            }
        };
        Some(Schedule::new(seed))
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        if let [only] = runnable {
            return Some(only.id());
        }
        self.turn += 1;
        match &mut self.walk {
            Walk::Random(of) => {
                let stays = current.filter(|id| runnable.iter().any(|task| task.id() == *id));
                let stays = stays.filter(|_| !is_yielding && !self.rng.chance(1, *of));
                let other = self.rng.below(runnable.len() as u64) as usize;
                Some(stays.unwrap_or_else(|| runnable[other].id()))
            }
            Walk::Priorities { of, falls, lowest } => {
                if let Some(id) = current
                    && (is_yielding || falls.contains(&self.turn))
                {
                    *lowest -= 1;
                    of.insert(id.into(), *lowest);
                }
                for task in runnable {
                    let above = (1 << 32) + self.rng.below(1 << 32);
                    of.entry(task.id().into()).or_insert(above);
                }
                let ids = runnable.iter().map(|task| task.id());
                ids.max_by_key(|&id| of[&id.into()])
            }
        }
    }

    fn next_u64(&mut self) -> u64 {
        self.rng.draw()
    }
}

/// Runs `schedule` once for each seed, in one thread; returns how often.
///
/// # Panics
/// When a schedule does, or when its tasks wait for each other; the seed is printed.
pub fn explore(
    seeds: impl Iterator<Item = u64> + Send + 'static,
    schedule: impl Fn(u64) + Send + Sync + 'static,
) -> usize {
    let current = Arc::new(AtomicU64::new(0));
    let turns = Turns {
        seeds,
        current: Arc::clone(&current),
        rng: Rng::new(0),
        walk: Walk::Random(1),
        turn: 0,
    };
    let mut config = Config::new();
    config.stack_size = STACK;
    config.max_steps = MaxSteps::FailAfter(MOST_TURNS);
    config.failure_persistence = FailurePersistence::None;
    config.silence_warnings = true;
    let of_task = Arc::clone(&current);
    let run = move || schedule(of_task.load(Ordering::Relaxed));
    catch_unwind(AssertUnwindSafe(|| Runner::new(turns, config).run(run))).unwrap_or_else(|panic| {
        FAILED.store(true, Ordering::Relaxed);
        let seed = current.load(Ordering::Relaxed);
        eprintln!("schedule {seed} failed; ESKER_SCHEDULE={seed} runs it alone");
        resume_unwind(panic)
    })
}
