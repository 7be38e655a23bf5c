//! Whether a leader waits for more writers before it takes a group.
//!
//! Owns the guess who will come: the writers that the last group served, beside those
//! that were queued meanwhile. Invariants: it decides how long a group takes and how
//! large it is, never what becomes of it; a guess that fails is not made again for a
//! number of groups that doubles with each failure. Must not know: time, sinks.

/// Bytes in the queue up to which a leader waits for more: beyond, writing them takes
/// as long as syncing them, and waiting gains nothing.
pub(super) const LIGHT: usize = 64 << 10;

/// Groups without a guess, after many failed ones, at most.
const LONGEST_REST: u32 = 64;

/// What is known of those who write.
#[derive(Default)]
pub(super) struct Gather {
    /// Members of the last group and requests that were queued when it was done.
    expected: usize,
    /// The number of requests that the leader waits for.
    wanted: Option<usize>,
    /// Groups to be taken as they are.
    rest: u32,
    /// What `rest` was set to last.
    last_rest: u32,
}

impl Gather {
    /// Whether more are likely to come than are queued. One writer alone never waits:
    /// it finds itself in the queue.
    pub(super) fn expects_more_than(&self, queued: usize) -> bool {
        queued > 0 && queued < self.expected
    }

    /// Whether to wait, after all.
    pub(super) fn begin(&mut self) -> bool {
        if self.rest > 0 {
            self.rest -= 1;
            return false;
        }
        self.wanted = Some(self.expected);
        true
    }

    /// Whether all are there that a leader waits for; false if none does.
    pub(super) fn is_complete(&self, queued: usize) -> bool {
        self.wanted.is_some_and(|wanted| queued >= wanted)
    }

    /// The wait is over, with so many in the queue.
    pub(super) fn end(&mut self, queued: usize) {
        if self.is_complete(queued) {
            self.last_rest = 0;
        } else {
            self.last_rest = (self.last_rest * 2).clamp(1, LONGEST_REST);
            self.rest = self.last_rest;
        }
        self.wanted = None;
    }

    /// A group of `members` is done, and `left` were queued meanwhile.
    pub(super) fn served(&mut self, members: usize, left: usize) {
        self.expected = (members + left).min(super::MAX_GROUP_MEMBERS);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::{Gather, LONGEST_REST};

    #[test]
    fn it_waits_for_as_many_as_there_were() {
        let mut gather = Gather::default();
        assert!(!gather.expects_more_than(1), "nobody was there before");
        gather.served(1, 0);
        assert!(
            !gather.expects_more_than(1),
            "a lone writer waits for nobody"
        );
        gather.served(1, 7);
        assert!(gather.expects_more_than(7) && !gather.expects_more_than(8));
        assert!(!gather.expects_more_than(0), "nothing to be taken");
        assert!(!gather.is_complete(8), "nobody waits");
        assert!(gather.begin());
        assert!(!gather.is_complete(7) && gather.is_complete(8) && gather.is_complete(9));
        gather.end(8);
        assert!(!gather.is_complete(8));
        gather.served(8, 0);
        assert!(gather.begin());
    }

    #[test]
    fn it_rests_longer_after_each_failure_and_not_after_a_success() {
        let mut gather = Gather::default();
        gather.served(4, 0);
        for rest in [1, 2, 4, 8, 16, 32, LONGEST_REST, LONGEST_REST] {
            assert!(gather.begin());
            gather.end(3);
            for group in 0..rest {
                assert!(!gather.begin(), "group {group} of {rest}");
            }
        }
        assert!(gather.begin());
        gather.end(4);
        assert!(gather.begin(), "it worked");
        gather.end(1);
        assert!(!gather.begin());
        assert!(gather.begin(), "the rests are short again");
    }
}
