//! How often rows are written, and how many segments there are, while rows come.

use esker_compaction::{Plan, Policy, SegmentDescription};

use crate::rivals;
use crate::simulator::{Choose, DEFAULTS, EXTEND, FLUSH, MIN_ROWS, Rng, World};

/// Means and extremes over the states in which merges came to rest.
#[derive(Default)]
struct Seen {
    states: u64,
    segments: u64,
    most: usize,
    most_graphs: usize,
    search: f64,
}

impl Seen {
    fn look(&mut self, world: &World) {
        self.states += 1;
        self.segments += world.segments.len() as u64;
        self.most = self.most.max(world.segments.len());
        self.most_graphs = self.most_graphs.max(world.graphs());
        self.search += world.search_cost();
    }

    fn mean(&self) -> f64 {
        self.segments as f64 / self.states as f64
    }
}

/// Flushes until as many rows are there; merges are done before the next flush.
fn ingest(choose: Choose<'_>, rows: u64, mut flush: impl FnMut() -> u64) -> (World, Seen) {
    let (mut world, mut seen) = (World::default(), Seen::default());
    while world.figures.ingested < u128::from(rows) {
        world.flush(choose, flush());
        world.settle(choose);
        seen.look(&world);
    }
    (world, seen)
}

/// Bits of knowing on which of two sides a row is, one with this share of all.
fn entropy(share: f64) -> f64 {
    let of = |p: f64| if p <= 0.0 { 0.0 } else { -p * p.log2() };
    of(share) + of(1.0 - share)
}

/// The most that rows are written for each that came, by decision 17, if the least flush
/// has `flush` rows, the least segment with a graph `graph`, and rows die or do not.
fn bound(policy: &Policy, rows: f64, flush: f64, graph: f64, dying: bool) -> f64 {
    let root = (rows / graph).powf(1.0 / policy.max_graph_segments as f64);
    let ratio = (root - 1.0).max(1.0);
    let bits = (rows / flush).log2() + if dying { std::f64::consts::LOG2_E } else { 0.0 };
    let filling = if rows > policy.max_rows as f64 / 2.0 {
        1.0
    } else {
        0.0
    };
    let rewritten = 1.0 / policy.deletion_ratio - 1.0;
    bits / entropy(1.0 / (1.0 + ratio)) + filling + if dying { rewritten } else { 0.0 }
}

fn by(policy: Policy) -> impl Fn(&[SegmentDescription]) -> Option<Plan> {
    move |segments| policy.choose(segments, &[])
}

#[test]
fn a_billion_rows_are_written_as_seldom_as_promised() {
    for (flush, rows) in [
        (FLUSH, 1_000_000),
        (FLUSH, 100_000_000),
        (FLUSH, 1_000_000_000),
        (MIN_ROWS, 100_000_000),
    ] {
        let (world, seen) = ingest(&by(DEFAULTS), rows, || flush);
        let bound = bound(&DEFAULTS, rows as f64, flush as f64, flush as f64, false);
        let written = world.figures.amplification();
        println!(
            "{rows} rows of {flush}: {written:.2} of {bound:.2}, {} segments",
            seen.most
        );
        assert!(written <= bound, "{written} of {bound}");
        assert!(seen.most <= DEFAULTS.max_graph_segments, "{}", seen.most);
    }
}

/// Rows written for each that comes of as many equal flushes, by whoever knows them all
/// before: with what is oldest in one segment, the others are the same task with one less.
fn least_possible(flushes: usize, segments: usize) -> f64 {
    let mut fewer = vec![f64::INFINITY; flushes + 1];
    fewer[0] = 0.0;
    for _ in 0..segments {
        let (mut least, mut in_one) = (vec![0.0], vec![f64::INFINITY]);
        for n in 1..=flushes {
            in_one.push(if n == 1 { 0.0 } else { n as f64 + least[n - 1] });
            let oldest = in_one.iter().zip(fewer[..=n].iter().rev());
            let all = oldest.map(|(oldest, others)| oldest + others);
            least.push(all.fold(f64::INFINITY, f64::min));
        }
        fewer = least;
    }
    fewer[flushes] / flushes as f64
}

/// Nobody who allows five segments writes much less, not even who knows the future.
#[test]
fn it_is_near_the_least_possible() {
    for rows in [10_000_000, 100_000_000] {
        let (world, _) = ingest(&by(DEFAULTS), rows, || FLUSH);
        let (written, least) = (
            world.figures.amplification(),
            least_possible(rows.div_ceil(FLUSH) as usize, DEFAULTS.max_graph_segments),
        );
        println!("{rows} rows: {written:.2}, at least {least:.2}");
        assert!(
            least <= written && written <= 1.15 * least,
            "{written}, {least}"
        );
    }
}

/// Whatever the settings and the sizes of flushes, also where outputs are full.
#[test]
fn settings_and_sizes_keep_the_bound() {
    let mut rng = Rng(17);
    for case in 0..300 {
        let policy = Policy {
            merge_width: 2 + rng.below(7) as usize,
            max_graph_segments: 1 + rng.below(8) as usize,
            max_rows: [DEFAULTS.max_rows, 3_000_000][rng.below(2) as usize],
            ..DEFAULTS
        };
        // Some flushes are too small for a graph.
        let least = [200, MIN_ROWS, FLUSH][rng.below(3) as usize];
        let spread = [1, 4, 50][rng.below(3) as usize] * least;
        let rows = least * (10 + rng.below(2_000));
        let (world, seen) = ingest(&by(policy), rows, || least + rng.below(spread));
        let ingested = world.figures.ingested as f64;
        let bound = bound(
            &policy,
            ingested,
            least as f64,
            least.max(MIN_ROWS) as f64,
            false,
        );
        let written = world.figures.amplification();
        assert!(
            written <= bound,
            "case {case}: {written} of {bound}, {policy:?}"
        );
        let full = (2.0 * ingested / policy.max_rows as f64) as usize;
        let most = policy.max_graph_segments + full;
        assert!(
            seen.most_graphs <= most,
            "case {case}: {} of {most}",
            seen.most_graphs
        );
        assert_eq!(
            crate::simulator::live(&world.segments),
            world.figures.ingested
        );
    }
}

/// Updates: every flush supersedes as many rows as it has, somewhere.
#[test]
fn updates_keep_the_bound() {
    let mut rng = Rng(3);
    for case in 0..40 {
        let policy = Policy {
            deletion_ratio: [0.1, 0.3, 0.5][rng.below(3) as usize],
            max_graph_segments: 2 + rng.below(7) as usize,
            ..DEFAULTS
        };
        let choose = by(policy);
        let mut world = World::default();
        let mut least = FLUSH;
        for flush in 0..3_000_u64 {
            world.flush(&choose, FLUSH);
            if flush > 100 {
                let mut left = FLUSH;
                while left > 0 {
                    let at = rng.below(world.segments.len() as u64) as usize;
                    let rows = left
                        .min(1 + rng.below(FLUSH))
                        .min(world.segments[at].live_rows);
                    world.delete(at, rows);
                    left -= rows;
                }
            }
            let sizes = world.segments.iter().map(|s| s.live_rows);
            least = sizes
                .filter(|&rows| rows > 0)
                .min()
                .unwrap_or(least)
                .min(least);
            world.settle(&choose);
            assert!(world.graphs() <= policy.max_graph_segments);
        }
        let figures = world.figures;
        let bits = |rows: f64| (rows / least as f64).log2();
        let most = live_at_most(&figures);
        let bound = bound(&policy, most, least as f64, least as f64, true);
        let written = figures.amplification();
        assert!(
            written <= bound,
            "case {case}: {written} of {bound} ({} bits)",
            bits(most)
        );
    }
}

/// Rows alive at a time: the first 101 flushes, and one more.
fn live_at_most(figures: &crate::simulator::Figures) -> f64 {
    (figures.ingested - figures.deleted) as f64 + FLUSH as f64
}

/// The tables of decision 17.
#[test]
fn tables() {
    let eight = Policy {
        max_graph_segments: 8,
        ..DEFAULTS
    };
    let three = Policy {
        max_graph_segments: 3,
        ..DEFAULTS
    };
    let policies: [(&str, Choose<'_>); 9] = [
        ("tiers of four (before)", &rivals::tiers_of_four),
        ("this one, at most 5", &by(DEFAULTS)),
        ("this one, at most 3", &by(three)),
        ("this one, at most 8", &by(eight)),
        ("5, the largest within 4", &|s| rivals::largest_within(4, s)),
        ("5, the largest within 20", &|s| {
            rivals::largest_within(20, s)
        }),
        ("5, always the largest", &|s| {
            rivals::largest_within(u64::MAX, s)
        }),
        ("5, least processor at 3.5", &|s| {
            rivals::least_processor(3.5, s)
        }),
        ("5, least processor at 2", &|s| {
            rivals::least_processor(2.0, s)
        }),
    ];
    let mut written = Vec::new();
    for rows in [1_000_000, 10_000_000, 100_000_000, 1_000_000_000] {
        println!(
            "\n{rows} rows\n| | written | segments, mean | most | search | built | inserted | processor, 3.5 | 2 |"
        );
        for (name, choose) in policies {
            if rows > 100_000_000 && name.contains("always") {
                continue;
            }
            let (world, seen) = ingest(choose, rows, || FLUSH);
            let f = world.figures;
            println!(
                "| {name} | {:.2} | {:.1} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
                f.amplification(),
                seen.mean(),
                seen.most,
                seen.search / seen.states as f64,
                f.built(),
                f.extended(),
                f.cost(EXTEND),
                f.cost(2.0),
            );
            written.push((rows, name, f.amplification()));
        }
    }
    let of = |rows: u64, name: &str| {
        written
            .iter()
            .find(|w| w.0 == rows && w.1.contains(name))
            .map(|w| w.2)
    };
    let at = 100_000_000;
    assert!(
        of(at, "at most 5") < of(at, "within 4"),
        "the least is the least"
    );
    assert!(
        of(at, "at most 8") < of(at, "at most 5"),
        "more segments, less to write"
    );
    assert!(
        of(at, "before") < of(at, "at most 5"),
        "fewer segments are not free"
    );
}
