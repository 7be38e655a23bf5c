//! One size of the search list, measured.
//!
//! Owns the clocks. Invariants: one query at a time in one thread, as a host's user
//! waits for it; rounds of several threads follow rounds of one, so that both see the
//! same machine; of several rounds the one with the least time counts, since
//! whatever else the machine does only ever adds; with several threads each asks all
//! queries, so that nothing is shared out unevenly.
//! Must not know: who prints it.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use esker::{Collection, Hit, MemoryStats, SearchOptions};

use super::judge::Judge;
use super::memory;
use super::search::Built;
use crate::args::Bench;
use crate::failure::Failure;
use crate::recall::percentile;

/// What was measured.
pub(super) struct Point {
    pub(super) l: u64,
    pub(super) recall: f64,
    /// Of the fastest round of one thread.
    pub(super) alone: Latencies,
    /// Of the fastest round of several threads, if more than one was asked for.
    pub(super) together: Option<Together>,
    pub(super) rss_mb: Option<f64>,
    /// Beyond what was there before the load.
    pub(super) anon_mb: Option<f64>,
    /// Share of the mapped blocks that were verified since the open.
    pub(super) verified: f64,
    /// What the database says that it holds.
    pub(super) held: MemoryStats,
}

/// How long the queries of a round took, shortest first.
pub(super) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(super) fn new(mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        Self(latencies)
    }

    pub(super) fn total(&self) -> Duration {
        self.0.iter().sum()
    }

    /// Queries a second of their own time.
    pub(super) fn qps(&self) -> f64 {
        self.0.len() as f64 / self.total().as_secs_f64()
    }

    /// The latency that `percent` of the queries are below, in microseconds.
    pub(super) fn percentile_us(&self, percent: usize) -> f64 {
        let latency = percentile(&self.0, percent).unwrap_or_default();
        latency.as_secs_f64() * 1e6
    }
}

/// A round of several threads.
pub(super) struct Together {
    pub(super) threads: usize,
    /// From when the first thread began until the last was done.
    elapsed: Duration,
    pub(super) latencies: Latencies,
}

impl Together {
    /// Queries a second of all threads.
    pub(super) fn qps(&self) -> f64 {
        self.latencies.0.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Queries a second of one of them.
    pub(super) fn qps_per_thread(&self) -> f64 {
        self.qps() / self.threads as f64
    }
}

impl Point {
    /// How much faster the threads are together than one alone.
    pub(super) fn scaling(&self) -> Option<f64> {
        let together = self.together.as_ref()?;
        Some(together.qps() / self.alone.qps())
    }
}

/// Asks all queries with a list of `l` rows.
pub(super) fn measure(
    args: &Bench,
    built: &Built,
    judge: &mut Judge<'_>,
    l: u64,
) -> Result<Point, Failure> {
    let options = nearest(args.ask.k, l);
    let queries: Vec<&[f32]> = judge.queries().collect();
    let mut best: Option<Latencies> = None;
    let mut together: Option<Together> = None;
    let mut answers = Vec::new();
    for _ in 0..args.repeat {
        let round = alone(
            &built.collection,
            &queries,
            &options,
            built.rows,
            &mut answers,
        )?;
        keep_best(&mut best, round);
        if args.threads > 1 {
            let round = at_once(&built.collection, &queries, &options, size(args.threads))?;
            if together
                .as_ref()
                .is_none_or(|best| round.elapsed < best.elapsed)
            {
                together = Some(round);
            }
        }
    }
    let (rss_mb, anon) = (memory::rss_mb(), memory::anon_mb());
    let beyond = anon.zip(built.anon_before);
    let stats = built.db.stats();
    Ok(Point {
        l,
        recall: judge.recall(&answers)?,
        alone: best.ok_or_else(|| Failure::failed("no round was measured"))?,
        together,
        rss_mb,
        anon_mb: beyond.map(|(now, before)| now - before),
        verified: stats.blocks_verified as f64 / stats.blocks.max(1) as f64,
        held: stats.memory,
    })
}

/// Asks for the nearest `k` with a list of `l` rows.
pub(super) fn nearest(k: u64, l: u64) -> SearchOptions {
    SearchOptions::new(size(k)).l_search(size(l))
}

fn size(rows: u64) -> usize {
    usize::try_from(rows).unwrap_or(usize::MAX)
}

/// Keeps the fastest of all rounds.
pub(super) fn keep_best(best: &mut Option<Latencies>, round: Latencies) {
    if best
        .as_ref()
        .is_none_or(|best| round.total() < best.total())
    {
        *best = Some(round);
    }
}

/// One round of one thread; the rows of the answers replace those in `answers`.
pub(super) fn alone(
    collection: &Collection,
    queries: &[&[f32]],
    options: &SearchOptions,
    rows: u64,
    answers: &mut Vec<Vec<u64>>,
) -> Result<Latencies, Failure> {
    let mut taken = Vec::with_capacity(queries.len());
    answers.clear();
    for query in queries {
        let started = Instant::now();
        let result = collection.search(query, options)?;
        taken.push(started.elapsed());
        answers.push(rows_of(&result.hits, rows)?);
    }
    Ok(Latencies::new(taken))
}

/// What one of several threads did.
struct Share {
    started: Instant,
    ended: Instant,
    taken: Vec<Duration>,
}

/// One round of several threads.
fn at_once(
    collection: &Collection,
    queries: &[&[f32]],
    options: &SearchOptions,
    threads: usize,
) -> Result<Together, Failure> {
    let start = Barrier::new(threads);
    let worker = |thread: usize| {
        let mut taken = Vec::with_capacity(queries.len());
        // Each begins elsewhere, so that none finds in the cache what another asked for.
        let (before, after) = queries.split_at(thread * queries.len() / threads);
        start.wait();
        let began = Instant::now();
        for query in after.iter().chain(before) {
            let started = Instant::now();
            collection.search(query, options)?;
            taken.push(started.elapsed());
        }
        Ok::<_, Failure>(Share {
            started: began,
            ended: Instant::now(),
            taken,
        })
    };
    let worker = &worker;
    let shares: Vec<_> = std::thread::scope(|scope| {
        let spawn = |thread| scope.spawn(move || worker(thread));
        let workers: Vec<_> = (0..threads).map(spawn).collect();
        workers.into_iter().map(|worker| worker.join()).collect()
    });
    let panicked = |_| Failure::failed("a searching thread panicked");
    let shares = shares.into_iter().map(|share| share.map_err(panicked)?);
    let shares = shares.collect::<Result<Vec<Share>, _>>()?;
    // Threads tell when they began and ended: this one may have had to wait for a processor.
    let started = shares.iter().map(|share| share.started).min();
    let ended = shares.iter().map(|share| share.ended).max();
    let elapsed = ended.zip(started).map(|(ended, started)| ended - started);
    Ok(Together {
        threads,
        elapsed: elapsed.unwrap_or_default(),
        latencies: Latencies::new(shares.into_iter().flat_map(|share| share.taken).collect()),
    })
}

/// The rows that hits name, which must be among those written.
fn rows_of(hits: &[Hit], rows: u64) -> Result<Vec<u64>, Failure> {
    let row = |hit: &Hit| {
        let number = <[u8; 8]>::try_from(hit.key.as_bytes()).map(u64::from_be_bytes);
        number.ok().filter(|row| *row < rows)
    };
    let named: Option<Vec<u64>> = hits.iter().map(row).collect();
    named.ok_or_else(|| Failure::failed("a search answered with a row that was never written"))
}
