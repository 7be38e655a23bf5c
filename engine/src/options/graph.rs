//! Settings of the graphs that flushes and merges build.
//!
//! They shape segments written from now on; a segment says itself how its graph
//! was built, so they may differ from one open to the next.

use esker_segment::{GraphBuilder, GraphParams, MAX_DEGREE, MAX_GRAPH_ROWS, MIN_DEGREE, SegmentId};

use crate::error::{Error, Result};

/// R. More neighbours find more with one list and cost more to visit: a recall@10
/// of 0.95 takes about as many distances with 24 as with 48, and a build takes
/// half the time (docs/decisions/0006).
pub const DEFAULT_MAX_DEGREE: u32 = 32;
/// L of an insertion in the second pass; the first has half of it.
pub const DEFAULT_L_BUILD: u32 = 80;
/// Alpha of the second pass, for squared distances; the first has 1.
pub const DEFAULT_ALPHA: f32 = 1.3;
/// Below this many rows a scan takes no longer than a walk with the default L.
pub const DEFAULT_GRAPH_MIN_ROWS: u32 = 2048;

/// How graphs are built.
///
/// ```
/// use esker::{GraphOptions, Options};
/// let options = Options::new().graph(GraphOptions::new().max_degree(48).l_build(100));
/// assert!(options.validate().is_ok());
/// assert!(Options::new().graph(GraphOptions::new().alpha(0.5)).validate().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GraphOptions {
    pub(crate) builder: GraphBuilder,
    pub(crate) max_degree: u32,
    pub(crate) l_build: u32,
    pub(crate) alpha: f32,
    pub(crate) min_rows: u32,
    pub(crate) reuse: bool,
}

impl Default for GraphOptions {
    fn default() -> Self {
        Self {
            builder: GraphBuilder::default(),
            max_degree: DEFAULT_MAX_DEGREE,
            l_build: DEFAULT_L_BUILD,
            alpha: DEFAULT_ALPHA,
            min_rows: DEFAULT_GRAPH_MIN_ROWS,
            reuse: true,
        }
    }
}

impl GraphOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Who builds graphs, default [`GraphBuilder::Leaves`].
    #[must_use]
    pub fn builder(mut self, builder: GraphBuilder) -> Self {
        self.builder = builder;
        self
    }

    /// R, the most neighbours of a row: 4 to 1,024, default [`DEFAULT_MAX_DEGREE`].
    /// A row takes `4 x R` bytes on disk.
    #[must_use]
    pub fn max_degree(mut self, neighbors: u32) -> Self {
        self.max_degree = neighbors;
        self
    }

    /// L of an insertion: 1 to 4,096, default [`DEFAULT_L_BUILD`]. Larger builds
    /// better graphs more slowly. Graphs are inserted into with
    /// [`GraphBuilder::Insertion`], if they are small, and for part of the rows of a merge that
    /// has very little memory.
    #[must_use]
    pub fn l_build(mut self, rows: u32) -> Self {
        self.l_build = rows;
        self
    }

    /// Alpha: 1 to 4, default [`DEFAULT_ALPHA`]. Larger keeps more long edges.
    #[must_use]
    pub fn alpha(mut self, alpha: f32) -> Self {
        self.alpha = alpha;
        self
    }

    /// Rows below which a segment gets no graph and is scanned, at least 1;
    /// default [`DEFAULT_GRAPH_MIN_ROWS`].
    #[must_use]
    pub fn min_rows(mut self, rows: u32) -> Self {
        self.min_rows = rows;
        self
    }

    /// Whether a merge makes its graph out of that of its largest input where that is
    /// much cheaper than to build one, default true. Without it every merge builds.
    #[must_use]
    pub fn reuse(mut self, reuse: bool) -> Self {
        self.reuse = reuse;
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let sound = (MIN_DEGREE..=MAX_DEGREE).contains(&self.max_degree)
            && (1..=4096).contains(&self.l_build)
            && (1.0..=4.0).contains(&self.alpha)
            && self.min_rows >= 1;
        if sound {
            return Ok(());
        }
        Err(Error::invalid(
            "a graph needs max_degree from 4 to 1024, l_build from 1 to 4096, alpha from 1 to 4 \
             and min_rows of at least 1",
        ))
    }

    /// Whether a segment of this many rows gets a graph.
    pub(crate) fn wanted(&self, rows: u64) -> bool {
        (u64::from(self.min_rows)..=u64::from(MAX_GRAPH_ROWS)).contains(&rows)
    }

    /// What the graph of a new segment is built with.
    pub(crate) fn params(&self, segment: SegmentId) -> GraphParams {
        GraphParams {
            builder: self.builder,
            max_degree: self.max_degree,
            l_build: self.l_build,
            alpha: self.alpha,
            seed: segment.0,
        }
    }
}
