//! Searches beside a load: how long they take while rows come, while what came is
//! merged, and when all is quiet.
//!
//! Owns the thread that searches, the thread that looks at the database meanwhile, and
//! what both found, by phase. Invariants: the same queries at the same pace in every
//! phase; a search belongs to the phase in which it began; a search that takes longer
//! than the pace allows puts off those after it, and those that it puts off are counted
//! as missed, never made up for. Must not know: what is loaded, and how.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use esker::{Collection, Db, SearchOptions};
use serde_json::{Value, json};

use super::judge::read_queries;
use super::load::Load;
use super::point::{Latencies, nearest};
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
    pace: Option<Duration>,
}

/// What the threads see of the load, and of each other.
pub(super) struct Beside<'a> {
    db: &'a Db,
    collection: &'a Collection,
    began: Instant,
    is_over: AtomicBool,
    missed: AtomicU64,
    /// Where the processor time of the thread that searches is told.
    searcher: OnceLock<Option<PathBuf>>,
}

/// What was seen from the first write until the database had settled.
pub(super) struct Seen {
    began: Instant,
    /// When each search began, after the first write, and how long it took.
    searches: Vec<(Duration, Duration)>,
    missed: u64,
    looks: Vec<Look>,
}

/// The database at one moment.
struct Look {
    at: Duration,
    segments: usize,
    /// Rows of segments that a search has to scan.
    without_graph: u64,
    anon_mb: Option<f64>,
}

/// Ends the other threads, also when the load panics.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<'a> Beside<'a> {
    fn new(db: &'a Db, collection: &'a Collection) -> Self {
        Self {
            db,
            collection,
            began: Instant::now(),
            is_over: AtomicBool::new(false),
            missed: AtomicU64::new(0),
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
        let pace = (args.search_rate > 0).then(|| 1.0 / args.search_rate as f64);
        Ok(Self {
            queries: read_queries(load, &args.load.data, args.queries)?,
            dimension: load.dimension as usize,
            options: nearest(args.k, args.l),
            pace: pace.map(Duration::from_secs_f64),
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
            let end = End(&beside.is_over);
            let done = work(&beside);
            drop(end);
            (done, searcher.join(), looker.join())
        });
        let panicked = |_| Failure::failed("a searching thread panicked");
        let seen = Seen {
            began: beside.began,
            searches: searches.map_err(panicked)??,
            missed: beside.missed.load(Ordering::Relaxed),
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
    ) -> Result<Latencies, Failure> {
        let beside = Beside::new(db, collection);
        let all = self.queries.len() / self.dimension;
        let searches = self.search(&beside, seen.searches.len().min(all) as u64)?;
        Ok(latencies(searches.iter()))
    }

    /// Searches at the pace, so many times or until it is over.
    fn search(&self, beside: &Beside<'_>, most: u64) -> Result<Vec<(Duration, Duration)>, Failure> {
        let mut searches = Vec::new();
        let mut due = Duration::ZERO;
        for query in self.queries.chunks_exact(self.dimension).cycle() {
            if searches.len() as u64 == most || beside.is_over() {
                break;
            }
            std::thread::sleep(due.saturating_sub(beside.began.elapsed()));
            let began = beside.began.elapsed();
            beside.collection.search(query, &self.options)?;
            let ended = beside.began.elapsed();
            searches.push((began, ended - began));
            if let Some(pace) = self.pace {
                due += pace;
                let late = ended.saturating_sub(due).as_nanos() / pace.as_nanos().max(1);
                let late = u32::try_from(late).unwrap_or(u32::MAX);
                due += pace.saturating_mul(late);
                beside.missed.fetch_add(u64::from(late), Ordering::Relaxed);
            }
        }
        Ok(searches)
    }

    /// What was seen, beside what the quiet database shows.
    pub(super) fn fields(&self, seen: &Seen, quiet: &Latencies, written: Instant) -> Value {
        let written = written - seen.began;
        let (during, settling): (Vec<_>, Vec<_>) =
            seen.searches.iter().partition(|(at, _)| *at < written);
        let [during, settling] = [during, settling].map(|searches| latencies(searches.into_iter()));
        let us = |of: &Latencies, percent| (of.len() > 0).then(|| of.percentile_us(percent));
        let to_quiet =
            |of: &Latencies, percent| Some(round(us(of, percent)? / us(quiet, percent)?, 2));
        let us = |of: &Latencies, percent| us(of, percent).map(|us| round(us, 1));
        let (most, mean) = segments(&seen.looks, written);
        json!({
            "p50_us": us(&during, 50),
            "p99_us": us(&during, 99),
            "searches": during.len(),
            "settling_p50_us": us(&settling, 50),
            "settling_p99_us": us(&settling, 99),
            "settling_searches": settling.len(),
            "quiet_p50_us": us(quiet, 50),
            "quiet_p99_us": us(quiet, 99),
            "quiet_searches": quiet.len(),
            "p50_to_quiet": to_quiet(&during, 50),
            "p99_to_quiet": to_quiet(&during, 99),
            "settling_p50_to_quiet": to_quiet(&settling, 50),
            "settling_p99_to_quiet": to_quiet(&settling, 99),
            "missed_searches": seen.missed,
            "segments_most": most,
            "segments_mean": round(mean, 2),
            "rows_without_graph_most": seen.looks.iter().map(|look| look.without_graph).max(),
            "segments_over_time": thinned(&seen.looks),
            "peak_anon_mb": seen.peak_anon_mb().map(|mb| round(mb, 1)),
        })
    }
}

impl Seen {
    /// The most memory without a file behind it that a look met.
    pub(super) fn peak_anon_mb(&self) -> Option<f64> {
        let looks = self.looks.iter().filter_map(|look| look.anon_mb);
        looks.max_by(f64::total_cmp)
    }
}

fn latencies<'a>(searches: impl Iterator<Item = &'a (Duration, Duration)>) -> Latencies {
    Latencies::new(searches.map(|(_, taken)| *taken).collect())
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
