//! What happens in the middle of a flush, a merge or a sync.
//!
//! Owns the hook that carries it out, and what it reports back: the hook runs while
//! the machine's driver is inside a call and cannot be reached. Must not know: how
//! outcomes enter the model.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use esker::{Db, Error, MergePause};

use super::ops::{Crossing, Inside, Place, WriteSpec};
use super::steps::{batch, options};
use crate::oracle::{Oracle, Queries};
use crate::sim::{Call, CallKind, SimEnv};

/// What a hook did.
#[derive(Default)]
pub(super) struct Done {
    pub(super) ran: bool,
    pub(super) writes: Vec<(WriteSpec, Result<(), Error>)>,
    pub(super) failure: Option<String>,
    /// Merges that must not begin again until the interrupted call is over.
    pause: Option<MergePause>,
    /// Times that one merge was in the middle of another.
    pub(super) merges_at_once: u64,
}

/// Background steps in which a merge in the middle of another must have begun.
const STEPS: usize = 4;

/// A hook that is planned, or was.
pub(super) struct Crossed(Arc<Mutex<Done>>);

impl Crossed {
    /// Plans it for the next call at the crossing's place. `oracle` knows what is
    /// visible now.
    pub(super) fn plan(env: &SimEnv, db: Db, crossing: &Crossing, oracle: Oracle) -> Self {
        let done = Arc::new(Mutex::new(Done::default()));
        let shared = Arc::clone(&done);
        let place = crossing.place;
        let inner = crossing.inner.clone();
        let middle = Middle {
            env: env.clone(),
            db,
            place,
            done: Arc::clone(&done),
        };
        let machine = env.clone();
        env.before(
            move |call| is_at(place, call),
            move || {
                let mut done = shared.lock().unwrap_or_else(PoisonError::into_inner);
                done.ran = true;
                if place == Place::LogSync {
                    return look(&mut done, &machine, &middle.db, &oracle);
                }
                drop(done);
                middle.act(&inner);
            },
        );
        Self(done)
    }

    pub(super) fn take(&self) -> Done {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn is_at(place: Place, call: &Call) -> bool {
    match place {
        Place::SegmentCreate => call.kind == CallKind::Create && is_segment(&call.path),
        Place::SegmentWrite => call.kind == CallKind::Write && is_segment(&call.path),
        Place::SegmentSync => call.kind == CallKind::Sync && is_segment(&call.path),
        Place::LogSync => {
            call.kind == CallKind::Sync && call.path.extension().is_some_and(|e| e == "log")
        }
    }
}

/// A group that is being synced is not visible.
fn look(done: &mut Done, env: &SimEnv, db: &Db, oracle: &Oracle) {
    let queries = Queries {
        seed: 0,
        count: 0,
        every_key: false,
        seen: Arc::default(),
    };
    env.pause_faults(true);
    let result = oracle.check_live(db, &queries);
    env.pause_faults(false);
    done.failure = result
        .err()
        .map(|error| format!("during a sync of the log, {error}"));
}

/// Who acts in the middle of a flush, or of merges that are in the middle of each other.
#[derive(Clone)]
struct Middle {
    env: SimEnv,
    db: Db,
    place: Place,
    done: Arc<Mutex<Done>>,
}

impl Middle {
    /// Not held while anything is done: what is done may be interrupted in turn.
    fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act(&self, inner: &[Inside]) {
        let db = &self.db;
        // A flush in the middle of a flush would wait for it.
        let merging = || db.stats().merges_running > 0;
        for (inside, n) in inner.iter().zip(1..) {
            match inside {
                Inside::Write(spec) => {
                    let Ok(batch) = batch(db, spec) else { return };
                    let result = db.try_write(batch, options(spec)).map(drop);
                    self.done().writes.push((spec.clone(), result));
                }
                // Planned failures are judged by what later operations find.
                Inside::Flush if merging() => drop(db.flush()),
                Inside::Merge if merging() => return self.merge(&inner[n..]),
                Inside::Flush | Inside::Merge => {}
                Inside::EndMerges { paused } => {
                    self.done().pause = paused.then(|| db.pause_merges());
                    db.cancel_merges();
                }
            }
        }
    }

    /// A merge in the middle of this one, if one is due.
    fn merge(&self, inner: &[Inside]) {
        // Else the flush of what is in memory could be what is interrupted.
        if self.db.flush().is_err() {
            return;
        }
        let running = self.db.stats().merges_running;
        let (middle, inner) = (self.clone(), inner.to_vec());
        let place = self.place;
        self.env.before(
            move |call| is_at(place, call),
            move || {
                if middle.db.stats().merges_running > running {
                    middle.done().merges_at_once += 1;
                    middle.act(&inner);
                }
            },
        );
        for _ in 0..STEPS {
            if !matches!(self.db.run_background_step(), Ok(true)) {
                break;
            }
        }
    }
}

/// How far the merge of an entanglement got.
enum Event {
    /// It waits before the first byte of its output.
    Planned,
    Finished,
}

/// A merge that runs beside the driver's thread. It only ever runs while the
/// driver waits, so a run stays a function of its case.
pub(super) struct Merge {
    thread: JoinHandle<Result<(), Error>>,
    go: Sender<()>,
}

impl Merge {
    /// Begins to compact a database that has nothing to flush. `None` with the
    /// result if there was nothing to merge.
    pub(super) fn begin(env: &SimEnv, db: Db) -> Result<Self, Result<(), Error>> {
        let (events, event) = channel();
        let (go, wait) = channel();
        let planned: Sender<Event> = events.clone();
        env.before(
            |call| call.kind == CallKind::Write && is_segment(&call.path),
            move || {
                let _ = planned.send(Event::Planned);
                // An error means that the driver gave up waiting.
                let _ = wait.recv();
            },
        );
        let thread = std::thread::spawn(move || {
            let result = db.compact();
            drop(db);
            let _ = events.send(Event::Finished);
            result
        });
        let merge = Self { thread, go };
        match event.recv() {
            Ok(Event::Planned) => Ok(merge),
            Ok(Event::Finished) | Err(_) => {
                env.clear_hooks();
                Err(merge.finish())
            }
        }
    }

    /// Lets it run to its end.
    pub(super) fn finish(self) -> Result<(), Error> {
        let _ = self.go.send(());
        match self.thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Whether a path is that of a segment being written.
pub(super) fn is_segment(path: &Path) -> bool {
    path.to_string_lossy().ends_with(".segment.tmp")
}
