//! What happens in the middle of a flush, a merge or a sync.
//!
//! Owns the hook that carries it out, and what it reports back: the hook runs while
//! the machine's driver is inside a call and cannot be reached. Must not know: how
//! outcomes enter the model.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use esker::{Db, Error, MergePause};

use super::ops::{Crossing, Inside, Op, Place, WriteSpec};
use super::steps::{batch, options};
use crate::oracle::{Oracle, Queries};
use crate::sim::{CallKind, SimEnv};

/// What a hook did.
#[derive(Default)]
pub(super) struct Done {
    pub(super) ran: bool,
    pub(super) writes: Vec<(WriteSpec, Result<(), Error>)>,
    pub(super) failure: Option<String>,
    /// Merges that must not begin again until the interrupted call is over.
    pause: Option<MergePause>,
}

/// A hook that is planned, or was.
pub(super) struct Crossed(Arc<Mutex<Done>>);

impl Crossed {
    /// Plans it for the next call at the crossing's place. `oracle` knows what is
    /// visible now.
    pub(super) fn plan(env: &SimEnv, db: Db, crossing: &Crossing, oracle: Oracle) -> Self {
        let done = Arc::new(Mutex::new(Done::default()));
        let shared = Arc::clone(&done);
        let place = crossing.place;
        let merging = matches!(*crossing.outer, Op::Compact | Op::Steps(_));
        let inner = crossing.inner.clone();
        let machine = env.clone();
        env.before(
            move |call| match place {
                Place::SegmentCreate => call.kind == CallKind::Create && is_segment(&call.path),
                Place::SegmentWrite => call.kind == CallKind::Write && is_segment(&call.path),
                Place::SegmentSync => call.kind == CallKind::Sync && is_segment(&call.path),
                Place::LogSync => {
                    call.kind == CallKind::Sync && call.path.extension().is_some_and(|e| e == "log")
                }
            },
            move || {
                let mut done = shared.lock().unwrap_or_else(PoisonError::into_inner);
                done.ran = true;
                match place {
                    Place::LogSync => look(&mut done, &machine, &db, &oracle),
                    _ => {
                        for inside in &inner {
                            act(&mut done, &db, inside, merging);
                        }
                    }
                }
            },
        );
        Self(done)
    }

    pub(super) fn take(&self) -> Done {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
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

fn act(done: &mut Done, db: &Db, inside: &Inside, merging: bool) {
    match inside {
        Inside::Write(spec) => {
            let Ok(batch) = batch(db, spec) else { return };
            let result = db.try_write(batch, options(spec)).map(drop);
            done.writes.push((spec.clone(), result));
        }
        // Planned failures are judged by what later operations find.
        Inside::Flush if merging => drop(db.flush()),
        Inside::Flush => {}
        Inside::EndMerges { paused } => {
            done.pause = paused.then(|| db.pause_merges());
            db.cancel_merges();
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
