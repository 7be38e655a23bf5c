//! Counters, and the report made of them.
//!
//! Owns what is counted. Invariant: a figure that is not measured is not there.
//! Must not know: who asks.

mod memory;
mod moved;

use std::time::Duration;

use esker_segment::GraphMade;

use crate::core::Core;
use crate::events::{Kind, MergeReason};
use crate::segment_file::LiveSegment;
use crate::sync::Ordering;
use crate::sync::counter::AtomicU64;

pub use memory::{MemoryStats, MemtableMemory};
pub use moved::MergeCounts;
use moved::{MergesDone, Moved};

/// Running totals since open.
#[derive(Default)]
pub(crate) struct Counters {
    batches: AtomicU64,
    operations: AtomicU64,
    bytes_ingested: AtomicU64,
    flushing: Moved,
    merging: Moved,
    graph_rows_built: AtomicU64,
    graphs_built: AtomicU64,
    graphs_kept: AtomicU64,
    flushes: AtomicU64,
    merges: MergesDone,
    merges_cancelled: AtomicU64,
    merges_failed: AtomicU64,
    slowdowns: AtomicU64,
    stalls: AtomicU64,
    stall_nanos: AtomicU64,
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Counters {
    pub(crate) fn batch(&self, operations: u64, bytes: u64) {
        add(&self.batches, 1);
        add(&self.operations, operations);
        add(&self.bytes_ingested, bytes);
    }

    fn moved(&self, kind: Kind) -> &Moved {
        match kind {
            Kind::Flush => &self.flushing,
            Kind::Merge => &self.merging,
        }
    }

    pub(crate) fn read(&self, kind: Kind, bytes: u64) {
        add(&self.moved(kind).read, bytes);
    }

    pub(crate) fn wrote(&self, kind: Kind, bytes: u64) {
        add(&self.moved(kind).written, bytes);
    }

    pub(crate) fn took(&self, kind: Kind, time: Duration) {
        add(&self.moved(kind).nanos, nanos(time));
    }

    pub(crate) fn graph_built(&self, made: GraphMade) {
        add(&self.graph_rows_built, u64::from(made.new_rows));
        match made.generation {
            0 => add(&self.graphs_built, 1),
            _ => add(&self.graphs_kept, 1),
        }
    }

    pub(crate) fn flushed(&self) {
        add(&self.flushes, 1);
    }

    pub(crate) fn merged(&self, reason: MergeReason) {
        add(self.merges.of(reason), 1);
    }

    pub(crate) fn merge_cancelled(&self) {
        add(&self.merges_cancelled, 1);
    }

    pub(crate) fn merge_failed(&self) {
        add(&self.merges_failed, 1);
    }

    pub(crate) fn slowed(&self) {
        add(&self.slowdowns, 1);
    }

    pub(crate) fn stalled(&self, time: Duration) {
        add(&self.stalls, 1);
        add(&self.stall_nanos, nanos(time));
    }
}

/// What a database has done since it was opened, and what it holds now.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Batches queued, single writes included.
    pub batches: u64,
    /// Operations in them.
    pub operations: u64,
    /// Their encoded bytes.
    pub bytes_ingested: u64,
    /// Bytes of frames appended to the log.
    pub bytes_written_log: u64,
    /// Rows whose edges flushes and merges chose: beside the rows that were put, how often
    /// each row's edges were chosen. Rows of a graph that was kept are not among them.
    pub graph_rows_built: u64,
    /// Graphs that flushes and merges built from nothing.
    pub graphs_built: u64,
    /// Graphs that merges made out of that of their largest input.
    pub graphs_kept: u64,
    /// Bytes of segments and deletion vectors written by flushes and merges: the two next
    /// figures together.
    pub bytes_written_segments: u64,
    /// Of these, by flushes. What was written in vain, and discarded, counts here as it does
    /// for merges.
    pub bytes_written_flushes: u64,
    /// Of these, by merges.
    pub bytes_written_merges: u64,
    /// Bytes of segments that merges read to verify them before they copied what is live.
    pub bytes_read_merges: u64,
    /// Bytes that merges still have to write, an estimate: of those that run, until they are
    /// committed, and then of all that the policy would have
    /// merged, one merge after another, if nothing were written or deleted meanwhile, each
    /// output with the live rows that its inputs have now. Those of merges that nobody does
    /// are among them (`Options::auto_compact`, `Db::pause_merges`).
    pub merge_debt_bytes: u64,
    /// How many merges these are.
    pub merges_due: u64,
    /// Memtables flushed.
    pub flushes: u64,
    /// How long flushes took, all together.
    pub flush_time: Duration,
    /// Merges committed.
    pub merges: u64,
    /// The same, by why they were due.
    pub merges_by_reason: MergeCounts,
    /// Merges that run now, and compactions that callers wait for and that have begun.
    pub merges_running: usize,
    /// Merges that were ended before they were done.
    pub merges_cancelled: u64,
    /// Merges that failed.
    pub merges_failed: u64,
    /// How long merges took, all together: those that were cancelled or failed, and pauses,
    /// included.
    pub merge_time: Duration,
    /// How long threads of merges and graphs waited because together they may not take more of
    /// the processor (`Options::background_cpu`), all together.
    pub cpu_wait_time: Duration,
    /// Writes that were slowed because the memory budget was nearly used.
    pub slowdowns: u64,
    /// Writes that waited because it was used up.
    pub stalls: u64,
    /// How long they waited, all together.
    pub stall_time: Duration,
    /// Live segments of all collections.
    pub segments: usize,
    /// Bytes of their files.
    pub segment_bytes: u64,
    /// Rows in them that are not superseded. Of segments that were not read since an
    /// open that did not look at them (`VerifyOnOpen::None`), all rows count, and
    /// nothing is known of their graphs and blocks.
    pub segment_rows: u64,
    /// Live segments that turned out to be damaged; `Db::quarantined` names them.
    pub quarantined_segments: usize,
    /// Rows in segments that have a graph, superseded ones included.
    pub graph_rows: u64,
    /// Bytes of the graphs in their files.
    pub graph_bytes: u64,
    /// Least recall@10 that any of them had in the sample taken when it was
    /// built, 0 to 1. Rows of the segment itself were the queries.
    pub least_sampled_recall: Option<f32>,
    /// Blocks of mapped segments that were read and verified since their files
    /// were opened; each is verified at its first touch.
    pub blocks_verified: u64,
    /// All blocks of mapped segments.
    pub blocks: u64,
    /// Bytes of log files on disk that are still needed.
    pub log_bytes: u64,
    /// Heap bytes charged for memtables and batches in flight.
    pub memtable_bytes: usize,
    /// Heap bytes of flushed memtables that snapshots or reads still pin.
    pub pinned_bytes: usize,
    /// Heap bytes of open segments' tables and deletion vectors.
    pub segment_heap_bytes: usize,
    /// Bytes that flushes and merges hold while one of them builds a graph, and 0 while
    /// none does; not part of the memory budget.
    pub build_bytes: usize,
    /// Heap bytes that wait for the next searches.
    pub search_bytes: usize,
    /// What is held in memory, by what it is for.
    pub memory: MemoryStats,
    /// Living snapshots.
    pub snapshots: usize,
    /// Rounds of background scrubbing that ended since open.
    pub scrub_rounds: u64,
    /// Bytes that background scrubbing has read since open.
    pub scrub_bytes: u64,
    /// How long ago the last round of background scrubbing ended; `None` before one has.
    pub scrub_age: Option<Duration>,
    /// Problems that the last round and the present one found: see `Db::scrub_report`.
    pub scrub_problems: u64,
    /// The background failure that is being retried, if there is one.
    pub background_error: Option<String>,
}

impl Core {
    pub(crate) fn stats(&self) -> Stats {
        let counters = &self.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (view, _) = self.published.get();
        let scrub = self.scrub_report();
        let debt = self.merge_debt(&view);
        let flushed = get(&counters.flushing.written);
        let merged = get(&counters.merging.written);
        let merges_by_reason = counters.merges.counts();
        let mut stats = Stats {
            batches: get(&counters.batches),
            operations: get(&counters.operations),
            bytes_ingested: get(&counters.bytes_ingested),
            bytes_written_log: self.log.bytes_written(),
            bytes_written_segments: flushed + merged,
            bytes_written_flushes: flushed,
            bytes_written_merges: merged,
            bytes_read_merges: get(&counters.merging.read),
            merge_debt_bytes: debt.bytes,
            merges_due: debt.merges,
            graph_rows_built: get(&counters.graph_rows_built),
            graphs_built: get(&counters.graphs_built),
            graphs_kept: get(&counters.graphs_kept),
            flushes: get(&counters.flushes),
            flush_time: Duration::from_nanos(get(&counters.flushing.nanos)),
            merges: merges_by_reason.total(),
            merges_by_reason,
            merges_running: self.running.count(),
            merges_cancelled: get(&counters.merges_cancelled),
            merges_failed: get(&counters.merges_failed),
            merge_time: Duration::from_nanos(get(&counters.merging.nanos)),
            cpu_wait_time: self.outputs.cpu.waited(),
            slowdowns: get(&counters.slowdowns),
            stalls: get(&counters.stalls),
            stall_time: Duration::from_nanos(get(&counters.stall_nanos)),
            log_bytes: self.log.total_bytes(),
            memtable_bytes: self.budget.used(),
            pinned_bytes: self.budget.pinned(),
            build_bytes: self.outputs.graph_build_bytes(),
            search_bytes: self.scratches.heap_bytes(),
            memory: self.memory_stats(),
            snapshots: self.snapshots.count(),
            scrub_rounds: scrub.rounds,
            scrub_bytes: scrub.bytes,
            scrub_age: scrub.since_last,
            scrub_problems: scrub.problems.len() as u64 + scrub.more_problems,
            background_error: self
                .failures
                .lock()
                .values()
                .next()
                .map(ToString::to_string),
            ..Stats::default()
        };
        for segment in view.collections.values().flat_map(|c| &c.version.segments) {
            stats.add(segment);
        }
        stats
    }
}

impl Stats {
    /// How often a byte was written to segments since the open for each that a flush wrote:
    /// `bytes_written_segments` by `bytes_written_flushes`, 1 where nothing was merged. The
    /// log is not part of it (`bytes_written_log`). `None` before the first flush.
    #[must_use]
    pub fn write_amplification(&self) -> Option<f64> {
        let flushed = self.bytes_written_flushes;
        (flushed > 0).then(|| self.bytes_written_segments as f64 / flushed as f64)
    }

    /// Counts one live segment. A file that nobody has opened is not opened for it.
    fn add(&mut self, segment: &LiveSegment) {
        let file = &segment.file;
        self.segments += 1;
        self.segment_bytes += file.meta.len;
        self.segment_rows += segment.live_rows();
        self.quarantined_segments += usize::from(file.quarantined().is_some());
        let dead = segment.known_deletions();
        self.segment_heap_bytes += dead.map_or(0, |deleted| deleted.heap_bytes());
        let Some(opened) = file.opened() else { return };
        if let Some(graph) = &opened.segment.stats().graph {
            let rows = u64::from(file.meta.rows);
            self.graph_rows += rows;
            self.graph_bytes += rows * u64::from(graph.max_degree) * 4;
            let least = self.least_sampled_recall.unwrap_or(1.0);
            self.least_sampled_recall = Some(graph.sampled_recall.min(least));
        }
        for (_, verified, total) in opened.segment.verified_blocks() {
            self.blocks_verified += u64::from(verified);
            self.blocks += u64::from(total);
        }
        self.segment_heap_bytes += opened.segment.heap_bytes();
    }
}
