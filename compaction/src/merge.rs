//! The live rows of several segments as the rows of one.
//!
//! Owns the k-way merge by key. Rows are those of the first input, then those of the
//! next, as they lie in their files, so that what is read row by row is read in one
//! sweep; their keys are merged. Invariants: rows, keys, SeqNos and payloads are
//! copied, never recomputed; every byte read is verified by the reader; two live
//! rows of one key mean that something is broken, and end the merge. Memory is
//! eight bytes a live row; everything else is streamed.
//! Must not know: the manifest, where the output goes, deletions made meanwhile.

mod kept;

use std::borrow::Cow;
use std::cmp::{Ordering as Order, Reverse};
use std::collections::BinaryHeap;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::cost::GraphWork;
use esker_segment::memory::{Held, Meter};
use esker_segment::mutants::planted;
use esker_segment::{
    DeletionVector, KeptGraph, Key, Row, RowSource, SectionSource, Segment, SegmentError, SeqNo,
    VisitKey,
};

/// Whether to go on is asked with the vector of one in so many rows.
const VECTORS_A_QUESTION: u32 = 64;

/// A segment to merge, with the rows of it that are superseded.
pub struct MergeInput<'a, S: SectionSource> {
    /// The segment.
    pub segment: &'a Segment<S>,
    /// Its rows that are left out.
    pub deleted: &'a DeletionVector,
}

impl<S: SectionSource> MergeInput<'_, S> {
    fn live_rows(&self) -> u64 {
        u64::from(self.segment.rows()).saturating_sub(self.deleted.len())
    }
}

/// Live rows of all inputs, one input after another; hand it to `esker_segment::write_segment`.
pub struct MergedRows<'a, S: SectionSource> {
    inputs: Vec<MergeInput<'a, S>>,
    /// The live rows of each input, one input after another.
    rows: Vec<Row>,
    /// Where the rows of each input end.
    ends: Vec<usize>,
    /// Numbers in `rows` in the order of their keys; empty if that is theirs.
    by_key: Vec<u32>,
    cancelled: &'a (dyn Fn() -> bool + Sync),
    /// One more than the input that a read failed in; 0 while none did.
    failed: AtomicUsize,
    /// Where the memory of the merge is counted, and what of it is for the order.
    meter: Option<(&'a Meter, Held)>,
    /// What a graph's build may take.
    memory_limit: u64,
    /// How the output's graph is made, if that was decided.
    work: Option<GraphWork>,
}

impl<'a, S: SectionSource> MergedRows<'a, S> {
    /// Finds the live rows of `inputs` and the order of their keys. Once `cancelled` says so, this and
    /// every later read of a row end with `Cancelled`.
    ///
    /// # Errors
    /// What reading the inputs reports, with the index of the input that it was; `Corruption`
    /// for a key that is live twice; `Invalid` for more rows than a segment holds;
    /// `Cancelled`.
    pub fn new(
        inputs: Vec<MergeInput<'a, S>>,
        cancelled: &'a (dyn Fn() -> bool + Sync),
    ) -> Result<Self, (SegmentError, Option<usize>)> {
        let mut merged = Self {
            inputs,
            rows: Vec::new(),
            ends: Vec::new(),
            by_key: Vec::new(),
            cancelled,
            failed: AtomicUsize::new(0),
            meter: None,
            memory_limit: u64::MAX,
            work: None,
        };
        let ordered = merged.list_rows().and_then(|()| merged.order());
        match ordered {
            Ok(order) if order.is_sorted() => {}
            Ok(order) => merged.by_key = order,
            Err(error) => return Err((error, merged.failed_input())),
        }
        Ok(merged)
    }

    /// The same, its memory counted by `meter` as long as it lives, and that of what
    /// is written of it.
    #[must_use]
    pub fn metered(mut self, meter: &'a Meter) -> Self {
        let bytes =
            self.rows.capacity() * size_of::<Row>() + self.by_key.capacity() * size_of::<u32>();
        self.meter = Some((meter, meter.hold(bytes)));
        self
    }

    /// The same; to build a graph of them takes no more memory than so many bytes, edges and codes apart.
    #[must_use]
    pub fn within(mut self, bytes: u64) -> Self {
        self.memory_limit = bytes;
        self
    }

    /// The input that a read failed in.
    #[must_use]
    pub fn failed_input(&self) -> Option<usize> {
        self.failed.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Remembers which input an error came from.
    fn blame<T>(&self, input: usize, result: Result<T, SegmentError>) -> Result<T, SegmentError> {
        result.inspect_err(|_| {
            // Of several threads the first: the error that is returned is the first, too.
            let (none, this) = (0, input + 1);
            let (set, kept) = (Ordering::Relaxed, Ordering::Relaxed);
            let _ = self.failed.compare_exchange(none, this, set, kept);
        })
    }

    fn list_rows(&mut self) -> Result<(), SegmentError> {
        let expected: u64 = self.inputs.iter().map(MergeInput::live_rows).sum();
        if expected > crate::policy::MAX_ROWS {
            return Err(SegmentError::Invalid(
                "the merged rows exceed a segment's limit".into(),
            ));
        }
        // Bounded by the inputs' row counts, which were checked at their opening.
        self.rows
            .reserve_exact(usize::try_from(expected).unwrap_or(0));
        for input in &self.inputs {
            let live = |row: &Row| !is_dead(input, *row);
            let rows = (0..input.segment.rows()).map(Row);
            self.rows.extend(rows.filter(live));
            self.ends.push(self.rows.len());
        }
        Ok(())
    }

    /// The numbers of the rows in the order of their keys, each once.
    fn order(&self) -> Result<Vec<u32>, SegmentError> {
        let mut cursors = Vec::with_capacity(self.inputs.len());
        let mut heads = BinaryHeap::new();
        for (index, input) in self.inputs.iter().enumerate() {
            let iter = self.blame(index, input.segment.iter_from(Bound::Unbounded))?;
            let mut cursor =
                iter.filter(move |item| !matches!(item, Ok((_, row)) if is_dead(input, *row)));
            if let Some(head) = cursor.next() {
                let (key, row) = self.blame(index, head)?;
                heads.push(Reverse((key, index, row)));
            }
            cursors.push(cursor);
        }
        let mut order = Vec::with_capacity(self.rows.len());
        let mut met = vec![false; self.rows.len()];
        let mut last: Option<Key> = None;
        while let Some(Reverse((key, index, row))) = heads.pop() {
            RowSource::check_cancelled(self)?;
            match last.as_ref().map(|last| last.cmp(&key)) {
                None | Some(Order::Less) => {}
                Some(Order::Equal) if planted("merge.one_live_row") => {}
                Some(Order::Equal) => {
                    let what = format!("key {key} has two live rows");
                    return self.blame(index, Err(broken(what)));
                }
                // The heap gives the least of all heads: this one was not.
                Some(Order::Greater) => {
                    let what = format!("key {key} is not in key order");
                    return self.blame(index, Err(broken(what)));
                }
            }
            let number = self.number(index, row);
            match number.and_then(|number| met.get_mut(number as usize)) {
                Some(met) if !*met => *met = true,
                _ => return self.blame(index, Err(broken(format!("row {row} has two keys")))),
            }
            order.extend(number);
            if let Some(next) = cursors.get_mut(index).and_then(Iterator::next) {
                let (key, row) = self.blame(index, next)?;
                heads.push(Reverse((key, index, row)));
            }
            last = Some(key);
        }
        match met.iter().position(|met| !met) {
            None => Ok(order),
            Some(number) => {
                let index = self.input_of(number);
                self.blame(index, Err(broken("a row without a key".into())))
            }
        }
    }

    /// The number of an input's live row.
    fn number(&self, input: usize, row: Row) -> Option<u32> {
        let start = self.start(input);
        let rows = self.rows.get(start..*self.ends.get(input)?)?;
        let at = rows.binary_search(&row).ok()?;
        // There are fewer rows than a segment may have.
        Some((start + at) as u32)
    }

    /// The number of an input's first row.
    fn start(&self, input: usize) -> usize {
        let before = input
            .checked_sub(1)
            .and_then(|before| self.ends.get(before));
        before.copied().unwrap_or(0)
    }

    /// The input that a row is of.
    fn input_of(&self, number: usize) -> usize {
        self.ends.partition_point(|end| *end <= number)
    }

    /// Reads something of a row from the input that has it.
    fn read<T>(
        &self,
        number: Row,
        read: impl FnOnce(&'a Segment<S>, Row) -> Result<T, SegmentError>,
    ) -> Result<T, SegmentError> {
        RowSource::check_cancelled(self)?;
        self.of_input(number, read)
    }

    /// The same without asking whether to go on.
    fn of_input<T>(
        &self,
        number: Row,
        read: impl FnOnce(&'a Segment<S>, Row) -> Result<T, SegmentError>,
    ) -> Result<T, SegmentError> {
        let at = self.input_of(number.0 as usize);
        let row = self.rows.get(number.0 as usize);
        let (input, row) = (self.inputs.get(at).zip(row))
            .ok_or_else(|| SegmentError::Invalid("a row beyond the merged rows".into()))?;
        self.blame(at, read(input.segment, *row))
    }

    /// Number of live rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True when nothing is left of the inputs: there is nothing to write then.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl<S: SectionSource> RowSource for MergedRows<'_, S> {
    fn rows(&self) -> u32 {
        // `order` refuses more than fit.
        self.rows.len() as u32
    }

    fn key_order(&self) -> Option<&[u32]> {
        (!self.by_key.is_empty()).then_some(&self.by_key)
    }

    /// Goes through the keys of each input once more: to look up the key of a row would
    /// read its rank first, which may be anywhere.
    fn each_key(&self, visit: &mut VisitKey<'_>) -> Result<(), SegmentError> {
        let mut cursors = Vec::with_capacity(self.inputs.len());
        for (index, input) in self.inputs.iter().enumerate() {
            cursors.push(self.blame(index, input.segment.iter_from(Bound::Unbounded))?);
        }
        for rank in 0..self.rows.len() {
            RowSource::check_cancelled(self)?;
            let number = self
                .by_key
                .get(rank)
                .map_or(rank, |number| *number as usize);
            let index = self.input_of(number);
            let row = self.rows.get(number);
            loop {
                let next = cursors.get_mut(index).and_then(Iterator::next);
                let lost = || Err(broken("a key that was there before".into()));
                let (key, of) = self.blame(index, next.unwrap_or_else(lost))?;
                if Some(&of) == row {
                    visit(&key, Row(number as u32))?;
                    break;
                }
            }
        }
        Ok(())
    }

    fn vector(&self, row: Row) -> Result<Cow<'_, [f32]>, SegmentError> {
        // A build asks for rows at random, again and again.
        if row.0.is_multiple_of(VECTORS_A_QUESTION) {
            RowSource::check_cancelled(self)?;
        }
        self.of_input(row, vector_of)
    }

    fn key(&self, row: Row) -> Result<Cow<'_, [u8]>, SegmentError> {
        self.read(row, |segment, row| {
            Ok(Cow::Owned(segment.key(row)?.to_vec()))
        })
    }

    fn seqno(&self, row: Row) -> Result<SeqNo, SegmentError> {
        self.read(row, Segment::seqno)
    }

    fn kept_graph(&self) -> Option<&dyn KeptGraph> {
        self.kept().map(|_| self as &dyn KeptGraph)
    }

    fn memory_limit(&self) -> u64 {
        self.memory_limit
    }

    fn meter(&self) -> Option<&Meter> {
        self.meter.as_ref().map(|(meter, _)| *meter)
    }

    fn check_cancelled(&self) -> Result<(), SegmentError> {
        if (self.cancelled)() && !planted("merge.cancelled") {
            return Err(SegmentError::Cancelled);
        }
        Ok(())
    }

    fn payload_len(&self, row: Row) -> Result<Option<u64>, SegmentError> {
        self.read(row, Segment::payload_len)
    }

    fn payload(&self, row: Row) -> Result<Option<Cow<'_, [u8]>>, SegmentError> {
        self.read(row, |segment, row| {
            Ok(segment
                .payload(row)?
                .map(|payload| Cow::Owned(payload.to_vec())))
        })
    }
}

/// In place where it was verified, for a build may ask for it again and again.
fn vector_of<S: SectionSource>(
    segment: &Segment<S>,
    row: Row,
) -> Result<Cow<'_, [f32]>, SegmentError> {
    match segment.vector_in_place(row) {
        Some(vector) => Ok(Cow::Borrowed(vector)),
        None => Ok(Cow::Owned(segment.vector(row)?.to_vec())),
    }
}

/// Whether a row is left out.
fn is_dead<S: SectionSource>(input: &MergeInput<'_, S>, row: Row) -> bool {
    input.deleted.contains(row) && !planted("merge.leave_out_dead")
}

/// Deletions of the inputs made after the merge was planned, as rows of its
/// output. `newly_deleted` holds for each input what it lost meanwhile.
///
/// A key is live in one input at most, so its row in the output is the one that
/// the input's row became.
///
/// # Errors
/// What reading the segments reports, with the index of the input that it was, or none
/// for the output; `Corruption` of the output if it lacks a row.
pub fn carry_over<S: SectionSource>(
    newly_deleted: &[MergeInput<'_, S>],
    output: &Segment<S>,
) -> Result<DeletionVector, (SegmentError, Option<usize>)> {
    let mut rows = Vec::new();
    for (index, input) in newly_deleted.iter().enumerate() {
        if index > 0 && planted("merge.carry_over_all") {
            break;
        }
        for row in input.deleted.iter() {
            let key = input.segment.key(row);
            let key = key.map_err(|error| (error, Some(index)))?;
            let found = output.find(&key).map_err(|error| (error, None))?;
            let lost = || (broken(format!("key {key} did not reach the output")), None);
            rows.push(found.ok_or_else(lost)?);
        }
    }
    Ok(DeletionVector::default().with(rows))
}

/// Segments that contradict each other or themselves.
fn broken(what: String) -> SegmentError {
    SegmentError::Corruption {
        offset: 0,
        what: what.into(),
    }
}
