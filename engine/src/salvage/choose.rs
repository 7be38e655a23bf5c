//! Which row of each key is the newest that is left.
//!
//! Owns the merge, in key order, of a collection's segments and of its writes in the
//! logs. Invariants: each key is decided once, with all that is known of it; a row
//! that is known to be dead is never chosen, nor is an older one; where the manifest
//! is whole, a write that was flushed is taken from the log only in place of a row
//! that a segment lost. Memory: one leaf of each segment and one bit for each row.
//! Must not know: vectors, payloads, where chosen rows go.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use esker_segment::{Key, Leaves, Row, SegmentError, Source};

use super::logs::{Logs, Op, Ops};
use super::report::{Entry, Ledger, Lost};
use super::sources::{Collection, Deleted, SegmentSource};

/// The rows that were chosen.
#[derive(Default)]
pub(super) struct Chosen {
    /// One bit for each row of each segment.
    segments: Vec<Vec<u64>>,
    pub(super) rows: u64,
    /// Keys whose newest write is in a log, with its SeqNo.
    pub(super) writes: Vec<(u64, Key)>,
}

impl Chosen {
    fn choose(&mut self, segment: usize, row: Row) {
        let word = self.segments.get_mut(segment);
        if let Some(word) = word.and_then(|words| words.get_mut(row.0 as usize / 64)) {
            *word |= 1 << (row.0 % 64);
            self.rows += 1;
        }
    }

    pub(super) fn contains(&self, segment: usize, row: Row) -> bool {
        let word = self.segments.get(segment);
        let word = word.and_then(|words| words.get(row.0 as usize / 64));
        word.is_some_and(|word| word >> (row.0 % 64) & 1 == 1)
    }
}

/// Where the merge is in one segment.
struct Cursor<'a> {
    source: &'a SegmentSource,
    leaves: Leaves<'a, Source>,
    keys: std::vec::IntoIter<(Key, Row)>,
    /// A leaf was lost between the last key and the next.
    gap: bool,
    /// Lost leaves and what their fences say of them.
    lost: Vec<(Entry, Option<u32>)>,
    live: u64,
    dead: u64,
    /// Keys of the logs that may have been in a lost leaf.
    log_keys: u64,
}

/// What the segments say of a key.
#[derive(Default)]
struct Candidates {
    /// The newest row that is not known to be dead.
    best: Option<(u64, usize, Row)>,
    /// The greatest SeqNo of a dead row: nothing up to it is alive.
    floor: Option<u64>,
    /// The best row may be dead, because its segment's deletions are lost.
    doubtful: bool,
    /// A row whose SeqNo is lost.
    unread: Option<(usize, SegmentError)>,
}

enum Verdict {
    Row(usize, Row),
    Write(u64),
    Nothing,
}

struct Choice<'a, 'l> {
    collection: &'a Collection,
    /// Whether what the manifest does not name is certainly no part of the database.
    whole: bool,
    cursors: Vec<Cursor<'a>>,
    chosen: Chosen,
    ledger: &'l mut Ledger,
    lost: Lost,
}

/// Decides every key of a collection. Adds to `lost` what no source has any more.
pub(super) fn choose(
    collection: &Collection,
    logs: &Logs,
    whole: bool,
    ledger: &mut Ledger,
    lost: &mut Lost,
) -> Chosen {
    let none = Ops::default();
    let ops = logs.collections.get(&collection.meta.id).unwrap_or(&none);
    let words = |source: &SegmentSource| vec![0; source.rescue.rows().div_ceil(64) as usize];
    let mut choice = Choice {
        collection,
        whole,
        cursors: collection.segments.iter().map(Cursor::new).collect(),
        chosen: Chosen {
            segments: collection.segments.iter().map(words).collect(),
            ..Chosen::default()
        },
        ledger,
        lost: Lost::NONE,
    };
    choice.run(ops);
    choice.settle();
    lost.add(choice.lost);
    choice.chosen
}

impl Choice<'_, '_> {
    fn run(&mut self, ops: &Ops) {
        let mut heads = BinaryHeap::new();
        for index in 0..self.cursors.len() {
            heads.extend(self.advance(index));
        }
        let mut writes = ops.newest.iter().peekable();
        loop {
            let row_key = heads.peek().map(|Reverse((key, _, _))| key);
            let write_key = writes.peek().map(|(key, _)| *key);
            let key = match (row_key, write_key) {
                (None, None) => return,
                (Some(row), Some(write)) => row.min(write).clone(),
                (Some(key), None) | (None, Some(key)) => key.clone(),
            };
            let op = writes.next_if(|(k, _)| **k == key).map(|(_, op)| op);
            if op.is_some() {
                let gaps = self.cursors.iter_mut().filter(|cursor| cursor.gap);
                gaps.for_each(|cursor| cursor.log_keys += 1);
            }
            let in_gap = self.collection.has_lost_segment || self.cursors.iter().any(|c| c.gap);
            let mut found = Candidates::default();
            let mut moved = Vec::new();
            while let Some(Reverse((k, index, row))) = heads.pop_if_key(&key) {
                debug_assert!(k == key);
                self.note(index, row, &mut found);
                moved.push(index);
            }
            self.decide(key, found, op, in_gap);
            for index in moved {
                heads.extend(self.advance(index));
            }
        }
    }

    /// The next key of a segment.
    fn advance(&mut self, index: usize) -> Option<Reverse<(Key, usize, Row)>> {
        let cursor = self.cursors.get_mut(index)?;
        let (key, row) = cursor.next(self.ledger)?;
        Some(Reverse((key, index, row)))
    }

    /// Takes a row of the key into account.
    fn note(&mut self, index: usize, row: Row, found: &mut Candidates) {
        let Some(cursor) = self.cursors.get_mut(index) else {
            return;
        };
        let dead = matches!(&cursor.source.deleted, Deleted::Known(rows) if rows.contains(row));
        if dead {
            cursor.dead += 1;
        } else {
            cursor.live += 1;
        }
        match cursor.source.rescue.seqno(row) {
            Ok(seqno) if dead => found.floor = found.floor.max(Some(seqno.0)),
            Ok(seqno) if found.best.is_none_or(|(best, ..)| best < seqno.0) => {
                found.best = Some((seqno.0, index, row));
                found.doubtful = matches!(cursor.source.deleted, Deleted::Unknown(_));
            }
            Ok(_) => {}
            Err(error) if !dead => found.unread = Some((index, error)),
            // A row that is dead anyway.
            Err(_) => {}
        }
    }

    fn decide(&mut self, key: Key, found: Candidates, op: Option<&Op>, in_gap: bool) {
        let Candidates {
            best,
            floor,
            doubtful,
            unread,
        } = found;
        let fresh = op.filter(|op| !self.whole || op.seqno > self.collection.flushed);
        // A flushed write is what a row that a segment lost was made of, or what made
        // a row dead whose deletion is lost.
        let lost = best.is_none() && (unread.is_some() || in_gap);
        let stand_in = op.filter(|_| lost || doubtful);
        let op = fresh
            .or(stand_in)
            .filter(|op| floor.is_none_or(|f| op.seqno > f));
        let best = best.filter(|(seqno, ..)| floor.is_none_or(|f| *seqno > f));
        let verdict = match (best, op) {
            (Some((seqno, ..)), Some(op)) if op.seqno > seqno => Verdict::of(op),
            (Some((_, index, row)), _) => Verdict::Row(index, row),
            (None, Some(op)) => Verdict::of(op),
            (None, None) => Verdict::Nothing,
        };
        if let Some((index, error)) = unread {
            self.note_unread(index, &error, op, &verdict);
        }
        match verdict {
            Verdict::Row(index, row) => self.chosen.choose(index, row),
            Verdict::Write(seqno) => self.chosen.writes.push((seqno, key)),
            Verdict::Nothing => {}
        }
    }

    /// A row whose SeqNo is lost is lost, unless something is certainly newer.
    fn note_unread(
        &mut self,
        index: usize,
        error: &SegmentError,
        op: Option<&Op>,
        verdict: &Verdict,
    ) {
        let newer = self.whole && op.is_some_and(|op| op.seqno > self.collection.flushed);
        let lost = match verdict {
            _ if newer => return,
            // The log's write is the one that the row was made of.
            Verdict::Write(_) if self.whole => return,
            Verdict::Nothing if self.whole && op.is_none() => Lost::exactly(1),
            _ => Lost::up_to(1),
        };
        if let Some(cursor) = self.cursors.get(index) {
            let entry = self.ledger.note_segment(&cursor.source.path, error);
            self.ledger.add_lost(entry, lost);
            self.lost.add(lost);
        }
    }

    /// Writes down how many rows were in the leaves that are lost.
    fn settle(&mut self) {
        for cursor in &self.cursors {
            if cursor.lost.is_empty() {
                continue;
            }
            let rows = u64::from(cursor.source.rescue.rows());
            let dead = cursor.source.deleted.rows().saturating_sub(cursor.dead);
            let live = rows.saturating_sub(cursor.live + cursor.dead + dead);
            let sure = match (self.whole, &cursor.source.deleted) {
                (true, Deleted::Known(_)) => live.saturating_sub(cursor.log_keys),
                _ => 0,
            };
            let lost = Lost {
                at_least: sure,
                at_most: Some(live),
            };
            self.lost.add(lost);
            if let [(entry, _)] = cursor.lost[..] {
                self.ledger.add_lost(entry, lost);
                continue;
            }
            // Without fences nobody knows how many were on which page: all are written
            // down with the first.
            let mut rest = live;
            for (n, (entry, keys)) in cursor.lost.iter().enumerate() {
                let share = match keys {
                    Some(keys) => u64::from(*keys).min(live),
                    None if n == 0 => std::mem::take(&mut rest),
                    None => 0,
                };
                self.ledger.add_lost(*entry, Lost::up_to(share));
            }
        }
    }
}

impl Verdict {
    fn of(op: &Op) -> Self {
        match op.put {
            true => Self::Write(op.seqno),
            false => Self::Nothing,
        }
    }
}

impl<'a> Cursor<'a> {
    fn new(source: &'a SegmentSource) -> Self {
        Self {
            source,
            leaves: source.rescue.leaves(),
            keys: Vec::new().into_iter(),
            gap: false,
            lost: Vec::new(),
            live: 0,
            dead: 0,
            log_keys: 0,
        }
    }

    fn next(&mut self, ledger: &mut Ledger) -> Option<(Key, Row)> {
        if let Some(next) = self.keys.next() {
            self.gap = false;
            return Some(next);
        }
        self.gap = false;
        loop {
            match self.leaves.next()? {
                Ok(leaf) => {
                    self.keys = leaf.keys.into_iter();
                    if let Some(next) = self.keys.next() {
                        return Some(next);
                    }
                }
                Err(lost) => {
                    self.gap = true;
                    let entry = ledger.note_segment(&self.source.path, &lost.error);
                    self.lost.push((entry, lost.keys));
                }
            }
        }
    }
}

/// Takes the head off a heap only if it is of a key.
trait PopIfKey {
    fn pop_if_key(&mut self, key: &Key) -> Option<Reverse<(Key, usize, Row)>>;
}

impl PopIfKey for BinaryHeap<Reverse<(Key, usize, Row)>> {
    fn pop_if_key(&mut self, key: &Key) -> Option<Reverse<(Key, usize, Row)>> {
        match self.peek() {
            Some(Reverse((head, _, _))) if head == key => self.pop(),
            _ => None,
        }
    }
}
