//! Scrubbing a segment: every byte, then everything that rows say of each other.
//!
//! Owns the order of a check and how far it has come ([`SegmentCheck`]). Whoever
//! drives it takes one step after another and may wait in between, or stop.
//! Invariants: bytes are read again from the source, whatever was verified before;
//! a check goes on after damage, so that all of it is found, each with its offset;
//! what cannot be read is left out of the checks behind, so that one bad block is
//! one finding; a step reads about 1 MiB at most, or one vector or key leaf if that
//! is more. Must not know: what is done about a finding, how fast to go.

mod bad;
mod bytes;
mod codes;
mod graph;
mod keys;
mod rows;

use crate::error::SegmentError;
use crate::layout::HEADER_LEN;
use crate::reader::open::Layout;
use crate::reader::{Expected, Segment};
use crate::source::{Section, SectionSource};
use bad::BadBlocks;
use bytes::{BytesPass, Parts};
use graph::{ListsPass, ReachPass};
use keys::KeysPass;
use rows::{PayloadsPass, SeqNosPass};

/// Bytes of small reads that are gathered into one step.
const STEP: u64 = 256 << 10;

/// Told of everything that does not hold.
pub type Findings<'a> = &'a mut dyn FnMut(SegmentError);

/// How far a check of one segment has come. It holds no part of the segment.
#[derive(Debug)]
pub struct SegmentCheck {
    phase: Phase,
    bad: BadBlocks,
    findings: u64,
    /// Findings among the keys, their fences or ranks.
    keys_found: bool,
}

#[derive(Debug, Default)]
enum Phase {
    Layout,
    Bytes(BytesPass),
    /// The next row.
    Vectors(u64),
    SeqNos(SeqNosPass),
    Keys(KeysPass),
    Payloads(PayloadsPass),
    Lists(ListsPass),
    Reach(ReachPass),
    #[default]
    Done,
}

impl Default for SegmentCheck {
    fn default() -> Self {
        Self::new()
    }
}

impl SegmentCheck {
    /// A check that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self {
            phase: Phase::Layout,
            bad: BadBlocks::default(),
            findings: 0,
            keys_found: false,
        }
    }

    /// How much did not hold so far.
    #[must_use]
    pub fn findings(&self) -> u64 {
        self.findings
    }

    /// Whether everything was looked at.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    /// Whether, once done, the keys and their rows are as they were written.
    #[must_use]
    pub fn has_sound_keys(&self) -> bool {
        self.is_done() && !self.keys_found
    }

    /// Takes one step and returns the bytes that it read; `None` when done.
    pub fn step<S: SectionSource>(
        &mut self,
        segment: &Segment<S>,
        found: Findings<'_>,
    ) -> Option<u64> {
        let mut step = Step {
            segment,
            bad: &mut self.bad,
            found: Counted {
                found,
                findings: &mut self.findings,
            },
            read: 0,
        };
        let before = *step.found.findings;
        let next = match std::mem::take(&mut self.phase) {
            Phase::Layout => step.layout(),
            Phase::Bytes(pass) => step.bytes(pass),
            Phase::Vectors(row) => step.vectors(row),
            Phase::SeqNos(pass) => step.seqnos(pass),
            Phase::Keys(pass) => {
                let next = step.keys(pass);
                self.keys_found |= *step.found.findings > before;
                next
            }
            Phase::Payloads(pass) => step.payloads(pass),
            Phase::Lists(pass) => step.lists(pass),
            Phase::Reach(pass) => step.reach(pass),
            Phase::Done => return None,
        };
        let read = step.read;
        if matches!(next, Phase::Vectors(0)) {
            let sections = &segment.sections;
            self.keys_found |= [&sections.keys, &sections.key_fences, &sections.key_ranks]
                .into_iter()
                .any(|section| self.bad.has_any_of(section));
        }
        self.keys_found |= matches!(next, Phase::Done) && self.bad.is_unknown();
        self.phase = next;
        Some(read)
    }

    /// As [`SegmentCheck::step`], for a file that cannot be opened.
    pub fn step_unopened<S: SectionSource>(
        &mut self,
        file: &UnopenedSegment<S>,
        found: Findings<'_>,
    ) -> Option<u64> {
        let is_whole = file.is_whole && self.findings == 0;
        let mut found = Counted {
            found,
            findings: &mut self.findings,
        };
        let (next, read) = match std::mem::take(&mut self.phase) {
            Phase::Layout => (Phase::Bytes(BytesPass::new(file.expected.file_id)), 0),
            Phase::Bytes(pass) => {
                let (pass, read) = pass.step(
                    &file.source,
                    &file.parts(),
                    is_whole,
                    &mut self.bad,
                    &mut found,
                );
                (pass.map_or(Phase::Done, Phase::Bytes), read)
            }
            _ => return None,
        };
        self.keys_found = true;
        self.phase = next;
        Some(read)
    }
}

/// A segment file that cannot be opened, but whose blocks can still be checked.
#[derive(Debug)]
pub struct UnopenedSegment<S> {
    source: S,
    expected: Expected,
    footer_offset: u64,
    body_hash: u64,
    sections: Vec<Section>,
    /// Header and tables passed; else what else fails does so for that reason.
    is_whole: bool,
}

impl<S: SectionSource> UnopenedSegment<S> {
    /// Looks at what keeps `source` from being opened. `None` if not even the
    /// blocks of the file can be known.
    pub fn new(source: S, expected: &Expected, found: Findings<'_>) -> Option<Self> {
        if let Err(error) = Layout::check_len(&source, expected) {
            found(error);
            return None;
        }
        let header = Layout::read_header(&source, expected);
        let is_whole = header.is_ok();
        if let Err(error) = header {
            found(error);
        }
        let layout = match Layout::read_footer(&source, expected) {
            Ok(layout) => layout,
            Err(error) => {
                found(error);
                return None;
            }
        };
        let entries = layout.footer.sections.iter();
        let sections = entries.map(|entry| Section::new(*entry, expected.file_id, &layout.hashes));
        let sections = sections.collect();
        Some(Self {
            source,
            expected: *expected,
            footer_offset: layout.tail.footer_offset,
            body_hash: layout.footer.body_hash,
            sections,
            is_whole,
        })
    }

    /// What a segment file says of itself, where nothing else tells what it is. Its
    /// header was checked; the footer's hash is the one that its own tail has.
    ///
    /// # Errors
    /// `Corruption` if header or tail are damaged; `Incompatible`; `Io`.
    pub fn describe(source: &S) -> Result<Expected, SegmentError> {
        Layout::describe(source)
    }

    fn parts(&self) -> Parts<'_> {
        Parts::new(self.sections.iter(), self.footer_offset, self.body_hash)
    }
}

/// Counts what it passes on.
struct Counted<'a> {
    found: Findings<'a>,
    findings: &'a mut u64,
}

impl Counted<'_> {
    fn add(&mut self, finding: SegmentError) {
        *self.findings += 1;
        (self.found)(finding);
    }
}

/// One step of a check.
struct Step<'a, S: SectionSource> {
    segment: &'a Segment<S>,
    bad: &'a mut BadBlocks,
    found: Counted<'a>,
    read: u64,
}

impl<S: SectionSource> Step<'_, S> {
    /// Header and footer, as an open reads them. A footer that fails takes the hashes
    /// of all blocks with it: nothing else can be told from damage.
    fn layout(&mut self) -> Phase {
        let segment = self.segment;
        self.read += HEADER_LEN as u64;
        if let Err(error) = Layout::check_len(&segment.source, &segment.expected) {
            self.found.add(error);
            return self.give_up();
        }
        if let Err(error) = Layout::read_header(&segment.source, &segment.expected) {
            self.found.add(error);
        }
        if let Err(error) = Layout::read_footer(&segment.source, &segment.expected) {
            self.found.add(error);
            return self.give_up();
        }
        self.read += segment.source.len().saturating_sub(segment.footer_offset);
        Phase::Bytes(BytesPass::new(segment.expected.file_id))
    }

    fn give_up(&mut self) -> Phase {
        self.bad.set_unknown();
        Phase::Done
    }

    fn bytes(&mut self, pass: BytesPass) -> Phase {
        let segment = self.segment;
        let sections = segment.sections.all();
        let parts = Parts::new(sections, segment.footer_offset, segment.body_hash);
        let is_whole = *self.found.findings == 0;
        let (pass, read) = pass.step(&segment.source, &parts, is_whole, self.bad, &mut self.found);
        self.read += read;
        pass.map_or(Phase::Vectors(0), Phase::Bytes)
    }
}

impl<S: SectionSource> Segment<S> {
    /// Reads everything and checks it: all hashes; keys strictly ascending, with
    /// ranks, fences and filter that agree; vectors and norms within the rules; codes that are their vectors';
    /// sequence numbers, payloads and statistics that fit each other; edges to
    /// other rows, none twice, by which every row can be reached. A
    /// [`SegmentCheck`] does the same and goes on after damage.
    ///
    /// # Errors
    /// `Corruption` for the first thing that does not hold; `Io`.
    pub fn verify(&self) -> Result<(), SegmentError> {
        self.first_finding(&|| false, |_| true)
    }

    /// Reads every byte of the file from its source again, whatever was verified
    /// before, and checks it against its hashes. `cancelled` is asked before each
    /// piece of about a megabyte.
    ///
    /// # Errors
    /// `Corruption` for the first block that does not hold; `Cancelled`; `Io`.
    pub fn verify_blocks(&self, cancelled: &dyn Fn() -> bool) -> Result<(), SegmentError> {
        self.first_finding(cancelled, |phase| {
            matches!(phase, Phase::Layout | Phase::Bytes(_))
        })
    }

    /// What a check finds first in the phases that are `wanted`.
    fn first_finding(
        &self,
        cancelled: &dyn Fn() -> bool,
        wanted: impl Fn(&Phase) -> bool,
    ) -> Result<(), SegmentError> {
        let mut check = SegmentCheck::new();
        let mut first = None;
        while first.is_none() && wanted(&check.phase) {
            if cancelled() {
                return Err(SegmentError::Cancelled);
            }
            let step = check.step(self, &mut |finding| {
                first.get_or_insert(finding);
            });
            if step.is_none() {
                break;
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Bytes that the steps of a check read all together, about.
    #[must_use]
    pub fn check_bytes(&self) -> u64 {
        let sections = &self.sections;
        let read_again = [&sections.vectors, &sections.seqnos, &sections.keys]
            .into_iter()
            .chain(&sections.norms)
            .chain(sections.payloads.as_ref().map(|(offsets, _)| offsets))
            .chain(sections.codes.as_ref().map(|(_, codes)| codes));
        let graph = sections.graph.as_ref().map_or(0, Section::len);
        self.expected.len + read_again.map(Section::len).sum::<u64>() + 2 * graph
    }
}
