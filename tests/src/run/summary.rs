//! What a run did.
//!
//! Owns the counts. Must not know: how they came about.

/// What a run did, so that a test can tell that it was not empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    pub writes: u64,
    pub acked: u64,
    pub crashes: u64,
    pub crashes_in_recovery: u64,
    /// Writes that a power cut took, as it may.
    pub lost: u64,
    pub torn_tails: u64,
    pub flushes: u64,
    /// Segments that opens wrote because the log exceeded the memory budget.
    pub recovery_segments: u64,
    pub merges: u64,
    /// Merges in the background that were told to end, and did.
    pub merges_cancelled: u64,
    /// Pauses of merges that began.
    pub pauses: u64,
    /// Times that one was in the middle of another.
    pub merges_at_once: u64,
    pub faults: u64,
    pub poisoned: u64,
    pub errored: u64,
    pub crossings: u64,
    pub snapshots: u64,
    /// Searches that walked a graph.
    pub walks: u64,
    /// Searches that scanned a segment in spite of its graph.
    pub fallbacks: u64,
    /// True neighbours that searches by graphs found.
    pub neighbors_found: u64,
    /// Of so many.
    pub neighbors: u64,
}

impl Summary {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.writes += other.writes;
        self.acked += other.acked;
        self.crashes += other.crashes;
        self.crashes_in_recovery += other.crashes_in_recovery;
        self.lost += other.lost;
        self.torn_tails += other.torn_tails;
        self.flushes += other.flushes;
        self.recovery_segments += other.recovery_segments;
        self.merges += other.merges;
        self.merges_cancelled += other.merges_cancelled;
        self.pauses += other.pauses;
        self.merges_at_once += other.merges_at_once;
        self.faults += other.faults;
        self.poisoned += other.poisoned;
        self.errored += other.errored;
        self.crossings += other.crossings;
        self.snapshots += other.snapshots;
        self.walks += other.walks;
        self.fallbacks += other.fallbacks;
        self.neighbors_found += other.neighbors_found;
        self.neighbors += other.neighbors;
    }
}
