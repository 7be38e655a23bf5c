//! Settings of one search.
//!
//! Must not know: how it is done.

use std::time::Duration;

/// L when a search names none: enough for a recall@10 of 0.97 and more on the
/// data sets of `docs/benchmarks.md`.
pub const DEFAULT_L_SEARCH: usize = 64;

/// Settings of one search.
#[derive(Clone, Debug)]
pub struct SearchOptions {
    pub(crate) k: usize,
    pub(crate) l_search: Option<usize>,
    pub(crate) exact: bool,
    pub(crate) with_vectors: bool,
    pub(crate) with_payloads: bool,
    pub(crate) deadline: Option<Duration>,
    pub(crate) max_visited: Option<u64>,
    pub(crate) skip_quarantined: bool,
}

impl SearchOptions {
    /// The `k` nearest rows, `k` at least 1; larger than the collection is clamped.
    #[must_use]
    pub fn new(k: usize) -> Self {
        Self {
            k,
            l_search: None,
            exact: false,
            with_vectors: false,
            with_payloads: false,
            deadline: None,
            max_visited: None,
            skip_quarantined: false,
        }
    }

    /// The size L of the search list in a graph: the nearest rows that are kept
    /// while walking. Each of several segments gets less, by the square root of its
    /// share of all rows, at least a quarter. Larger finds more of the true neighbours and takes
    /// longer; below `k` it is taken as `k`. Default: [`DEFAULT_L_SEARCH`], or twice
    /// `k` if that is more; then a segment is also scanned where that is cheaper
    /// than its graph.
    #[must_use]
    pub fn l_search(mut self, rows: usize) -> Self {
        self.l_search = Some(rows);
        self
    }

    /// Whether every row is compared instead of walking graphs. Default: no.
    #[must_use]
    pub fn exact(mut self, yes: bool) -> Self {
        self.exact = yes;
        self
    }

    /// Whether hits carry their vectors. Default: no.
    #[must_use]
    pub fn with_vectors(mut self, yes: bool) -> Self {
        self.with_vectors = yes;
        self
    }

    /// Whether hits carry their payloads. Default: no.
    #[must_use]
    pub fn with_payloads(mut self, yes: bool) -> Self {
        self.with_payloads = yes;
        self
    }

    /// Time from its start after which the search stops and answers with what
    /// it has found; the answer then says that it is incomplete. Default: none.
    #[must_use]
    pub fn deadline(mut self, after: Duration) -> Self {
        self.deadline = Some(after);
        self
    }

    /// Rows whose neighbours are looked at in graphs before the search stops and
    /// answers with what it has found; the answer then says that it is incomplete.
    /// Rows that are scanned, in memtables and segments without a graph, do not
    /// count. Default: none.
    #[must_use]
    pub fn max_visited(mut self, rows: u64) -> Self {
        self.max_visited = Some(rows);
        self
    }

    /// Whether segments that turned out to be damaged are left out instead of failing
    /// the search. The answer is then the right one over all other rows, and
    /// `SearchResult::skipped` names what is missing; `SearchStats::incomplete` is
    /// set. Damage that the search itself meets has it begin again without that
    /// segment. Default: no.
    #[must_use]
    pub fn skip_quarantined(mut self, yes: bool) -> Self {
        self.skip_quarantined = yes;
        self
    }

    /// The L asked for, or the default for this k; at least k.
    pub(crate) fn l(&self) -> usize {
        let default = DEFAULT_L_SEARCH.max(self.k.saturating_mul(2));
        self.l_search.unwrap_or(default).max(self.k)
    }
}
