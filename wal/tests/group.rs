//! Group commit with real threads and a real schedule; `loom_group.rs` has the
//! exhaustive models of the protocol.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test that fails should say so")]
#![allow(
    clippy::disallowed_methods,
    reason = "tests start threads of their own"
)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use esker_wal::{CommitSink, GroupCommit, MAX_GROUP_BYTES, MAX_GROUP_MEMBERS, Sequenced};

#[derive(Clone, Copy)]
struct Write {
    weight: usize,
    sync: bool,
}

impl Write {
    fn light(sync: bool) -> Self {
        Self { weight: 1, sync }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Append(Vec<u64>),
    Sync,
    Apply(Vec<u64>),
    Publish(u64),
}

/// Remembers what it was asked to do.
#[derive(Default)]
struct Recorder {
    steps: Mutex<Vec<Step>>,
    visible: AtomicU64,
    fail_sync: AtomicBool,
}

impl Recorder {
    fn note(&self, step: Step) {
        self.steps.lock().unwrap().push(step);
    }

    fn take(&self) -> Vec<Step> {
        std::mem::take(&mut self.steps.lock().unwrap())
    }

    fn applied(&self) -> Vec<u64> {
        let steps = self.steps.lock().unwrap();
        let groups = steps.iter().filter_map(|step| match step {
            Step::Apply(seqnos) => Some(seqnos.clone()),
            _ => None,
        });
        groups.flatten().collect()
    }
}

fn seqnos(group: &[Sequenced<Write>]) -> Vec<u64> {
    group.iter().map(|member| member.first_seqno).collect()
}

impl CommitSink for Recorder {
    type Request = Write;
    type Error = &'static str;

    fn weight(request: &Write) -> usize {
        request.weight
    }

    fn wants_sync(request: &Write) -> bool {
        request.sync
    }

    fn append(&self, group: &mut [Sequenced<Write>]) -> Result<(), &'static str> {
        self.note(Step::Append(seqnos(group)));
        Ok(())
    }

    fn sync(&self) -> Result<(), &'static str> {
        self.note(Step::Sync);
        if self.fail_sync.load(Ordering::SeqCst) {
            Err("sync failed")
        } else {
            Ok(())
        }
    }

    fn apply(&self, group: Vec<Sequenced<Write>>) {
        self.note(Step::Apply(seqnos(&group)));
    }

    fn publish(&self, last: u64) {
        self.note(Step::Publish(last));
        assert!(self.visible.swap(last, Ordering::SeqCst) < last);
    }

    fn leader_panicked(&self) -> &'static str {
        "leader panicked"
    }
}

#[test]
fn a_group_takes_its_steps_in_order_and_syncs_only_if_a_member_wants_it() {
    let (group, sink) = (GroupCommit::new(10), Recorder::default());
    assert!(!group.lead_once(&sink), "nothing is queued");
    let first = group.enqueue(Write::light(false), 3);
    let second = group.enqueue(Write::light(true), 1);
    assert_eq!((first.last_seqno(), second.last_seqno()), (12, 13));
    assert_eq!((group.next_seqno(), group.has_queued()), (14, true));
    assert_eq!(group.outcome(&first), None);
    assert!(group.lead_once(&sink));
    let seqnos = vec![10, 13];
    assert_eq!(
        sink.take(),
        [
            Step::Append(seqnos.clone()),
            Step::Apply(seqnos),
            Step::Sync,
            Step::Publish(13)
        ]
    );
    assert_eq!(group.outcome(&first), Some(Ok(12)));
    assert_eq!(group.wait(&sink, &second), Ok(13), "known by now");

    let third = group.enqueue(Write::light(false), 1);
    assert_eq!(group.wait(&sink, &third), Ok(14));
    assert_eq!(
        sink.take(),
        [
            Step::Append(vec![14]),
            Step::Apply(vec![14]),
            Step::Publish(14)
        ],
        "nobody asked for a sync"
    );
    assert!(!group.has_queued());
}

#[test]
fn a_failed_sync_fails_every_member_and_shows_none() {
    let (group, sink) = (GroupCommit::new(1), Recorder::default());
    sink.fail_sync.store(true, Ordering::SeqCst);
    let bystander = group.enqueue(Write::light(false), 1);
    let failed = group.enqueue(Write::light(true), 1);
    assert_eq!(group.wait(&sink, &failed), Err("sync failed"));
    assert_eq!(group.outcome(&bystander), Some(Err("sync failed")));
    assert_eq!(
        sink.take(),
        [
            Step::Append(vec![1, 2]),
            Step::Apply(vec![1, 2]),
            Step::Sync
        ]
    );

    sink.fail_sync.store(false, Ordering::SeqCst);
    let next = group.enqueue(Write::light(true), 1);
    assert_eq!(
        group.wait(&sink, &next),
        Ok(3),
        "SeqNos 1 and 2 are not given again"
    );
}

#[test]
fn groups_are_bounded_by_members_and_by_weight() {
    let (group, sink) = (GroupCommit::new(1), Recorder::default());
    let sizes = |sink: &Recorder| -> Vec<usize> {
        let steps = sink.take().into_iter();
        steps
            .filter_map(|s| {
                if let Step::Append(g) = s {
                    Some(g.len())
                } else {
                    None
                }
            })
            .collect()
    };
    for _ in 0..MAX_GROUP_MEMBERS + 1 {
        group.enqueue(Write::light(false), 1);
    }
    while group.lead_once(&sink) {}
    assert_eq!(sizes(&sink), [MAX_GROUP_MEMBERS, 1]);

    let half = MAX_GROUP_BYTES / 2;
    for weight in [half, half, 1, usize::MAX, usize::MAX, MAX_GROUP_BYTES] {
        group.enqueue(
            Write {
                weight,
                sync: false,
            },
            1,
        );
    }
    while group.lead_once(&sink) {}
    assert_eq!(
        sizes(&sink),
        [2, 1, 1, 1, 1],
        "a heavy member goes alone, but it goes"
    );
}

#[test]
fn seqnos_stand_still_when_they_run_out() {
    let group = GroupCommit::<Recorder>::new(u64::MAX - 1);
    assert_eq!(
        group.enqueue(Write::light(false), 5).last_seqno(),
        u64::MAX - 1
    );
    assert_eq!(group.next_seqno(), u64::MAX);
}

/// Writers, submitted requests, a serving thread and freezes, all at once.
#[test]
fn many_threads_lose_and_double_nothing() {
    const WRITERS: u64 = 8;
    const WRITES: u64 = 400;
    let shared = Arc::new((GroupCommit::new(1), Recorder::default()));
    let start = Arc::new(Barrier::new(WRITERS as usize + 2));
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (shared, start) = (Arc::clone(&shared), Arc::clone(&start));
            thread::spawn(move || {
                let (group, sink) = &*shared;
                start.wait();
                for i in 0..WRITES {
                    // Submitted, and left to whoever leads; then one waited for.
                    let left = group.enqueue(Write::light(false), 1);
                    let ticket = group.enqueue(Write::light((i + writer) % 3 == 0), 2);
                    let last = group.wait(sink, &ticket).unwrap();
                    assert!(sink.visible.load(Ordering::SeqCst) >= last);
                    assert_eq!(group.outcome(&left), Some(Ok(left.last_seqno())));
                }
            })
        })
        .collect();
    let others: Vec<_> = [true, false]
        .map(|serves| {
            let (shared, start) = (Arc::clone(&shared), Arc::clone(&start));
            let done = Arc::clone(&done);
            thread::spawn(move || {
                let (group, sink) = &*shared;
                start.wait();
                while !done.load(Ordering::SeqCst) {
                    if serves {
                        group.lead_once(sink);
                    } else {
                        group.with_leadership(|| {
                            let steps = sink.steps.lock().unwrap();
                            let between = matches!(steps.last(), None | Some(Step::Publish(_)));
                            assert!(between, "a group is in flight");
                        });
                    }
                    thread::yield_now();
                }
            })
        })
        .into();
    for writer in writers {
        writer.join().unwrap();
    }
    done.store(true, Ordering::SeqCst);
    for other in others {
        other.join().unwrap();
    }
    let (group, sink) = &*shared;
    assert_eq!(group.next_seqno(), 1 + WRITERS * WRITES * 3);
    let applied = sink.applied();
    assert_eq!(applied.len() as u64, WRITERS * WRITES * 2);
    assert!(
        applied.is_sorted_by(|a, b| a < b),
        "applied in the order of the SeqNos, each once"
    );
}
