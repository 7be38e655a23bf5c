//! Group commit: many writers share one write and one sync.
//!
//! A writer enters the queue, which gives it its SeqNos. Whoever waits while nobody
//! leads becomes the leader, takes a group from the front of the queue and does
//! everything for it:
//!
//! 1. append all frames: small ones with one write, large ones from where they lie;
//! 2. apply to the memtables, where nobody sees it yet: a device that has begun to
//!    write works meanwhile;
//! 3. sync, if any member asks for it;
//! 4. publish the visible SeqNo;
//! 5. tell each member.
//!
//! It goes on until its own outcome is known and then makes the thread that waited
//! longest the leader. There is no thread of its own, and no thread is woken but
//! for its outcome or to lead.
//!
//! Owns the queue, SeqNo assignment and leadership. Invariants: the queue's order is
//! the SeqNos' order and the order of the log; there is at most one leader; nothing
//! of a group is applied if its append failed, nor published if its sync did; SeqNos
//! are never given twice; every member learns its outcome, even if the leader panics.
//! Must not know: files, memtables, what durability a request asks for. All that is
//! the [`CommitSink`]'s.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use crate::mutants::planted;
use crate::slot::{Slot, Woken};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, lock, wait_for};

mod gather;

use gather::Gather;

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

/// Members of one group at most: bounds the time that a leader works for others.
pub const MAX_GROUP_MEMBERS: usize = 1024;

/// Weight of one group at most, unless a single member is heavier: bounds the
/// memory for joining frames and the time of one write.
pub const MAX_GROUP_BYTES: usize = 16 << 20;

/// What a group is committed to. The leader calls these; no two calls overlap.
pub trait CommitSink {
    /// One writer's batch.
    type Request: Send;
    /// Why a group failed; each of its members gets a clone.
    type Error: Clone + Send;

    /// Bytes that the request adds to the group's write; see [`MAX_GROUP_BYTES`].
    fn weight(request: &Self::Request) -> usize;

    /// Whether the request may become visible only once it is durable.
    fn wants_sync(request: &Self::Request) -> bool;

    /// Appends the group to the log.
    ///
    /// # Errors
    /// Nothing of the group will be applied.
    fn append(&self, group: &mut [Sequenced<Self::Request>]) -> Result<(), Self::Error>;

    /// Puts the group where reads will find it once it is published, in order. It is
    /// in the log by now, and perhaps not durable.
    fn apply(&self, group: Vec<Sequenced<Self::Request>>);

    /// Makes everything that was appended durable.
    ///
    /// # Errors
    /// The group will not be published. It was applied, so the sink has to refuse every
    /// later group: publishing one would show this one, too.
    fn sync(&self) -> Result<(), Self::Error>;

    /// How long a leader may wait for the writers of the group before to come back, so
    /// that one sync serves them all. Worth it only where a sync takes longer.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    /// Lets reads see everything up to the SeqNo `last`.
    fn publish(&self, last: u64);

    /// The error for a group whose outcome is unknown because a call above
    /// panicked. Called while that panic unwinds, so it must not panic itself. The
    /// sink should refuse every later group.
    fn leader_panicked(&self) -> Self::Error;
}

/// A request and the SeqNos that it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequenced<R> {
    /// The first of its SeqNos.
    pub first_seqno: u64,
    /// How many SeqNos belong to it.
    pub count: u32,
    /// What to commit.
    pub request: R,
}

impl<R> Sequenced<R> {
    fn last_seqno(&self) -> u64 {
        last_seqno(self.first_seqno, self.count)
    }
}

fn last_seqno(first: u64, count: u32) -> u64 {
    first.saturating_add(u64::from(count)).saturating_sub(1)
}

/// A request in the queue or beyond. Dropping it does not take the request back.
pub struct Ticket<S: CommitSink> {
    slot: Arc<Slot<S::Error>>,
    last_seqno: u64,
}

impl<S: CommitSink> Ticket<S> {
    /// The last SeqNo that the request was given. Whether it takes effect is the
    /// [outcome](GroupCommit::outcome)'s business.
    #[must_use]
    pub fn last_seqno(&self) -> u64 {
        self.last_seqno
    }

    fn result(&self, outcome: Result<(), S::Error>) -> Result<u64, S::Error> {
        outcome.map(|()| self.last_seqno)
    }
}

impl<S: CommitSink> Clone for Ticket<S> {
    fn clone(&self) -> Self {
        Self {
            slot: Arc::clone(&self.slot),
            last_seqno: self.last_seqno,
        }
    }
}

/// The queue of one log, and who leads.
pub struct GroupCommit<S: CommitSink> {
    state: Mutex<State<S>>,
    /// As many are queued as the leader waits for.
    gathered: Condvar,
}

struct State<S: CommitSink> {
    next_seqno: u64,
    queue: VecDeque<Member<S>>,
    /// Whether there is a leader, or someone who keeps leaders out.
    led: bool,
    /// One entry per thread that parked while someone led, longest first. An entry
    /// whose slot is done is stale and skipped.
    parked: VecDeque<Arc<Slot<S::Error>>>,
    gather: Gather,
}

struct Member<S: CommitSink> {
    sequenced: Sequenced<S::Request>,
    slot: Arc<Slot<S::Error>>,
}

impl<S: CommitSink> GroupCommit<S> {
    /// An empty queue whose first request gets the SeqNos from `next_seqno` on.
    #[must_use]
    pub fn new(next_seqno: u64) -> Self {
        let state = State {
            next_seqno,
            queue: VecDeque::new(),
            led: false,
            parked: VecDeque::new(),
            gather: Gather::default(),
        };
        Self {
            state: Mutex::new(state),
            gathered: Condvar::new(),
        }
    }

    /// Puts a request at the end of the queue and gives it `count` SeqNos. Never
    /// waits for the device. Someone has to [wait](Self::wait) or
    /// [lead](Self::lead_once) for the request to be committed.
    ///
    /// When the SeqNos run out they stand still, and the log refuses them.
    pub fn enqueue(&self, request: S::Request, count: u32) -> Ticket<S> {
        let slot = Arc::new(Slot::new());
        let member_slot = Arc::clone(&slot);
        let mut state = lock(&self.state);
        let first_seqno = state.next_seqno;
        state.next_seqno = first_seqno.saturating_add(u64::from(count));
        let sequenced = Sequenced {
            first_seqno,
            count,
            request,
        };
        state.queue.push_back(Member {
            sequenced,
            slot: member_slot,
        });
        if state.gather.is_complete(state.queue.len()) {
            self.gathered.notify_one();
        }
        drop(state);
        Ticket {
            slot,
            last_seqno: last_seqno(first_seqno, count),
        }
    }

    /// Waits for the outcome of a ticket of this queue, leading if nobody else does.
    /// Returns the request's last SeqNo once it is visible.
    ///
    /// # Errors
    /// What the sink said to the ticket's group.
    pub fn wait(&self, sink: &S, ticket: &Ticket<S>) -> Result<u64, S::Error> {
        if let Some(outcome) = self.outcome(ticket) {
            return outcome;
        }
        let outcome = match self.lead_or_park(&ticket.slot) {
            Role::Leader(leadership) => leadership.lead_until_done(sink, &ticket.slot),
            Role::Follower(outcome) => outcome,
        };
        ticket.result(outcome)
    }

    /// What became of a ticket, or `None` as long as that is open. Never waits for
    /// the device, so a sink may ask.
    pub fn outcome(&self, ticket: &Ticket<S>) -> Option<Result<u64, S::Error>> {
        ticket.slot.outcome().map(|outcome| ticket.result(outcome))
    }

    /// Commits one group if there is one and nobody leads; false if not. For a
    /// thread that serves submitted requests, and for running without threads.
    pub fn lead_once(&self, sink: &S) -> bool {
        let leadership = {
            let mut state = lock(&self.state);
            if state.led || state.queue.is_empty() {
                return false;
            }
            state.led = true;
            Leadership { group: self }
        };
        leadership.commit_group(sink)
    }

    /// Runs `f` between two groups: waits until none is in flight, and keeps leaders
    /// out meanwhile. Neither `f` nor a sink's method may call this or wait for a
    /// ticket: the thread would wait for itself.
    pub fn with_leadership<R>(&self, f: impl FnOnce() -> R) -> R {
        // This slot never gets an outcome, so parking on it ends with leadership.
        let slot = Arc::new(Slot::new());
        let _leadership = self.lead_or_park(&slot);
        f()
    }

    /// Whether requests wait for a leader to take them.
    pub fn has_queued(&self) -> bool {
        !lock(&self.state).queue.is_empty()
    }

    /// The SeqNo that the next request will get first.
    pub fn next_seqno(&self) -> u64 {
        lock(&self.state).next_seqno
    }

    /// Takes leadership if it is free, else parks until it is handed over or the
    /// slot has an outcome.
    fn lead_or_park(&self, slot: &Arc<Slot<S::Error>>) -> Role<'_, S> {
        let mut state = lock(&self.state);
        if !state.led {
            state.led = true;
            return Role::Leader(Leadership { group: self });
        }
        state.parked.push_back(Arc::clone(slot));
        drop(state);
        match slot.park() {
            Woken::Leads => Role::Leader(Leadership { group: self }),
            Woken::Done(outcome) => Role::Follower(outcome),
        }
    }

    /// Waits for those whom the last group served, if it pays: a sync costs about the
    /// same for one as for all, and a writer that was just told its outcome is likely to
    /// write again at once. Without this, half of the writers wait for the sync of the
    /// other half.
    fn gather<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<S>>,
        sink: &S,
    ) -> MutexGuard<'a, State<S>> {
        let patience = sink.patience();
        let queued = state.queue.len();
        if patience.is_zero() || !state.gather.expects_more_than(queued) {
            return state;
        }
        let requests = || state.queue.iter().map(|m| &m.sequenced.request);
        let weight = requests().map(S::weight).fold(0, usize::saturating_add);
        let syncs = requests().any(S::wants_sync);
        if !syncs || weight > gather::LIGHT || !state.gather.begin() {
            return state;
        }
        let mut patient = true;
        while patient && !state.gather.is_complete(state.queue.len()) {
            (state, patient) = wait_for(&self.state, &self.gathered, state, patience);
        }
        let came = state.queue.len();
        state.gather.end(came);
        state
    }

    /// The next group, from the front of the queue.
    fn take_group(&self, sink: &S) -> Vec<Member<S>> {
        let mut state = self.gather(lock(&self.state), sink);
        let mut weight = 0_usize;
        let taken = state
            .queue
            .iter()
            .take(MAX_GROUP_MEMBERS)
            .enumerate()
            .take_while(|(i, m)| {
                weight = weight.saturating_add(S::weight(&m.sequenced.request));
                *i == 0 || weight <= MAX_GROUP_BYTES
            });
        let taken = taken.count();
        state.queue.drain(..taken).collect()
    }
}

enum Role<'a, S: CommitSink> {
    Leader(Leadership<'a, S>),
    Follower(Result<(), S::Error>),
}

/// That its holder is the only leader. Dropping it, in a panic too, passes it on.
struct Leadership<'a, S: CommitSink> {
    group: &'a GroupCommit<S>,
}

impl<S: CommitSink> Leadership<'_, S> {
    fn lead_until_done(&self, sink: &S, own: &Slot<S::Error>) -> Result<(), S::Error> {
        loop {
            if let Some(outcome) = own.outcome() {
                return outcome;
            }
            self.commit_group(sink);
        }
    }

    /// Commits the next group; false if the queue is empty.
    fn commit_group(&self, sink: &S) -> bool {
        let mut group = Vec::new();
        let mut slots = Vec::new();
        for member in self.group.take_group(sink) {
            group.push(member.sequenced);
            slots.push(member.slot);
        }
        let Some(last) = group.last().map(Sequenced::last_seqno) else {
            return false;
        };
        let count = slots.len();
        let members = InFlight { sink, slots };
        let outcome = commit(sink, group, last);
        let mut state = lock(&self.group.state);
        let left = state.queue.len();
        state.gather.served(count, left);
        drop(state);
        members.finish(&outcome);
        true
    }
}

impl<S: CommitSink> Drop for Leadership<'_, S> {
    fn drop(&mut self) {
        let mut state = lock(&self.group.state);
        while let Some(slot) = state.parked.pop_front() {
            if slot.promote() {
                return;
            }
        }
        state.led = false;
    }
}

/// The steps that this module exists for. Their order is the contract: visible
/// never before durable, told never before visible.
fn commit<S: CommitSink>(
    sink: &S,
    mut group: Vec<Sequenced<S::Request>>,
    last: u64,
) -> Result<(), S::Error> {
    if let Err(error) = sink.append(&mut group)
        && !planted("group.append_error")
    {
        return Err(error);
    }
    let wanted = group.iter().any(|member| S::wants_sync(&member.request));
    let late = planted("group.visible_after_sync");
    sink.apply(group);
    if wanted && !late && !planted("group.sync") {
        sink.sync()?;
    }
    sink.publish(last);
    if wanted && late {
        sink.sync()?;
    }
    Ok(())
}

/// Members of a group that have not been told their outcome. Dropping it without
/// telling them, as only a panic does, tells them of that.
struct InFlight<'a, S: CommitSink> {
    sink: &'a S,
    slots: Vec<Arc<Slot<S::Error>>>,
}

impl<S: CommitSink> InFlight<'_, S> {
    fn finish(mut self, outcome: &Result<(), S::Error>) {
        for slot in mem::take(&mut self.slots) {
            slot.finish(outcome.clone());
        }
    }
}

impl<S: CommitSink> Drop for InFlight<'_, S> {
    fn drop(&mut self) {
        if self.slots.is_empty() {
            return;
        }
        let error = self.sink.leader_panicked();
        for slot in mem::take(&mut self.slots) {
            slot.finish(Err(error.clone()));
        }
    }
}
