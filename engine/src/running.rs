//! Which merges run, and what they have.
//!
//! Owns the claims of running merges: segments, collections, room on the disk. Invariants: no
//! more merges run at once than the options allow; a segment is claimed by one at a time;
//! while somebody compacts a collection, nobody else merges in it; merges in the background
//! leave room for whoever waits to compact; nothing begins once the end was waited for.
//! Must not know: what is chosen, and how it is merged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use esker_segment::{CollectionId, SegmentId};

use crate::sync::counter::AtomicU64;
use crate::sync::{Condvar, Mutex, Ordering};

/// Longest wait before the next look; whatever is waited for wakes.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// One collection, or all.
pub(crate) type Scope = Option<CollectionId>;

fn overlap(one: Scope, other: Scope) -> bool {
    one.is_none() || other.is_none() || one == other
}

/// The merges of a database that run now.
pub(crate) struct RunningMerges {
    limit: usize,
    state: Mutex<State>,
    /// Something was released, or nothing may begin any more.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    claims: BTreeMap<u64, Held>,
    /// Who waits to compact what.
    waiting: BTreeMap<u64, Scope>,
    ended: bool,
}

/// What one claim has.
struct Held {
    scope: Scope,
    /// Somebody compacts: all that there is in the scope is his.
    compacts: bool,
    inputs: Vec<SegmentId>,
    /// From before it is published until the claim ends, or claims other inputs.
    output: Option<SegmentId>,
    /// Bytes of the output that are still to be written.
    to_write: Arc<AtomicU64>,
    /// It was told to make room when it asked last.
    leaves: bool,
}

/// What others have.
#[derive(Default)]
pub(crate) struct Taken {
    /// Inputs of running merges, and outputs that were not told of yet.
    pub(crate) segments: Vec<SegmentId>,
    compacted: Vec<Scope>,
}

impl Taken {
    /// Whether somebody compacts the collection.
    pub(crate) fn is_compacted(&self, collection: CollectionId) -> bool {
        let scopes = &mut self.compacted.iter();
        scopes.any(|scope| overlap(*scope, Some(collection)))
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// What claims have, but for one.
    fn taken(&self, without: Option<u64>) -> Taken {
        let others = self.claims.iter().filter(|(n, _)| Some(**n) != without);
        let mut taken = Taken::default();
        for (_, held) in others {
            taken
                .segments
                .extend(held.inputs.iter().chain(&held.output));
            taken.compacted.extend(held.compacts.then_some(held.scope));
        }
        taken
    }

    /// Whether one more merge may begin in the background.
    fn has_room(&self, limit: usize) -> bool {
        // Who waits for another that compacts needs no room yet.
        let waits_for_room = |scope: &&Scope| {
            let mut held = self.claims.values();
            !held.any(|held| held.compacts && overlap(held.scope, **scope))
        };
        let wanted = self.waiting.values().filter(waits_for_room).count();
        !self.ended && self.claims.len() + wanted < limit
    }

    fn may_compact(&self, scope: Scope, limit: usize) -> bool {
        self.claims.len() < limit && self.is_free(scope)
    }

    /// Whether somebody waits to compact what nobody merges, because as many run as may and
    /// none of them was told to leave.
    fn lacks_room(&self, limit: usize) -> bool {
        let stay = self.claims.values().filter(|held| !held.leaves).count();
        let mut waiting = self.waiting.values();
        stay >= limit && waiting.any(|scope| self.is_free(*scope))
    }

    /// Whether nobody merges in the scope.
    fn is_free(&self, scope: Scope) -> bool {
        let mut held = self.claims.values();
        !held.any(|held| overlap(held.scope, scope))
    }
}

impl RunningMerges {
    /// None, and at most so many at once.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        }
    }

    /// Claims what `choose` picks of what is free, for a merge in the background. `None` if
    /// it picks nothing, or no more may run.
    pub(crate) fn begin<T>(
        &self,
        choose: impl FnOnce(&Taken) -> Option<(CollectionId, Vec<SegmentId>, T)>,
    ) -> Option<(Claim<'_>, T)> {
        let mut state = self.state.lock();
        if !state.has_room(self.limit) {
            return None;
        }
        let (collection, inputs, chosen) = choose(&state.taken(None))?;
        let claim = self.claim(&mut state, Some(collection), false, inputs);
        Some((claim, chosen))
    }

    /// All of a scope, as soon as nobody merges in it and one more merge may run. `None`
    /// once nothing may begin any more, or if `pause`, which is called between two looks,
    /// does not want to go on; without it one is woken.
    pub(crate) fn compact(
        &self,
        scope: Scope,
        pause: Option<&dyn Fn() -> bool>,
    ) -> Option<Claim<'_>> {
        let waiting = self.wait(scope);
        loop {
            let mut state = self.state.lock();
            if state.ended {
                return None;
            }
            if state.may_compact(scope, self.limit) {
                state.waiting.remove(&waiting.number);
                return Some(self.claim(&mut state, scope, true, Vec::new()));
            }
            let Some(pause) = pause else {
                self.changed.wait_for(&mut state, LOOK_AGAIN);
                continue;
            };
            drop(state);
            if !pause() {
                return None;
            }
        }
    }

    fn wait(&self, scope: Scope) -> Waiting<'_> {
        let mut state = self.state.lock();
        let number = state.number();
        state.waiting.insert(number, scope);
        Waiting {
            running: self,
            number,
        }
    }

    fn claim(
        &self,
        state: &mut State,
        scope: Scope,
        compacts: bool,
        inputs: Vec<SegmentId>,
    ) -> Claim<'_> {
        let number = state.number();
        let to_write = Arc::new(AtomicU64::new(0));
        let held = Held {
            scope,
            compacts,
            inputs,
            output: None,
            to_write: Arc::clone(&to_write),
            leaves: false,
        };
        state.claims.insert(number, held);
        Claim {
            running: self,
            number,
            needs: AtomicU64::new(0),
            to_write,
        }
    }

    /// Whether several may run at once.
    pub(crate) fn are_several(&self) -> bool {
        self.limit > 1
    }

    /// Whether a merge of the collection could begin now, in the background.
    pub(crate) fn has_room_for(&self, collection: CollectionId) -> bool {
        let state = self.state.lock();
        state.has_room(self.limit) && !state.taken(None).is_compacted(collection)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.state.lock().claims.len()
    }

    /// What running merges have claimed.
    pub(crate) fn inputs(&self) -> Vec<SegmentId> {
        self.state.lock().taken(None).segments
    }

    /// The same, by merge. A compaction that is between two merges has none.
    pub(crate) fn by_merge(&self) -> Vec<Vec<SegmentId>> {
        let state = self.state.lock();
        let inputs = state.claims.values().map(|held| held.inputs.clone());
        inputs.filter(|inputs| !inputs.is_empty()).collect()
    }

    /// Waits until none runs; none begins after.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        self.changed.notify_all();
        while !state.claims.is_empty() {
            self.changed.wait_for(&mut state, LOOK_AGAIN);
        }
    }
}

/// Somebody who waits to compact.
struct Waiting<'a> {
    running: &'a RunningMerges,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.running.state.lock().waiting.remove(&self.number);
    }
}

/// What a merge, or who compacts, has until it is dropped.
pub(crate) struct Claim<'a> {
    running: &'a RunningMerges,
    number: u64,
    /// Bytes of the output, at most.
    needs: AtomicU64,
    to_write: Arc<AtomicU64>,
}

impl Claim<'_> {
    /// Claims what `choose` picks of what others do not have, in place of what this one
    /// claimed before; for who compacts.
    pub(crate) fn choose<T>(
        &self,
        choose: impl FnOnce(&Taken) -> Option<(Vec<SegmentId>, T)>,
    ) -> Option<T> {
        let mut state = self.running.state.lock();
        let (inputs, chosen) = match choose(&state.taken(Some(self.number))) {
            Some((inputs, chosen)) => (inputs, Some(chosen)),
            None => (Vec::new(), None),
        };
        if let Some(held) = state.claims.get_mut(&self.number) {
            (held.inputs, held.output) = (inputs, None);
        }
        chosen
    }

    /// The output is claimed as well, until the merge is told of.
    pub(crate) fn keep(&self, output: SegmentId) {
        let mut state = self.running.state.lock();
        if let Some(held) = state.claims.get_mut(&self.number) {
            held.output = Some(output);
        }
    }

    /// Whether this one is to leave for somebody who waits to compact something else, and
    /// no other was told so.
    pub(crate) fn makes_room(&self) -> bool {
        let mut state = self.running.state.lock();
        let tell = |state: &mut State, leaves| {
            let held = state.claims.get_mut(&self.number);
            held.is_some_and(|held| {
                held.leaves = leaves;
                leaves
            })
        };
        tell(&mut state, false);
        let leaves = state.lacks_room(self.running.limit);
        tell(&mut state, leaves)
    }

    /// The output takes so many bytes at most. What all others still write.
    pub(crate) fn reserve(&self, bytes: u64) -> u64 {
        let state = self.running.state.lock();
        self.needs.store(bytes, Ordering::Relaxed);
        self.to_write.store(bytes, Ordering::Relaxed);
        let others = state.claims.iter().filter(|(n, _)| **n != self.number);
        let bytes = others.map(|(_, held)| held.to_write.load(Ordering::Relaxed));
        bytes.fold(0, u64::saturating_add)
    }

    /// The output is begun, perhaps anew.
    pub(crate) fn begin_output(&self) {
        let needs = self.needs.load(Ordering::Relaxed);
        self.to_write.store(needs, Ordering::Relaxed);
    }

    /// Bytes of the output were written.
    pub(crate) fn wrote(&self, bytes: u64) {
        let less = |left: u64| Some(left.saturating_sub(bytes));
        let order = Ordering::Relaxed;
        // It never refuses.
        let _ = self.to_write.fetch_update(order, order, less);
    }

    /// The output is whole, or given up.
    pub(crate) fn end_output(&self) {
        self.needs.store(0, Ordering::Relaxed);
        self.to_write.store(0, Ordering::Relaxed);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.running.state.lock().claims.remove(&self.number);
        self.running.changed.notify_all();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const COLLECTION: CollectionId = CollectionId(1);

    /// Nobody merges an output before its merge was told of, which ends with the claim.
    #[test]
    fn an_output_is_claimed_until_its_merge_is_over() {
        let running = RunningMerges::new(2);
        let taken = |of: &RunningMerges| {
            let mut all = Vec::new();
            let begun = of.begin(|taken| {
                all.clone_from(&taken.segments);
                None::<(_, _, ())>
            });
            assert!(begun.is_none());
            all
        };
        let inputs = [1, 2].map(SegmentId).to_vec();
        let begun = running.begin(|_| Some((COLLECTION, inputs, ())));
        let (claim, ()) = begun.expect("there is room");
        claim.keep(SegmentId(3));
        assert_eq!(taken(&running), [1, 2, 3].map(SegmentId));
        assert_eq!(running.by_merge(), [[1, 2].map(SegmentId)]);
        drop(claim);
        assert_eq!(taken(&running), []);
        // Who compacts goes on with what he made.
        let claim = running.compact(Some(COLLECTION), None).expect("is free");
        for output in 4..6 {
            let chosen = claim.choose(|taken| {
                assert_eq!(taken.segments, []);
                Some((vec![SegmentId(output - 1)], ()))
            });
            assert!(chosen.is_some());
            claim.keep(SegmentId(output));
            assert_eq!(taken(&running), [output - 1, output].map(SegmentId));
        }
    }

    /// Only as many leave as are needed; who was told to is told so as long as that holds.
    #[test]
    fn one_of_the_merges_makes_room() {
        let running = RunningMerges::new(2);
        let begin = |n: u64| {
            let collection = CollectionId(n as u32);
            let begun = running.begin(|_| Some((collection, vec![SegmentId(n)], ())));
            begun.expect("there is room").0
        };
        let (one, other) = (begin(1), begin(2));
        let overlaps = running.wait(Some(CollectionId(1)));
        assert!(!one.makes_room() && !other.makes_room());
        drop(overlaps);
        let waiting = running.wait(Some(CollectionId(3)));
        assert!(other.makes_room() && !one.makes_room() && other.makes_room());
        drop(waiting);
        assert!(!other.makes_room(), "nobody waits any more");
        let waiting = running.wait(Some(CollectionId(3)));
        assert!(one.makes_room() && !other.makes_room());
        // Once one has left, there is room.
        drop(other);
        assert!(!one.makes_room());
        drop(waiting);
        let compacts = running.compact(Some(CollectionId(3)), None);
        let waiting = running.wait(Some(CollectionId(4)));
        assert!(one.makes_room(), "whoever comes next needs a place too");
        drop((compacts, waiting));
    }
}
