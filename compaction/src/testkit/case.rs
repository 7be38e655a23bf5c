//! Programs of flushes, deletions and merges, and how they read.
//!
//! Owns [`Case`] and its text: `{:?}` of a case is what a person would write down, a
//! step a line, so that a shrunk case explains itself. Invariant: a case says all that
//! happens; nothing else is drawn when it runs. Must not know: what is right.

use std::fmt;
use std::sync::Arc;

use esker_segment::{CodeKind, GraphBuilder, Key, Metric};

use super::rows::Many;

/// A collection that begins empty, and what happens to it.
#[derive(Clone, PartialEq)]
pub struct Case {
    /// How vectors are compared.
    pub metric: Metric,
    /// Components of each vector.
    pub dimension: u32,
    /// R of every graph.
    pub max_degree: u32,
    /// The SeqNo of the first write; every write has one more than that before it.
    pub first_seqno: u64,
    /// How segments are read.
    pub reading: Reading,
    /// One after another.
    pub steps: Vec<Step>,
}

/// How the bytes of segments are come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// In place, each block verified when it is touched first.
    Memory,
    /// Block by block, through a cache that holds a few.
    Paged,
}

/// The name of a segment, or of a merge's output to be.
pub type Name = String;

/// What a row holds beside its key.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its components.
    pub vector: Vec<f32>,
    /// Its payload.
    pub payload: Option<Vec<u8>>,
}

/// One step of a case.
#[derive(Clone, PartialEq)]
pub enum Step {
    /// A memtable with these writes is flushed. What it still puts at its end becomes
    /// a segment, unless that is nothing; what it supersedes dies where it is.
    Flush {
        /// What the segment is called, if there is one.
        segment: Name,
        /// In their order.
        writes: Vec<Write>,
        /// What the segment has beside its rows.
        form: Form,
    },
    /// A merge is planned and written, but not committed: what is deleted from now on
    /// must be carried over. First it is tried in vain, in every way of `trials`.
    Plan {
        /// What the output is called.
        output: Name,
        /// Segments that no other plan has.
        inputs: Vec<Name>,
        /// What the output has beside its rows.
        form: Form,
        /// What goes wrong before it goes well.
        trials: Vec<Trial>,
    },
    /// The output of a plan replaces the inputs.
    Commit(Name),
    /// A plan is given up; its inputs stay.
    Abandon(Name),
}

/// One write of a memtable.
#[derive(Clone, PartialEq)]
pub enum Write {
    /// A row, over whatever the key had.
    Put(Key, Arc<Record>),
    /// A key, whether there is one or not.
    Delete(Key),
    /// Rows that follow from a few numbers.
    PutMany(Many),
    /// The keys of such rows.
    DeleteMany(Many),
}

/// What a segment has beside its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// Who builds its graph, if it has one.
    pub graph: Option<GraphBuilder>,
    /// Codes that are asked for; only a graph gets any.
    pub codes: Option<CodeKind>,
}

/// A merge that does not go as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// From this question on, counted from zero, whether it is cancelled, it is. One
    /// that asks less often ends well.
    Cancel(u64),
    /// One bit of one input is another.
    Flip(Flip),
    /// The inputs come without their deletion vectors: a key that several of them
    /// have must end the merge.
    Revive,
}

/// One bit of a segment's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    /// Which input, counted modulo their number.
    pub input: usize,
    /// Which byte, counted modulo the length; of those only that are not zero if
    /// `written`, since most of a small file is padding.
    pub byte: u64,
    /// Whether zeroes do not count.
    pub written: bool,
    /// Which bit of it, 0 to 7.
    pub bit: u8,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}, dimension {}, R {}, SeqNos from {}, read from {}",
            self.metric,
            self.dimension,
            self.max_degree,
            self.first_seqno,
            match self.reading {
                Reading::Memory => "memory",
                Reading::Paged => "pages",
            }
        )?;
        self.steps
            .iter()
            .try_for_each(|step| writeln!(f, "  {step:?}"))
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flush {
                segment,
                writes,
                form,
            } => {
                let is_put = |w: &Write| matches!(w, Write::Put(..) | Write::PutMany(_));
                if writes.iter().any(is_put) {
                    write!(f, "segment {segment}{form}: ")?;
                }
                list(f, writes, "; ")
            }
            Self::Plan {
                output,
                inputs,
                form,
                trials,
            } => {
                write!(f, "plan {output} = [{}]{form}", inputs.join(", "))?;
                for trial in trials {
                    f.write_str(", but first ")?;
                    trial.describe(inputs, f)?;
                }
                Ok(())
            }
            Self::Commit(output) => write!(f, "commit {output}"),
            Self::Abandon(output) => write!(f, "abandon {output}"),
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(builder) = self.graph else {
            return Ok(());
        };
        let builder = match builder {
            GraphBuilder::Leaves => "leaves",
            GraphBuilder::Insertion => "insertion",
        };
        write!(f, " with a graph by {builder}")?;
        self.codes
            .map_or(Ok(()), |codes| write!(f, " and {codes:?}"))
    }
}

impl Trial {
    fn describe(&self, inputs: &[Name], f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancel(at) => write!(f, "cancelled at question {at}"),
            Self::Revive => f.write_str("without deletion vectors"),
            Self::Flip(flip) => {
                let input = flip.input.checked_rem(inputs.len());
                let input = input.and_then(|input| inputs.get(input));
                let kind = if flip.written { "written byte" } else { "byte" };
                let of = input.map_or("nothing", String::as_str);
                write!(
                    f,
                    "bit {} of {kind} {} of {of} flipped",
                    flip.bit, flip.byte
                )
            }
        }
    }
}

impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(key, record) => {
                write!(f, "put {} {:?}", Shown(key), record.vector)?;
                match &record.payload {
                    None => Ok(()),
                    Some(payload) => write!(f, " payload {}", Shown(payload)),
                }
            }
            Self::Delete(key) => write!(f, "delete {}", Shown(key)),
            Self::PutMany(many) => write!(f, "put {many:?}"),
            Self::DeleteMany(many) => write!(f, "delete the keys of {many:?}"),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Debug], between: &str) -> fmt::Result {
    for (n, item) in items.iter().enumerate() {
        write!(f, "{}{item:?}", if n == 0 { "" } else { between })?;
    }
    Ok(())
}

/// Bytes as a person wants to see them: long ones by their ends.
pub(super) struct Shown<'a>(pub(super) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 24;
        const END: usize = 6;
        if self.0.len() <= MOST {
            return write!(f, "\"{}\"", self.0.escape_ascii());
        }
        let (head, rest) = self.0.split_at(END);
        let (_, tail) = rest.split_at(rest.len() - END);
        let len = self.0.len();
        write!(
            f,
            "\"{}..{}\" of {len} bytes",
            head.escape_ascii(),
            tail.escape_ascii()
        )
    }
}
