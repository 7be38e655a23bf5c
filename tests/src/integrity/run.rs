//! Workers that judge cases, all of them or a share.
//!
//! Owns the order of cases: series after series, those of few cases first, so what was
//! done of a whole run is a range of numbers; of a sampled run, places spread evenly
//! over every series. Invariant: which cases a run has depends on its seed alone, but
//! for where a limit of time ends it. Must not know: what a case is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::damage::{Case, Op, Series, all};
use super::judge::{Judge, Verdict};
use super::specimen::Specimen;
use super::tally::Tally;
use crate::rng::mix;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub threads: usize,
    /// Numbers of the first case of a whole run, and of that after the last.
    pub from: u64,
    pub to: u64,
    /// Cases of each series, instead of all.
    pub sample: Option<u64>,
    /// Samples are drawn again and again for so long.
    pub seconds: Option<Duration>,
    /// Failures after which there is no point in going on.
    pub enough: u64,
}

/// Specimens and what is done to them.
pub struct Campaign {
    specimens: Vec<Specimen>,
    series: Vec<Series>,
    seed: u64,
}

/// Cases that a worker takes at a time.
const CHUNK: u64 = 256;
/// Cases of each series in a round of a run that is limited by time.
const ROUND: u64 = 32;

/// What workers share.
struct Shared {
    start: Instant,
    next: AtomicU64,
    stop: AtomicBool,
    tally: Mutex<Tally>,
    /// For each worker, its series and number in it.
    at: Vec<[AtomicU64; 2]>,
}

impl Campaign {
    /// Everything that can be done to these specimens.
    #[must_use]
    pub fn new(seed: u64, specimens: Vec<Specimen>) -> Self {
        let each = specimens.iter().enumerate();
        let mut series: Vec<_> = each.flat_map(|(n, specimen)| all(n, specimen)).collect();
        series.sort_by_key(|series| is_many(series.op));
        Self {
            specimens,
            series,
            seed,
        }
    }

    /// Leaves out every series whose name lacks the word: of specimen, file, or damage.
    #[must_use]
    pub fn only(mut self, word: &str) -> Self {
        let specimens = &self.specimens;
        self.series.retain(|series| {
            let name = series.case(0).name(&specimens[series.specimen]);
            let file = &specimens[series.specimen].files[series.file];
            name.contains(word) || file.kind.name().contains(word) || series.op.group() == word
        });
        self
    }

    /// The number of all cases.
    #[must_use]
    pub fn cases(&self) -> u64 {
        self.series.iter().map(Series::len).sum()
    }

    #[must_use]
    pub fn specimens(&self) -> &[Specimen] {
        &self.specimens
    }

    /// Judges one case by its name, and says what became of it.
    ///
    /// # Errors
    /// The violation, or that there is no such case.
    pub fn one(&self, name: &str) -> Result<String, String> {
        let case = Case::named(name, &self.series, &self.specimens);
        let case = case.ok_or_else(|| format!("there is no case {name:?}"))?;
        let specimen = &self.specimens[case.series.specimen];
        let Some(tampered) = case.tampered(specimen, self.seed) else {
            return Ok("nothing is changed".to_owned());
        };
        match Judge::new(specimen).judge(&tampered, case.mode, true) {
            Verdict::Wrong(what) => Err(what),
            Verdict::Panicked(what) => Err(format!("panic: {what}")),
            verdict => Ok(format!("{verdict:?}")),
        }
    }

    /// Judges as many cases as the effort says, with a word on the way now and then.
    pub fn run(&self, effort: &Effort, progress: &dyn Fn(u64, &Tally)) -> Tally {
        let chunks = self.chunks(effort);
        let shared = Shared {
            start: Instant::now(),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            tally: Mutex::default(),
            at: (0..effort.threads).map(|_| Default::default()).collect(),
        };
        let tally = || shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
        std::thread::scope(|scope| {
            let (shared, chunks) = (&shared, &chunks);
            let workers: Vec<_> = (0..effort.threads)
                .map(|n| scope.spawn(move || self.work(n, effort, shared, chunks)))
                .collect();
            let (mut reported, mut before) = (Instant::now(), 0);
            while workers.iter().any(|worker| !worker.is_finished()) {
                std::thread::sleep(Duration::from_millis(20));
                if reported.elapsed() >= Duration::from_secs(10) {
                    reported = Instant::now();
                    let seen = tally().clone();
                    let taken = shared.next.load(Ordering::Relaxed) as usize;
                    let first = taken.saturating_sub(effort.threads);
                    let next = chunks.get(first).map_or(self.cases(), |chunk| chunk.number);
                    progress(next, &seen);
                    if seen.total().cases == before {
                        self.say_where(shared);
                    }
                    before = seen.total().cases;
                }
            }
        });
        let seen = tally().clone();
        progress(self.cases(), &seen);
        seen
    }

    /// Nothing was done for a while: at what?
    fn say_where(&self, shared: &Shared) {
        for at in &shared.at {
            let [series, n] = [0, 1].map(|i| at[i].load(Ordering::Relaxed));
            let series = &self.series[series as usize];
            let name = series.case(n).name(&self.specimens[series.specimen]);
            println!("  still at {name}");
        }
    }

    /// A whole run's work, or as much of it as is wanted.
    fn chunks(&self, effort: &Effort) -> Vec<Chunk> {
        let (mut chunks, mut number) = (Vec::new(), 0);
        for (series, it) in self.series.iter().enumerate() {
            for first in (0..it.len()).step_by(CHUNK as usize) {
                let last = it.len().min(first + CHUNK);
                if number + last - first > effort.from && number < effort.to {
                    chunks.push(Chunk {
                        series,
                        first,
                        last,
                        number,
                    });
                }
                number += last - first;
            }
        }
        chunks
    }

    fn work(&self, worker: usize, effort: &Effort, shared: &Shared, chunks: &[Chunk]) {
        let mut judges: Vec<_> = self.specimens.iter().map(Judge::new).collect();
        let late = || {
            effort
                .seconds
                .is_none_or(|time| shared.start.elapsed() > time)
        };
        while !shared.stop.load(Ordering::Relaxed) {
            let n = shared.next.fetch_add(1, Ordering::Relaxed);
            let sampled = effort.sample.is_some() || effort.seconds.is_some();
            let (series, cases) = if sampled {
                let round = n / self.series.len().max(1) as u64;
                if self.series.is_empty() || (round > 0 && late()) {
                    break;
                }
                let series = (n % self.series.len() as u64) as usize;
                (
                    series,
                    self.drawn(series, round, effort.sample.unwrap_or(ROUND)),
                )
            } else {
                let Some(chunk) = chunks.get(n as usize) else {
                    break;
                };
                (chunk.series, (chunk.first..chunk.last).collect())
            };
            let mut tally = Tally::default();
            for case in cases {
                if shared.stop.load(Ordering::Relaxed) {
                    break;
                }
                shared.at[worker][0].store(series as u64, Ordering::Relaxed);
                shared.at[worker][1].store(case, Ordering::Relaxed);
                self.judge(series, case, &mut judges, &mut tally);
            }
            let mut all = shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
            all.add(tally);
            let total = all.total();
            if total.wrong + total.panics >= effort.enough {
                shared.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Cases of a series, spread evenly; a short series is done once, and whole.
    fn drawn(&self, series: usize, round: u64, sample: u64) -> Vec<u64> {
        let len = self.series[series].len();
        if len <= sample {
            return if round == 0 {
                (0..len).collect()
            } else {
                Vec::new()
            };
        }
        let part = mix(self.seed ^ mix(round) ^ mix(series as u64 + 1));
        let each = (0..sample).map(|i| {
            let (first, last) = (i * len / sample, (i + 1) * len / sample);
            first + mix(part ^ i) % (last - first)
        });
        each.collect()
    }

    fn judge(&self, series: usize, n: u64, judges: &mut [Judge<'_>], tally: &mut Tally) {
        let series = &self.series[series];
        let (case, specimen) = (series.case(n), &self.specimens[series.specimen]);
        let Some(tampered) = case.tampered(specimen, self.seed) else {
            tally.unchanged += 1;
            return;
        };
        let share = match is_many(series.op) {
            true => specimen.thorough,
            false => specimen.thorough / 16,
        };
        let thorough = mix(self.seed ^ n).is_multiple_of(share);
        let verdict = judges[series.specimen].judge(&tampered, case.mode, thorough);
        let (kind, damage) = (specimen.files[series.file].kind, series.op.group());
        tally.count(kind, damage, &verdict);
        match verdict {
            Verdict::Wrong(_) | Verdict::Panicked(_) => tally.fail(case.name(specimen), &verdict),
            Verdict::Harmless { verified: false } => {
                let file = &specimen.files[series.file].name;
                tally.unnoticed(format!("{}/{file}", specimen.name), damage, case.place);
            }
            _ => {}
        }
    }
}

/// Cases of a whole run that follow each other.
struct Chunk {
    series: usize,
    first: u64,
    last: u64,
    /// Number of the first in the whole run.
    number: u64,
}

/// Whether a file has more cases of it than it has sectors.
fn is_many(op: Op) -> bool {
    matches!(op, Op::Flip | Op::Cut)
}

/// Judges drawn cases until one fails or the time is over.
///
/// # Errors
/// The first failure.
pub fn hunt(seed: u64, deadline: Instant) -> Result<(), String> {
    let campaign = Campaign::new(seed, vec![Specimen::main(seed), Specimen::few_tombs(seed)]);
    let effort = Effort {
        threads: 1,
        from: 0,
        to: u64::MAX,
        sample: None,
        seconds: Some(deadline.saturating_duration_since(Instant::now())),
        enough: 1,
    };
    let tally = campaign.run(&effort, &|_, _| {});
    match tally.failures.first() {
        Some((case, what)) => Err(format!("{case}: {what}")),
        None => Ok(()),
    }
}
