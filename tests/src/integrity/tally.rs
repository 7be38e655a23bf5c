//! What a campaign has seen, counted.
//!
//! Owns the tables. Must not know: how cases are made or judged.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::judge::{Named, Verdict};
use super::specimen::Kind;

/// What became of some cases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub cases: u64,
    /// An error named the damage when the database was opened.
    pub at_open: u64,
    /// An error named the damage when the database was read.
    pub at_read: u64,
    /// Every answer was right.
    pub harmless: u64,
    /// Of those: a verification reported the damage.
    pub verified: u64,
    pub wrong: u64,
    pub panics: u64,
    /// Of those with an error: it named a file that was not damaged itself.
    pub elsewhere: u64,
}

impl Counts {
    /// Cases in which an error named the damage.
    #[must_use]
    pub fn detected(&self) -> u64 {
        self.at_open + self.at_read
    }

    fn add(&mut self, other: &Self) {
        self.cases += other.cases;
        self.at_open += other.at_open;
        self.at_read += other.at_read;
        self.harmless += other.harmless;
        self.verified += other.verified;
        self.wrong += other.wrong;
        self.panics += other.panics;
        self.elsewhere += other.elsewhere;
    }

    fn count(&mut self, verdict: &Verdict) {
        self.cases += 1;
        match verdict {
            Verdict::AtOpen(named) => {
                self.at_open += 1;
                self.elsewhere += u64::from(*named == Named::Another);
            }
            Verdict::AtRead(named) => {
                self.at_read += 1;
                self.elsewhere += u64::from(*named == Named::Another);
            }
            Verdict::Harmless { verified } => {
                self.harmless += 1;
                self.verified += u64::from(*verified);
            }
            Verdict::Wrong(_) => self.wrong += 1,
            Verdict::Panicked(_) => self.panics += 1,
        }
    }

    fn row(&self, name: &str) -> String {
        format!(
            "| {name} | {} | {} | {} | {} | {} | {} | {} |\n",
            self.cases,
            self.at_open,
            self.at_read,
            self.harmless,
            self.verified,
            self.wrong,
            self.panics
        )
    }
}

/// Failures that are kept whole.
const KEPT: usize = 25;

/// What a campaign has seen.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    counts: BTreeMap<(Kind, &'static str), Counts>,
    /// Damages that changed no byte, and so are no cases.
    pub unchanged: u64,
    /// Name and explanation of the first cases that failed.
    pub failures: Vec<(String, String)>,
    /// By file and kind of damage, the places where nothing noticed it.
    unnoticed: BTreeMap<(String, &'static str), Vec<u64>>,
}

impl Tally {
    pub(super) fn count(&mut self, kind: Kind, damage: &'static str, verdict: &Verdict) {
        self.counts
            .entry((kind, damage))
            .or_default()
            .count(verdict);
    }

    pub(super) fn fail(&mut self, case: String, verdict: &Verdict) {
        let what = match verdict {
            Verdict::Wrong(what) => format!("WRONG: {what}"),
            Verdict::Panicked(what) => format!("PANIC: {what}"),
            _ => return,
        };
        if self.failures.len() < KEPT {
            self.failures.push((case, what));
        }
    }

    /// Nobody noticed the damage to this place, and nothing came of it.
    pub(super) fn unnoticed(&mut self, file: String, damage: &'static str, place: u64) {
        self.unnoticed
            .entry((file, damage))
            .or_default()
            .push(place);
    }

    pub(super) fn add(&mut self, other: Self) {
        for (key, counts) in &other.counts {
            self.counts.entry(*key).or_default().add(counts);
        }
        self.unchanged += other.unchanged;
        let room = KEPT - self.failures.len();
        self.failures.extend(other.failures.into_iter().take(room));
        for (key, places) in other.unnoticed {
            self.unnoticed.entry(key).or_default().extend(places);
        }
    }

    /// Everything together.
    #[must_use]
    pub fn total(&self) -> Counts {
        self.sum(|_, _| true)
    }

    /// All damage to files of a kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> Counts {
        self.sum(|k, _| k == kind)
    }

    fn sum(&self, which: impl Fn(Kind, &str) -> bool) -> Counts {
        let mut sum = Counts::default();
        let those = self.counts.iter().filter(|((k, d), _)| which(*k, d));
        those.for_each(|(_, counts)| sum.add(counts));
        sum
    }

    /// A table by kinds of files, and one by kinds of damage.
    #[must_use]
    pub fn tables(&self) -> String {
        let head = "| cases | at open | at a read | harmless | of which verify reports | wrong | \
                    panics |\n|---|---|---|---|---|---|---|---|\n";
        let mut text = format!("| file {head}");
        for kind in Kind::ALL {
            text.push_str(&self.of(kind).row(kind.name()));
        }
        text.push_str(&self.total().row("all"));
        let mut damages: Vec<_> = self.counts.keys().map(|(_, damage)| *damage).collect();
        damages.sort_unstable();
        damages.dedup();
        let _ = write!(text, "\n| damage {head}");
        for damage in damages {
            text.push_str(&self.sum(|_, d| d == damage).row(damage));
        }
        text
    }

    /// Where nobody noticed damage: ranges of bits, lengths, sectors or numbers.
    #[must_use]
    pub fn places(&self) -> String {
        let mut text = String::new();
        for ((file, damage), places) in &self.unnoticed {
            let mut places = places.clone();
            places.sort_unstable();
            places.dedup();
            let mut ranges: Vec<(u64, u64)> = Vec::new();
            for place in places {
                match ranges.last_mut() {
                    Some((_, last)) if *last + 1 == place => *last = place,
                    _ => ranges.push((place, place)),
                }
            }
            let shown: Vec<_> = ranges
                .iter()
                .take(8)
                .map(|(a, b)| format!("{a}-{b}"))
                .collect();
            let more = ranges.len().saturating_sub(shown.len());
            let _ = writeln!(
                text,
                "{file}, {damage}: {} and {more} ranges more",
                shown.join(" ")
            );
        }
        text
    }
}
