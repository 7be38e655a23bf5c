//! Models of group commit: every interleaving, up to a preemption bound, of a few
//! threads that share one queue.
//!
//! Owns a sink that checks the contract as it is called: no two calls overlap, the
//! order of the steps is kept, what must be durable is so before it is visible.
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p esker-wal --test loom_group --release`.
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use esker_wal::{CommitSink, GroupCommit, MAX_GROUP_BYTES, Sequenced};
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// Which call of the sink goes wrong, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    AppendFails,
    SyncFails,
    ApplyPanics,
}

#[derive(Clone, Copy)]
struct Write {
    sync: bool,
    weight: usize,
}

/// First SeqNos, in the order in which they got there.
#[derive(Default)]
struct Log {
    appended: Vec<u64>,
    synced: Vec<u64>,
    applied: Vec<u64>,
    /// Those that asked for a sync.
    wanted: Vec<u64>,
    /// A sync failed: nothing is taken any more, as the contract asks.
    refuses: bool,
}

struct Model {
    log: Mutex<Log>,
    visible: AtomicU64,
    /// Set while somebody leads, or keeps leaders out.
    busy: AtomicBool,
    /// Consumed by the first group that meets it.
    fault: Mutex<Fault>,
}

impl Model {
    fn new(fault: Fault) -> Self {
        Self {
            log: Mutex::default(),
            visible: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            fault: Mutex::new(fault),
        }
    }

    fn exclusively<R>(&self, f: impl FnOnce() -> R) -> R {
        assert!(!self.busy.swap(true, Ordering::SeqCst), "two threads lead");
        let result = f();
        self.busy.store(false, Ordering::SeqCst);
        result
    }

    fn meets(&self, fault: Fault) -> bool {
        let mut pending = self.fault.lock().unwrap();
        let met = *pending == fault;
        if met {
            *pending = Fault::None;
        }
        met
    }

    fn is_applied(&self, seqno: u64) -> bool {
        self.log.lock().unwrap().applied.contains(&seqno)
    }

    fn is_synced(&self, seqno: u64) -> bool {
        self.log.lock().unwrap().synced.contains(&seqno)
    }
}

impl CommitSink for Model {
    type Request = Write;
    type Error = &'static str;

    fn weight(request: &Write) -> usize {
        request.weight
    }

    fn wants_sync(request: &Write) -> bool {
        request.sync
    }

    fn append(&self, group: &mut [Sequenced<Write>]) -> Result<(), &'static str> {
        self.exclusively(|| {
            if self.meets(Fault::AppendFails) {
                return Err("append failed");
            }
            let mut log = self.log.lock().unwrap();
            if log.refuses {
                return Err("sync failed");
            }
            for member in group {
                assert!(
                    log.appended
                        .last()
                        .is_none_or(|&last| last < member.first_seqno)
                );
                log.appended.push(member.first_seqno);
                if member.request.sync {
                    log.wanted.push(member.first_seqno);
                }
            }
            Ok(())
        })
    }

    fn sync(&self) -> Result<(), &'static str> {
        self.exclusively(|| {
            if self.meets(Fault::SyncFails) {
                self.log.lock().unwrap().refuses = true;
                return Err("sync failed");
            }
            let mut log = self.log.lock().unwrap();
            log.synced = log.appended.clone();
            Ok(())
        })
    }

    fn apply(&self, group: Vec<Sequenced<Write>>) {
        self.exclusively(|| {
            let mut log = self.log.lock().unwrap();
            for member in group {
                let seqno = member.first_seqno;
                assert!(log.appended.contains(&seqno), "applied what was not logged");
                log.applied.push(seqno);
            }
        });
        if self.meets(Fault::ApplyPanics) {
            std::panic::resume_unwind(Box::new("apply panicked"));
        }
    }

    fn publish(&self, last: u64) {
        self.exclusively(|| {
            let log = self.log.lock().unwrap();
            assert_eq!(
                log.applied.last(),
                Some(&last),
                "published what is not readable"
            );
            assert!(
                log.wanted.iter().all(|seqno| log.synced.contains(seqno)),
                "visible too early"
            );
            assert!(
                self.visible.swap(last, Ordering::SeqCst) < last,
                "visibility went back"
            );
        });
    }

    /// Time does not pass here: a wait is over at once, whoever came meanwhile.
    fn patience(&self) -> std::time::Duration {
        std::time::Duration::from_secs(1)
    }

    fn leader_panicked(&self) -> &'static str {
        self.busy.store(false, Ordering::SeqCst);
        "leader panicked"
    }
}

/// Runs `model` in every interleaving with at most three preemptions.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

type Shared = (GroupCommit<Model>, Model);

fn shared(fault: Fault) -> Arc<Shared> {
    Arc::new((GroupCommit::new(1), Model::new(fault)))
}

/// A writer, and what it must find when it is told that it succeeded.
fn write(shared: &Shared, sync: bool) -> Result<u64, &'static str> {
    write_weighing(1, shared, sync)
}

fn write_weighing(weight: usize, shared: &Shared, sync: bool) -> Result<u64, &'static str> {
    let (group, sink) = shared;
    let ticket = group.enqueue(Write { sync, weight }, 1);
    let result = group.wait(sink, &ticket);
    if let Ok(seqno) = result {
        assert_eq!(seqno, ticket.last_seqno());
        assert!(
            sink.visible.load(Ordering::SeqCst) >= seqno,
            "acknowledged, not visible"
        );
        assert!(sink.is_applied(seqno));
        assert!(
            !sync || sink.is_synced(seqno),
            "acknowledged before its sync"
        );
    }
    assert_eq!(group.outcome(&ticket), Some(result), "an outcome is final");
    result
}

#[test]
fn loom_acknowledged_after_own_sync_and_nothing_lost_or_doubled() {
    explore(|| {
        let shared = shared(Fault::None);
        let threads: Vec<_> = [true, false]
            .map(|sync| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || write(&shared, sync).unwrap())
            })
            .into();
        let mut seqnos = vec![write(&shared, true).unwrap()];
        seqnos.extend(threads.into_iter().map(|t| t.join().unwrap()));
        seqnos.sort_unstable();
        assert_eq!(seqnos, [1, 2, 3]);
        assert_eq!(shared.1.log.lock().unwrap().applied, [1, 2, 3]);
        assert!(!shared.0.has_queued());
    });
}

#[test]
fn loom_visible_never_before_durable() {
    explore(|| {
        let shared = shared(Fault::None);
        let writer = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || write(&shared, true).unwrap())
        };
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let visible = shared.1.visible.load(Ordering::SeqCst);
                for seqno in 1..=visible {
                    assert!(shared.1.is_synced(seqno), "a reader saw an unsynced write");
                    assert!(
                        shared.1.is_applied(seqno),
                        "a reader saw a SeqNo without its rows"
                    );
                }
            })
        };
        write(&shared, true).unwrap();
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

/// The group that fails is told so and leaves no trace; the other ones go on.
fn failure(fault: Fault, error: &'static str) {
    explore(move || {
        let shared = shared(fault);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || write(&shared, true))
            })
            .collect();
        let mut results = vec![write(&shared, true)];
        results.extend(threads.into_iter().map(|t| t.join().unwrap()));
        let sound: Vec<u64> = {
            let mut sound: Vec<_> = results.iter().filter_map(|r| r.ok()).collect();
            sound.sort_unstable();
            sound
        };
        assert!(sound.len() < 3, "the failure was swallowed");
        assert!(results.iter().filter_map(|r| r.err()).all(|e| e == error));
        assert_eq!(shared.0.next_seqno(), 4, "SeqNos are not reused");
        let visible = shared.1.visible.load(Ordering::SeqCst);
        assert_eq!(visible, sound.last().copied().unwrap_or(0));
        let log = shared.1.log.lock().unwrap();
        let applied = log.applied.iter().copied();
        let seen: Vec<_> = applied.filter(|&seqno| seqno <= visible).collect();
        assert_eq!(
            seen, sound,
            "something of a failed group is visible, or lost"
        );
        if fault == Fault::AppendFails {
            assert_eq!(
                log.applied, sound,
                "something was applied that is not logged"
            );
        }
    });
}

#[test]
fn loom_failed_append_wakes_everyone_and_stays_invisible() {
    failure(Fault::AppendFails, "append failed");
}

#[test]
fn loom_failed_sync_wakes_everyone_and_stays_invisible() {
    failure(Fault::SyncFails, "sync failed");
}

#[test]
fn loom_with_leadership_excludes_leaders() {
    explore(|| {
        let shared = shared(Fault::None);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || write(&shared, true).unwrap())
            })
            .collect();
        let (group, sink) = &*shared;
        let between_groups = group.with_leadership(|| {
            sink.exclusively(|| {
                let log = sink.log.lock().unwrap();
                assert_eq!(
                    log.appended.len(),
                    log.applied.len(),
                    "a group is in flight"
                );
                thread::yield_now();
                log.applied.len()
            })
        });
        assert!(between_groups <= 2);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(shared.1.log.lock().unwrap().applied, [1, 2]);
    });
}

#[test]
fn loom_leader_panic_wakes_everyone() {
    explore(|| {
        let shared = shared(Fault::ApplyPanics);
        let attempt = |shared: &Shared| catch_unwind(AssertUnwindSafe(|| write(shared, true)));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || attempt(&shared))
            })
            .collect();
        let mut results = vec![attempt(&shared)];
        results.extend(threads.into_iter().map(|t| t.join().unwrap()));
        let panicked = results.iter().filter(|r| r.is_err()).count();
        assert_eq!(panicked, 1, "only the leader unwinds");
        for result in results.into_iter().flatten() {
            assert!(matches!(result, Ok(_) | Err("leader panicked")));
        }
        // Leadership is free again.
        assert_eq!(write(&shared, true), Ok(4));
    });
}

/// Nobody waits for a submitted request but a thread that serves the queue, and a
/// writer that arrives meanwhile must neither miss its turn nor take it twice.
#[test]
fn loom_a_serving_thread_and_a_writer_share_the_work() {
    explore(|| {
        let shared = shared(Fault::None);
        let submitted = shared.0.enqueue(
            Write {
                sync: false,
                weight: 1,
            },
            1,
        );
        let server = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || while shared.0.lead_once(&shared.1) {})
        };
        assert_eq!(write(&shared, true), Ok(2));
        server.join().unwrap();
        // In the queue in front of the writer, so it was committed by then.
        assert_eq!(shared.0.outcome(&submitted), Some(Ok(1)));
        assert_eq!(shared.1.log.lock().unwrap().applied, [1, 2]);
    });
}

/// Two threads wait for one ticket: one of them leads, both are told.
#[test]
fn loom_clones_of_a_ticket_are_all_told() {
    explore(|| {
        let shared = shared(Fault::None);
        let ticket = shared.0.enqueue(
            Write {
                sync: true,
                weight: 1,
            },
            1,
        );
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (shared, ticket) = (Arc::clone(&shared), ticket.clone());
                thread::spawn(move || shared.0.wait(&shared.1, &ticket))
            })
            .collect();
        shared.0.with_leadership(thread::yield_now);
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Ok(1));
        }
        assert_eq!(shared.1.log.lock().unwrap().applied, [1]);
    });
}

/// One of three leads at once; both others are parked when the outcome comes.
#[test]
fn loom_every_thread_parked_on_a_ticket_is_woken() {
    explore(|| {
        let shared = shared(Fault::None);
        let ticket = shared.0.enqueue(
            Write {
                sync: false,
                weight: 1,
            },
            1,
        );
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (shared, ticket) = (Arc::clone(&shared), ticket.clone());
                thread::spawn(move || shared.0.wait(&shared.1, &ticket))
            })
            .collect();
        assert_eq!(shared.0.wait(&shared.1, &ticket), Ok(1));
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Ok(1));
        }
    });
}

/// Groups of one: leadership is handed over while members are queued.
#[test]
fn loom_leadership_is_handed_to_those_who_wait() {
    explore(|| {
        let shared = shared(Fault::None);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || write_weighing(MAX_GROUP_BYTES, &shared, false).unwrap())
            })
            .collect();
        write_weighing(MAX_GROUP_BYTES, &shared, false).unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(shared.1.log.lock().unwrap().applied, [1, 2, 3]);
    });
}
