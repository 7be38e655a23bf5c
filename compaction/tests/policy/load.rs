//! Loads on a machine that takes its time: whether each graph is built about once where
//! rows come faster than graphs, and what searches meet meanwhile.

use esker_compaction::{Plan, SegmentDescription};

use crate::rivals;
use crate::simulator::{
    Begun, Choose, DEFAULTS, EXTEND, FLUSH, Figures, World, graph_of, live, missing,
};

/// Rows a second of a graph that is built, by all processors.
const BUILDS: f64 = 20_000.0;
/// Rows a second that are read, verified, written and read back.
const WRITES: f64 = 500_000.0;

/// A merge on its way.
struct Merge {
    begun: Begun,
    /// When its graph, if it makes one, and then its file are done.
    end: f64,
    started: f64,
    with_graph: bool,
    /// Rows that have come without a graph meanwhile.
    outrunning: u128,
}

/// A flush on its way.
struct Flush {
    rows: u64,
    end: f64,
    with_graph: bool,
}

/// What came of a load.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    figures: Figures,
    /// Rows of graphs that were given up, for each row that came.
    thrown_away: f64,
    /// Seconds from the last row to the end of the work.
    after: f64,
    /// The most segments, and rows that were scanned, at the end of a flush.
    most_segments: usize,
    most_scanned: u128,
    /// The most graphs, and those at the end.
    most_graphs: usize,
    graphs: usize,
}

struct Machine<'a> {
    choose: Choose<'a>,
    world: World,
    now: f64,
    /// When the memtables are full.
    full: Vec<f64>,
    flushed: usize,
    flush: Option<Flush>,
    merge: Option<Merge>,
    thrown_away: f64,
    outcome: Outcome,
}

impl Machine<'_> {
    /// Begins the flush of the oldest full memtable, with its graph if nobody waits and no
    /// merge is due that takes it in, or one is running and nobody knows for how long;
    /// gives the graph up when the next memtable is full.
    fn begin_flush(&mut self) {
        let Some(&full) = self.full.get(self.flushed) else {
            return;
        };
        let next = self
            .full
            .get(self.flushed + 1)
            .copied()
            .unwrap_or(f64::INFINITY);
        let start = full.max(self.now);
        let write = FLUSH as f64 / WRITES;
        let build = FLUSH as f64 / BUILDS;
        let due = self.merge.is_none() && self.world.is_due(self.choose, &[], FLUSH);
        let wants = next > start && !due;
        let with_graph = wants && start + build <= next;
        let spent = match (wants, with_graph) {
            (true, true) => build,
            (true, false) => next - start,
            (false, _) => 0.0,
        };
        self.thrown_away += if with_graph { 0.0 } else { spent * BUILDS };
        self.flush = Some(Flush {
            rows: FLUSH,
            end: start + spent + write,
            with_graph,
        });
    }

    fn end_flush(&mut self, flush: &Flush) {
        let rows = u128::from(flush.rows);
        self.world.figures.ingested += rows;
        if flush.with_graph {
            self.world.figures.built += rows;
            self.world.add(flush.rows, graph_of(flush.rows, 0));
        } else {
            self.world.add(flush.rows, missing(flush.rows));
        }
        self.flushed += 1;
        if let Some(merge) = &mut self.merge {
            merge.outrunning += if flush.with_graph { 0 } else { rows };
            // Its graph is given up: without it the merge is done at once.
            if merge.with_graph && merge.outrunning >= merge.begun.rows {
                merge.with_graph = false;
                self.thrown_away += (self.now - merge.started) * BUILDS;
                merge.end = self.now + merge.begun.rows as f64 / WRITES;
            }
        }
        let scanned = self.world.segments.iter().filter(|s| s.lacks_graph());
        let scanned: Vec<SegmentDescription> = scanned.copied().collect();
        let outcome = &mut self.outcome;
        outcome.most_scanned = outcome.most_scanned.max(live(&scanned));
        outcome.most_segments = outcome.most_segments.max(self.world.segments.len());
        let graphs = self.world.graphs() - scanned.len();
        outcome.most_graphs = outcome.most_graphs.max(graphs);
    }

    fn begin_merge(&mut self) {
        let Some(plan) = (self.choose)(&self.world.segments) else {
            return;
        };
        let begun = self.world.begin(&plan);
        let rows = u64::try_from(begun.rows).expect("within the limit");
        let with_graph = !self.world.is_due(self.choose, &plan.inputs, rows);
        let speed = if begun.reused.is_some() {
            BUILDS / EXTEND
        } else {
            BUILDS
        };
        let graph = if with_graph {
            begun.graph_rows() as f64 / speed
        } else {
            0.0
        };
        self.merge = Some(Merge {
            end: self.now + graph + begun.rows as f64 / WRITES,
            started: self.now,
            with_graph,
            begun,
            outrunning: 0,
        });
    }

    /// Goes on to whatever ends next; false if nothing is under way.
    fn step(&mut self) -> bool {
        if self.flush.is_none() {
            self.begin_flush();
        }
        if self.merge.is_none() {
            self.begin_merge();
        }
        let flush = self.flush.as_ref().map_or(f64::INFINITY, |f| f.end);
        let merge = self.merge.as_ref().map_or(f64::INFINITY, |m| m.end);
        if flush.min(merge).is_infinite() {
            return false;
        }
        self.now = flush.min(merge);
        if flush <= merge {
            if let Some(flush) = self.flush.take() {
                self.end_flush(&flush);
            }
        } else if let Some(merge) = self.merge.take() {
            self.world.commit(&merge.begun, merge.with_graph);
        }
        true
    }
}

/// Loads as many rows at this rate into a collection that has `before`.
fn load(choose: Choose<'_>, before: u64, rows: u64, rate: f64) -> Outcome {
    let mut world = World::default();
    if before > 0 {
        world.add(before, graph_of(before, 0));
    }
    let count = rows.div_ceil(FLUSH);
    let full: Vec<f64> = (1..=count).map(|n| (n * FLUSH) as f64 / rate).collect();
    let end = full.last().copied().unwrap_or(0.0);
    let mut machine = Machine {
        choose,
        world,
        now: 0.0,
        full,
        flushed: 0,
        flush: None,
        merge: None,
        thrown_away: 0.0,
        outcome: Outcome::default(),
    };
    let most = 40 * count + 100;
    assert!((0..most).any(|_| !machine.step()), "the work has no end");
    let figures = machine.world.figures;
    let all_have_one = machine.world.segments.iter().all(|s| !s.lacks_graph());
    assert!(all_have_one, "{:?}", machine.world.segments);
    assert_eq!(
        live(&machine.world.segments),
        u128::from(before + count * FLUSH)
    );
    Outcome {
        figures,
        thrown_away: machine.thrown_away / figures.ingested as f64,
        after: machine.now - end,
        graphs: machine.world.graphs(),
        ..machine.outcome
    }
}

fn this_one(segments: &[SegmentDescription]) -> Option<Plan> {
    DEFAULTS.choose(segments, &[])
}

/// A load that outruns the merges builds each row's graph about once.
#[test]
fn a_fast_load_builds_each_graph_about_once() {
    for rows in [1_000_000, 10_000_000, 100_000_000] {
        let outcome = load(&this_one, 0, rows, 900_000.0);
        let figures = outcome.figures;
        let built = figures.built() + figures.extended() * EXTEND + outcome.thrown_away;
        println!("{rows} rows: {built:.2} graphs a row, {outcome:?}");
        assert!(built < 1.8, "{built}: {outcome:?}");
        assert!(outcome.graphs <= DEFAULTS.max_graph_segments);
        // No slower than to build one graph of all.
        assert!(outcome.after < 1.8 * rows as f64 / BUILDS, "{outcome:?}");
    }
}

/// Rows that come more slowly than their graphs are built: hardly any are ever scanned,
/// however long a merge takes, and at a pace that the merges keep up with, there are not
/// many segments either.
#[test]
fn a_steady_pace_is_kept_up_with() {
    for (rows, rate, most) in [
        (3_000_000, 2_000.0, 24),
        (20_000_000, 2_000.0, 60),
        (100_000_000, 5_000.0, 1_000),
    ] {
        let outcome = load(&this_one, 0, rows, rate);
        println!("{rows} rows at {rate}: {outcome:?}");
        assert!(outcome.most_segments <= most, "{outcome:?}");
        assert!(outcome.most_scanned <= 5 * u128::from(FLUSH), "{outcome:?}");
        assert!(outcome.figures.amplification() < 9.0, "{outcome:?}");
        assert!(outcome.graphs <= DEFAULTS.max_graph_segments);
    }
}

/// The graph of what was there before is not lost to a load.
#[test]
fn a_load_onto_a_large_segment_leaves_its_graph() {
    let outcome = load(&this_one, 50_000_000, 2_000_000, 900_000.0);
    println!("{outcome:?}");
    assert!(outcome.figures.built() < 1.8, "{outcome:?}");
}

#[test]
fn tables_of_loads() {
    let policies: [(&str, Choose<'_>); 2] =
        [("before", &rivals::tiers_of_four), ("this one", &this_one)];
    println!(
        "| load | policy | graphs built | inserted | given up | written | s after | most segments | most scanned | most graphs | at the end |"
    );
    for (before, rows, rate) in [
        (0, 1_000_000, 900_000.0),
        (0, 10_000_000, 900_000.0),
        (0, 100_000_000, 900_000.0),
        (10_000_000, 1_000_000, 900_000.0),
        (0, 1_000_000, 5_000.0),
        (0, 10_000_000, 5_000.0),
        (0, 100_000_000, 5_000.0),
        (0, 100_000_000, 2_000.0),
    ] {
        for (name, choose) in policies {
            let o = load(choose, before, rows, rate);
            println!(
                "| {before} + {rows} at {rate} | {name} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {} | {} | {} | {} |",
                o.figures.built(),
                o.figures.extended(),
                o.thrown_away,
                o.figures.amplification(),
                o.after,
                o.most_segments,
                o.most_scanned,
                o.most_graphs,
                o.graphs,
            );
        }
    }
}
