//! What happened in the cases that were run: a checker that never got anywhere
//! proves nothing.
//!
//! Must not know: what is right.

use std::ops::AddAssign;

/// Counts of one case, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Cases that agreed.
    pub cases: u64,
    /// Segments that were flushed.
    pub segments: u64,
    /// Merges that were written.
    pub merges: u64,
    /// Rows of their outputs.
    pub rows: u64,
    /// Inputs of merges.
    pub inputs: u64,
    /// Merges of which nothing was left.
    pub empty: u64,
    /// Merges with an output of a merge among their inputs.
    pub again: u64,
    /// Plans that were given up.
    pub abandoned: u64,
    /// Outputs with a graph.
    pub graphs: u64,
    /// Of these, graphs made out of that of an input.
    pub kept_graphs: u64,
    /// Deletions that were carried over.
    pub carried: u64,
    /// Outputs that were wholly dead at their commit.
    pub dead_outputs: u64,
    /// Merges that were cancelled.
    pub cancelled: u64,
    /// Merges that asked less often whether they are than the case meant.
    pub asked_less: u64,
    /// Damaged inputs that could not be opened.
    pub flips_refused: u64,
    /// Damaged inputs that a merge named.
    pub flips_named: u64,
    /// Damaged inputs that gave the right output.
    pub flips_harmless: u64,
    /// Merges without deletion vectors that had each key once.
    pub revived: u64,
    /// Merges in which a key lived twice, and which said so.
    pub live_twice: u64,
    /// Nearest rows that walks found.
    pub neighbors: u64,
    /// And that there were.
    pub neighbors_wanted: u64,
}

impl Tally {
    pub(super) fn count_merge(&mut self, rows: u64, inputs: usize) {
        self.merges += 1;
        self.rows += rows;
        self.inputs += inputs as u64;
        self.empty += u64::from(rows == 0);
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.cases += other.cases;
        self.segments += other.segments;
        self.merges += other.merges;
        self.rows += other.rows;
        self.inputs += other.inputs;
        self.empty += other.empty;
        self.again += other.again;
        self.abandoned += other.abandoned;
        self.graphs += other.graphs;
        self.kept_graphs += other.kept_graphs;
        self.carried += other.carried;
        self.dead_outputs += other.dead_outputs;
        self.cancelled += other.cancelled;
        self.asked_less += other.asked_less;
        self.flips_refused += other.flips_refused;
        self.flips_named += other.flips_named;
        self.flips_harmless += other.flips_harmless;
        self.revived += other.revived;
        self.live_twice += other.live_twice;
        self.neighbors += other.neighbors;
        self.neighbors_wanted += other.neighbors_wanted;
    }
}
