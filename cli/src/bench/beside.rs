//! Searches beside a load: how long they take while rows come, while what came is
//! merged, and when all is quiet.
//!
//! Owns the thread that searches, the thread that looks at the database meanwhile, and
//! what both found, by phase; [`super::pace`] says what is due when. Invariants: the same
//! queries at the same pace in every phase; a search belongs to the phase in which it
//! began, and those that it put off with it; those between the last change of a database
//! and the verdict that it has settled belong to none.
//! Must not know: what is loaded, and how.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use esker::{Collection, Db, SearchOptions};
use serde_json::{Map, Value, json};

use super::judge::read_queries;
use super::load::Load;
use super::pace::{Asked, Pace, Times};
use super::point::nearest;
use super::report::round;
use super::{cpu, memory};
use crate::args::{BenchIngest, check_lists};
use crate::failure::Failure;

/// Time between two looks at the database.
const LOOK: Duration = Duration::from_millis(100);
/// Most samples of a line.
const SAMPLES: usize = 24;

/// What is asked, and how often.
pub(super) struct Searches {
    queries: Vec<f32>,
    dimension: usize,
    options: SearchOptions,
    /// Time from one search to the next; `None`: no pause.
    every: Option<Duration>,
}

/// What the threads see of the load, and of each other.
pub(super) struct Beside<'a> {
    db: &'a Db,
    collection: &'a Collection,
    began: Instant,
    is_over: AtomicBool,
    /// Where the processor time of the thread that searches is told.
    searcher: OnceLock<Option<PathBuf>>,
}

/// What was seen from the first write until the database had settled.
pub(super) struct Seen {
    began: Instant,
    searches: Vec<Asked>,
    looks: Vec<Look>,
}

/// The database at one moment.
struct Look {
    at: Duration,
    segments: usize,
    /// Rows of segments that a search has to scan.
    without_graph: u64,
    /// Rows that no segment has yet: of memtables, which are scanned by codes.
    unflushed: u64,
    anon_mb: Option<f64>,
}

impl<'a> Beside<'a> {
    fn new(db: &'a Db, collection: &'a Collection) -> Self {
        Self {
            db,
            collection,
            began: Instant::now(),
            is_over: AtomicBool::new(false),
            searcher: OnceLock::new(),
        }
    }

    /// Where the processor time of the thread that searches is told.
    pub(super) fn searcher(&self) -> Option<PathBuf> {
        self.searcher.get()?.clone()
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn look(&self) -> Look {
        let stats = self.db.stats();
        Look {
            at: self.began.elapsed(),
            segments: stats.segments,
            without_graph: stats.segment_rows.saturating_sub(stats.graph_rows),
            // Each put has a key of its own.
            unflushed: stats.operations.saturating_sub(stats.segment_rows),
            anon_mb: memory::anon_mb(),
        }
    }

    fn look_until_the_end(&self) -> Vec<Look> {
        let mut looks = vec![self.look()];
        while !self.is_over() {
            std::thread::sleep(LOOK);
            looks.push(self.look());
        }
        looks
    }
}

impl Searches {
    /// Reads the queries, before anything is loaded.
    pub(super) fn new(args: &BenchIngest, load: &Load) -> Result<Self, Failure> {
        check_lists(&[args.l], args.k)?;
        let every = (args.search_rate > 0).then(|| 1.0 / args.search_rate as f64);
        Ok(Self {
            queries: read_queries(load, &args.load.data, args.queries)?,
            dimension: load.dimension as usize,
            options: nearest(args.k, args.l),
            every: every.map(Duration::from_secs_f64),
        })
    }

    /// Does the work while one thread searches and another looks.
    pub(super) fn beside<T>(
        &self,
        db: &Db,
        collection: &Collection,
        work: impl FnOnce(&Beside<'_>) -> Result<T, Failure>,
    ) -> Result<(T, Seen), Failure> {
        let beside = Beside::new(db, collection);
        let (done, searches, looks) = std::thread::scope(|scope| {
            let searcher = scope.spawn(|| {
                beside.searcher.get_or_init(cpu::this_thread);
                self.search(&beside, u64::MAX)
            });
            let looker = scope.spawn(|| beside.look_until_the_end());
            let end = memory::End(&beside.is_over);
            let done = work(&beside);
            drop(end);
            (done, searcher.join(), looker.join())
        });
        let panicked = |_| Failure::failed("a searching thread panicked");
        let seen = Seen {
            began: beside.began,
            searches: searches.map_err(panicked)??,
            looks: looks.map_err(panicked)?,
        };
        Ok((done?, seen))
    }

    /// Asks each query that was asked before once more, now that nothing else runs.
    pub(super) fn quiet(
        &self,
        db: &Db,
        collection: &Collection,
        seen: &Seen,
    ) -> Result<Times, Failure> {
        let beside = Beside::new(db, collection);
        let all = self.queries.len() / self.dimension;
        let searches = self.search(&beside, seen.searches.len().min(all) as u64)?;
        Ok(Times::new(self.every, searches))
    }

    /// Searches at the pace, so many times or until it is over.
    fn search(&self, beside: &Beside<'_>, most: u64) -> Result<Vec<Asked>, Failure> {
        let (mut searches, mut pace) = (Vec::new(), Pace::new(self.every));
        for query in self.queries.chunks_exact(self.dimension).cycle() {
            if searches.len() as u64 == most || beside.is_over() {
                break;
            }
            std::thread::sleep(pace.due().saturating_sub(beside.began.elapsed()));
            let began = beside.began.elapsed();
            beside.collection.search(query, &self.options)?;
            searches.push(pace.asked(began, beside.began.elapsed()));
        }
        Ok(searches)
    }

    /// What was seen, beside what the quiet database shows; when the last row was
    /// acknowledged, and when the database had settled.
    pub(super) fn fields(
        &self,
        seen: &Seen,
        quiet: &Times,
        [written, settled]: [Instant; 2],
    ) -> Map<String, Value> {
        let [written, settled] =
            [written, settled].map(|at| at.saturating_duration_since(seen.began));
        let phase = |from: Duration, to: Duration| {
            let within = |asked: &&Asked| (from..to).contains(&asked.began());
            Times::new(
                self.every,
                seen.searches.iter().filter(within).copied().collect(),
            )
        };
        let mut fields = Map::new();
        let during = phase(Duration::ZERO, written);
        add_phase(&mut fields, ["", ""], &during, Some(quiet));
        let last = phase(written.mul_f64(0.9), written);
        add_phase(&mut fields, ["", "_last_tenth"], &last, Some(quiet));
        let settling = phase(written, settled);
        add_phase(&mut fields, ["settling_", ""], &settling, Some(quiet));
        add_phase(&mut fields, ["quiet_", ""], quiet, None);
        let (most, mean) = segments(&seen.looks, written);
        let most_of = |rows: fn(&Look) -> u64| seen.looks.iter().map(rows).max();
        let more = json!({
            "segments_most": most,
            "segments_mean": round(mean, 2),
            "segment_rows_without_graph_most": most_of(|look| look.without_graph),
            "memtable_rows_most": most_of(|look| look.unflushed),
            "rows_scanned_most": most_of(|look| look.without_graph + look.unflushed),
            "segments_over_time": thinned(&seen.looks),
            "peak_anon_mb": seen.peak_anon_mb().map(|mb| round(mb, 1)),
        });
        if let Value::Object(more) = more {
            fields.extend(more);
        }
        fields
    }
}

/// What the searches of one phase took, and how many times what those of the quiet
/// database did.
fn add_phase(
    fields: &mut Map<String, Value>,
    [before, after]: [&str; 2],
    times: &Times,
    quiet: Option<&Times>,
) {
    let mut add = |name: &str, value: Value| {
        fields.insert(format!("{before}{name}{after}"), value);
    };
    add("searches", json!(times.len()));
    add("late_searches", json!(times.late()));
    add("missed_searches", json!(times.missed()));
    type Figure = fn(&Times, usize) -> Option<f64>;
    let figures: [(&str, Figure, usize); 6] = [
        ("p50", Times::taken_us, 50),
        ("p99", Times::taken_us, 99),
        ("max", Times::taken_us, 100),
        ("p50_due", Times::due_us, 50),
        ("p99_due", Times::due_us, 99),
        ("max_due", Times::due_us, 100),
    ];
    for (name, figure, percent) in figures {
        let us = figure(times, percent);
        add(&format!("{name}_us"), json!(us.map(|us| round(us, 1))));
        if let Some(quiet) = quiet.filter(|_| percent < 100) {
            let ratio = us.zip(figure(quiet, percent)).map(|(us, quiet)| us / quiet);
            let ratio = ratio.map(|ratio| round(ratio, 2));
            add(&format!("{name}_to_quiet"), json!(ratio));
        }
    }
}

impl Seen {
    /// The most memory without a file behind it that a look met.
    pub(super) fn peak_anon_mb(&self) -> Option<f64> {
        let looks = self.looks.iter().filter_map(|look| look.anon_mb);
        looks.max_by(f64::total_cmp)
    }
}

/// The most segments of all, and how many there were in the mean while rows were written.
fn segments(looks: &[Look], written: Duration) -> (usize, f64) {
    let most = looks.iter().map(|look| look.segments).max().unwrap_or(0);
    let during = looks.iter().filter(|look| look.at <= written);
    let (count, sum) = during.fold((0.0, 0.0), |(count, sum), look| {
        (count + 1.0, sum + look.segments as f64)
    });
    (most, if count > 0.0 { sum / count } else { 0.0 })
}

/// Seconds and segments: the last look of each of equally many.
fn thinned(looks: &[Look]) -> Vec<(f64, usize)> {
    let size = looks.len().div_ceil(SAMPLES).max(1);
    let last = looks.chunks(size).filter_map(<[Look]>::last);
    last.map(|look| (round(look.at.as_secs_f64(), 1), look.segments))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(segments: &[usize]) -> Vec<Look> {
        let look = |(at, segments): (u64, &usize)| Look {
            at: Duration::from_secs(at),
            segments: *segments,
            without_graph: 0,
            unflushed: 0,
            anon_mb: None,
        };
        (0..).zip(segments).map(look).collect()
    }

    #[test]
    fn segments_are_counted_while_rows_come_and_at_most_over_all() {
        let looks = looks(&[0, 2, 4, 9, 1]);
        assert_eq!(segments(&looks, Duration::from_secs(2)), (9, 2.0));
        assert_eq!(segments(&[], Duration::ZERO), (0, 0.0));
    }

    #[test]
    fn a_line_has_few_samples_and_always_the_last() {
        for count in [1, SAMPLES - 1, SAMPLES, SAMPLES + 1, 1000] {
            let looks = looks(&(0..count).collect::<Vec<_>>());
            let thin = thinned(&looks);
            assert!((1..=SAMPLES).contains(&thin.len()), "{count}");
            let last = thin.last().copied();
            assert_eq!(last, Some(((count - 1) as f64, count - 1)));
        }
    }
}
