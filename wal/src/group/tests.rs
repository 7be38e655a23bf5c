//! Handing leadership over, step by step.
//!
//! Owns what neither the models nor real threads show alone: which thread is parked
//! when. These tests look at the queue to know it, so they are in here. Invariant:
//! nothing depends on how fast a thread is.
#![allow(clippy::unwrap_used, reason = "a test that fails should say so")]
#![allow(
    clippy::disallowed_methods,
    reason = "tests start threads of their own"
)]

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, Scope, ScopedJoinHandle};

use super::{CommitSink, GroupCommit, Sequenced, lock};

/// What the device shall do with a group that was appended.
#[derive(Clone, Copy)]
enum Verdict {
    Succeed,
    Fail,
    Panic,
}

/// Tells of each append, and goes on when it is told how.
struct Gate {
    appended: Sender<Vec<u64>>,
    verdicts: Mutex<Receiver<Verdict>>,
}

impl CommitSink for Gate {
    type Request = ();
    type Error = &'static str;

    fn weight((): &()) -> usize {
        1
    }

    fn wants_sync((): &()) -> bool {
        false
    }

    fn append(&self, group: &mut [Sequenced<()>]) -> Result<(), &'static str> {
        let seqnos = group.iter().map(|member| member.first_seqno).collect();
        self.appended.send(seqnos).unwrap();
        let verdict = self.verdicts.lock().unwrap().recv().unwrap();
        match verdict {
            Verdict::Succeed => Ok(()),
            Verdict::Fail => Err("the device is full"),
            // Not a panic with a message: nobody wants it in the output of the tests.
            Verdict::Panic => std::panic::resume_unwind(Box::new("planned")),
        }
    }

    fn sync(&self) -> Result<(), &'static str> {
        Ok(())
    }

    fn apply(&self, _: Vec<Sequenced<()>>) {}

    fn publish(&self, _: u64) {}

    fn leader_panicked(&self) -> &'static str {
        "the leader panicked"
    }
}

struct Bench {
    group: GroupCommit<Gate>,
    gate: Gate,
    verdicts: Sender<Verdict>,
}

fn bench() -> (Bench, Receiver<Vec<u64>>) {
    let (appended, told) = channel();
    let (verdicts, answers) = channel();
    let gate = Gate {
        appended,
        verdicts: Mutex::new(answers),
    };
    let group = GroupCommit::new(1);
    let bench = Bench {
        group,
        gate,
        verdicts,
    };
    (bench, told)
}

type Outcome = Result<u64, &'static str>;

impl Bench {
    /// A thread that writes once and waits for it.
    fn writer<'s>(&'s self, scope: &'s Scope<'s, '_>) -> ScopedJoinHandle<'s, Outcome> {
        scope.spawn(|| {
            let ticket = self.group.enqueue((), 1);
            self.group.wait(&self.gate, &ticket)
        })
    }

    /// Another one, which is parked behind the leader when this returns.
    fn parked<'s>(&'s self, scope: &'s Scope<'s, '_>) -> ScopedJoinHandle<'s, Outcome> {
        let before = lock(&self.group.state).parked.len();
        let writer = self.writer(scope);
        while lock(&self.group.state).parked.len() == before {
            thread::yield_now();
        }
        writer
    }

    fn say(&self, verdict: Verdict) {
        self.verdicts.send(verdict).unwrap();
    }
}

#[test]
fn the_thread_that_waited_longest_leads_next_and_the_others_are_told() {
    let (bench, appended) = bench();
    thread::scope(|scope| {
        let first = bench.writer(scope);
        assert_eq!(appended.recv().unwrap(), [1]);
        let second = bench.parked(scope);
        let third = bench.parked(scope);
        assert!(
            !bench.group.lead_once(&bench.gate),
            "somebody leads already"
        );
        bench.say(Verdict::Succeed);
        assert_eq!(first.join().unwrap(), Ok(1));
        assert_eq!(appended.recv().unwrap(), [2, 3], "one group for both");
        bench.say(Verdict::Succeed);
        assert_eq!(second.join().unwrap(), Ok(2));
        assert_eq!(third.join().unwrap(), Ok(3));
    });
    let state = lock(&bench.group.state);
    assert!(!state.led && state.parked.is_empty() && state.queue.is_empty());
}

#[test]
fn a_ticket_s_copy_has_its_outcome() {
    let (bench, appended) = bench();
    thread::scope(|scope| {
        let first = bench.writer(scope);
        appended.recv().unwrap();
        let ticket = bench.group.enqueue((), 2);
        let copy = ticket.clone();
        assert_eq!(bench.group.outcome(&copy), None);
        bench.say(Verdict::Succeed);
        first.join().unwrap().unwrap();
        bench.say(Verdict::Fail);
        assert!(bench.group.lead_once(&bench.gate));
        for ticket in [&ticket, &copy] {
            let outcome = Err("the device is full");
            assert_eq!(bench.group.wait(&bench.gate, ticket), outcome);
        }
    });
}

#[test]
fn a_leader_that_panics_tells_its_group_and_the_next_one_leads() {
    let (bench, appended) = bench();
    thread::scope(|scope| {
        let first = bench.writer(scope);
        appended.recv().unwrap();
        // Parked in this order, so the second leads a group of two.
        let second = bench.parked(scope);
        let third = bench.parked(scope);
        bench.say(Verdict::Panic);
        assert!(first.join().is_err(), "the panic is the leader's own");
        assert_eq!(appended.recv().unwrap(), [2, 3]);
        let fourth = bench.parked(scope);
        bench.say(Verdict::Panic);
        assert!(second.join().is_err());
        assert_eq!(third.join().unwrap(), Err("the leader panicked"));
        assert_eq!(appended.recv().unwrap(), [4], "no group was lost for it");
        bench.say(Verdict::Succeed);
        assert_eq!(fourth.join().unwrap(), Ok(4));
    });
}
