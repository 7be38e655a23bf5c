//! When searches are due, and how long their answers take from then on.
//!
//! Owns the pace, and the times of one phase of a run. Invariants: searches are due at one
//! pace whatever becomes of those before; one that is due while another runs for less than
//! a pace more is late, and asked when that one ends; those that would be later still are
//! missed, never asked, and count as answered when that one ended, which is the least that
//! they would have waited. Must not know: what is searched.

use std::time::Duration;

use super::point::Latencies;

/// When the next search is due.
pub(super) struct Pace {
    /// Time from one search to the next; `None`: no pause.
    every: Option<Duration>,
    due: Duration,
    is_late: bool,
}

/// One search, in nanoseconds after the clock began, and those that it put off for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    due: u64,
    began: u64,
    /// How long it took.
    taken: u64,
    missed: u32,
    /// It had to wait for the one before.
    is_late: bool,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Pace {
    pub(super) fn new(every: Option<Duration>) -> Self {
        Self {
            every: every.filter(|every| !every.is_zero()),
            due: Duration::ZERO,
            is_late: false,
        }
    }

    pub(super) fn due(&self) -> Duration {
        self.due
    }

    /// The search that was due has been asked and answered.
    pub(super) fn asked(&mut self, began: Duration, ended: Duration) -> Asked {
        let due = self.every.map_or(began, |_| self.due.min(began));
        let mut asked = Asked {
            due: nanos(due),
            began: nanos(began),
            taken: nanos(ended.saturating_sub(began)),
            missed: 0,
            is_late: self.is_late,
        };
        if let Some(every) = self.every {
            self.due += every;
            let over = ended.saturating_sub(self.due).as_nanos() / every.as_nanos();
            asked.missed = u32::try_from(over).unwrap_or(u32::MAX);
            self.due += every.saturating_mul(asked.missed);
            self.is_late = self.due < ended;
        }
        asked
    }
}

impl Asked {
    pub(super) fn began(&self) -> Duration {
        Duration::from_nanos(self.began)
    }

    /// From when it was due to its answer.
    fn response(&self) -> u64 {
        self.began
            .saturating_add(self.taken)
            .saturating_sub(self.due)
    }
}

/// The searches of one phase.
pub(super) struct Times {
    every: u64,
    asked: Vec<Asked>,
    taken: Latencies,
}

impl Times {
    pub(super) fn new(every: Option<Duration>, asked: Vec<Asked>) -> Self {
        let taken = asked.iter().map(|asked| Duration::from_nanos(asked.taken));
        Self {
            every: every.map_or(0, nanos).max(1),
            taken: Latencies::new(taken.collect()),
            asked,
        }
    }

    /// Searches that were asked.
    pub(super) fn len(&self) -> usize {
        self.asked.len()
    }

    /// Searches that were never asked.
    pub(super) fn missed(&self) -> u64 {
        self.asked.iter().map(|asked| u64::from(asked.missed)).sum()
    }

    /// Searches that were asked later than they were due, because another ran.
    pub(super) fn late(&self) -> usize {
        self.asked.iter().filter(|asked| asked.is_late).count()
    }

    /// The time of the search alone that `percent` are below, in microseconds; the longest
    /// for 100.
    pub(super) fn taken_us(&self, percent: usize) -> Option<f64> {
        (self.len() > 0).then(|| self.taken.percentile_us(percent))
    }

    /// The same of the time from when a search was due, of those too that were missed.
    pub(super) fn due_us(&self, percent: usize) -> Option<f64> {
        let all = self.len() as u64 + self.missed();
        let rank = (all * percent as u64 / 100).min(all.checked_sub(1)?);
        // Those that were missed may be too many to be listed.
        let longest = self.asked.iter().map(Asked::response).max()?;
        let (mut low, mut high) = (0, longest);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.within(middle) > rank {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        Some(low as f64 / 1e3)
    }

    /// Searches, missed ones too, that were answered so soon after they were due.
    fn within(&self, response: u64) -> u64 {
        let of_one = |asked: &Asked| {
            // Each that it put off was due a pace later than the one before.
            let over = asked.response().saturating_sub(response);
            let all = u64::from(asked.missed) + 1;
            all - over.div_ceil(self.every).min(all)
        };
        self.asked.iter().map(of_one).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// One search after another at a pace of 10 ms, each begun as soon as it may be.
    fn run(taken: &[u64]) -> Vec<Asked> {
        let mut pace = Pace::new(Some(ms(10)));
        let mut now = Duration::ZERO;
        let one = |taken: &u64| {
            let began = pace.due().max(now);
            now = began + ms(*taken);
            pace.asked(began, now)
        };
        taken.iter().map(one).collect()
    }

    /// Every response there is, from the definition.
    fn responses(asked: &[Asked]) -> Vec<u64> {
        let of_one = |asked: &Asked| {
            let ended = asked.began + asked.taken;
            let dues = (0..=u64::from(asked.missed)).map(|n| asked.due + n * 10_000_000);
            dues.map(|due| ended - due).collect::<Vec<_>>()
        };
        let mut all: Vec<u64> = asked.iter().flat_map(of_one).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn what_a_long_search_puts_off_has_waited() {
        // Due at 0, 10, 20, ...: the second ends at 55, when 20 and 30 are missed, 40 is
        // late by 15 and more than a pace, so missed, and 50 is late.
        let asked = run(&[1, 45, 1, 1]);
        let dues: Vec<u64> = asked.iter().map(|asked| asked.due / 1_000_000).collect();
        assert_eq!(dues, [0, 10, 50, 60]);
        let missed: Vec<u32> = asked.iter().map(|asked| asked.missed).collect();
        assert_eq!(missed, [0, 3, 0, 0]);
        let late: Vec<bool> = asked.iter().map(|asked| asked.is_late).collect();
        assert_eq!(late, [false, false, true, false]);
        let times = Times::new(Some(ms(10)), asked);
        assert_eq!((times.len(), times.missed(), times.late()), (4, 3, 1));
        // 1, 1, 6, 15, 25, 35 and 45 ms, where the searches alone took 1, 1, 1 and 45.
        assert_eq!(times.taken_us(50), Some(1_000.0));
        assert_eq!(times.due_us(50), Some(15_000.0));
        assert_eq!(times.due_us(100), Some(45_000.0));
        assert_eq!(times.due_us(1), Some(1_000.0));
    }

    #[test]
    fn one_that_ends_when_the_next_is_due_puts_nothing_off() {
        let times = Times::new(Some(ms(10)), run(&[10, 10, 20, 3]));
        assert_eq!((times.missed(), times.late()), (1, 0));
        assert_eq!(times.due_us(100), Some(20_000.0));
    }

    #[test]
    fn percentiles_are_those_of_all_responses() {
        let mut state = 7u64;
        for round in 1..60 {
            let mut draw = || {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                match (state >> 33) % 11 {
                    0 => (state >> 40) % 400,
                    _ => (state >> 40) % 12,
                }
            };
            let asked = run(&(0..round).map(|_| draw()).collect::<Vec<_>>());
            let all = responses(&asked);
            let times = Times::new(Some(ms(10)), asked);
            assert_eq!(all.len() as u64, times.len() as u64 + times.missed());
            for percent in [0, 1, 50, 90, 99, 100] {
                let want = crate::recall::percentile(&all, percent).unwrap() as f64 / 1e3;
                assert_eq!(times.due_us(percent), Some(want), "{percent} of {all:?}");
                assert!(times.taken_us(percent) <= times.due_us(100));
            }
        }
    }

    #[test]
    fn without_a_pause_nothing_is_due_before_it_begins() {
        let mut pace = Pace::new(None);
        let asked = [pace.asked(ms(5), ms(25)), pace.asked(ms(26), ms(27))];
        let times = Times::new(None, asked.to_vec());
        assert_eq!((times.missed(), times.late()), (0, 0));
        assert_eq!(times.due_us(100), times.taken_us(100));
        let none = Times::new(None, Vec::new());
        assert_eq!((none.due_us(99), none.taken_us(50)), (None, None));
    }

    /// A clock that wakes it late makes the answer later, not the search longer.
    #[test]
    fn waking_late_counts_from_when_it_was_due() {
        let mut pace = Pace::new(Some(ms(10)));
        let times = Times::new(Some(ms(10)), vec![pace.asked(ms(4), ms(6))]);
        assert_eq!(times.due_us(100), Some(6_000.0));
        assert_eq!(times.taken_us(100), Some(2_000.0));
        assert_eq!((times.missed(), times.late()), (0, 0));
    }
}
