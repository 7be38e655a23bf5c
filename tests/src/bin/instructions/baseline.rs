//! The stored counts, and what a difference to them means.
//!
//! Owns the file's form and the verdicts. Invariant: counts of another compiler,
//! processor or library say nothing about the code, so they are shown and never
//! fail. Must not know: where counts come from.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Change in per cent, up or down, that says nothing.
const TOLERATED: u128 = 3;
const MACHINE: &str = "# machine: ";

/// Counts by workload, and what they were counted on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Baseline {
    pub(crate) machine: String,
    pub(crate) counts: BTreeMap<String, u64>,
}

/// How a workload fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Same,
    /// So much less that the baseline no longer guards it.
    Better,
    Worse,
    /// Not in the baseline.
    New,
    /// In the baseline alone.
    Gone,
}

impl Verdict {
    fn of(before: Option<u64>, now: Option<u64>) -> Self {
        match (before, now) {
            (None, _) => Self::New,
            (_, None) => Self::Gone,
            (Some(before), Some(now)) => {
                let (before, now) = (u128::from(before), u128::from(now) * 100);
                match () {
                    () if now > before * (100 + TOLERATED) => Self::Worse,
                    () if now < before * (100 - TOLERATED) => Self::Better,
                    () => Self::Same,
                }
            }
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Same => "",
            Self::Better => "better; store it with --bless",
            Self::Worse => "WORSE",
            Self::New => "not in the baseline; store it with --bless",
            Self::Gone => "no longer measured; --bless removes it",
        }
    }
}

impl Baseline {
    /// Reads a file that [`Baseline::text`] made.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut read = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(machine) = line.strip_prefix(MACHINE) {
                read.machine = machine.to_owned();
            } else if !line.starts_with('#') && !line.is_empty() {
                let parsed = line.split_once('\t').and_then(|(name, count)| {
                    let count = count.parse().ok().filter(|count| *count > 0)?;
                    Some((name.to_owned(), count))
                });
                let (name, count) = parsed.ok_or(format!(
                    "line {number}: {line:?} is not a name, a tab and a number above 0"
                ))?;
                if read.counts.insert(name, count).is_some() {
                    return Err(format!("line {number}: the name is there twice"));
                }
            }
        }
        Ok(read)
    }

    /// The file.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "# Instructions of each workload, as `instructions --bless` counted them.\n{MACHINE}{}\n",
            self.machine
        );
        for (name, count) in &self.counts {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name}\t{count}");
        }
        text
    }

    /// Compares: a table, and whether it is a failure.
    pub(crate) fn compare(&self, now: &Self) -> (String, bool) {
        let mut text = format!(
            "{:<28} {:>13} {:>13} {:>8}\n",
            "workload", "baseline", "now", "change"
        );
        let mut failed = false;
        let mut names: Vec<&String> = self.counts.keys().chain(now.counts.keys()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let (before, now) = (self.counts.get(name), now.counts.get(name));
            let verdict = Verdict::of(before.copied(), now.copied());
            failed |= !matches!(verdict, Verdict::Same | Verdict::Better);
            let number = |count: Option<&u64>| count.map_or("-".to_owned(), u64::to_string);
            let change = before.zip(now).map_or("-".to_owned(), |(before, now)| {
                format!("{:+.2} %", (*now as f64 / *before as f64 - 1.0) * 100.0)
            });
            let line = format!(
                "{name:<28} {:>13} {:>13} {change:>8}  {}",
                number(before),
                number(now),
                verdict.text()
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        if self.machine != now.machine {
            let _ = writeln!(
                text,
                "\nThe baseline is of another machine, so nothing above is a failure:\n  \
                 baseline {}\n  now      {}",
                self.machine, now.machine
            );
            failed = false;
        }
        (text, failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(machine: &str, of: &[(&str, u64)]) -> Baseline {
        Baseline {
            machine: machine.to_owned(),
            counts: of
                .iter()
                .map(|(name, n)| ((*name).to_owned(), *n))
                .collect(),
        }
    }

    #[test]
    fn a_planted_regression_of_more_than_three_per_cent_fails() {
        let before = counts("m", &[("build", 1_000_000), ("walk", 500)]);
        for (now, failed) in [
            (1_030_000, false),
            (1_030_001, true),
            (2_000_000, true),
            (1, false),
        ] {
            let now = counts("m", &[("build", now), ("walk", 500)]);
            let (text, is) = before.compare(&now);
            assert_eq!(is, failed, "{text}");
            assert_eq!(text.contains("WORSE"), failed, "{text}");
        }
        // One that got better does not make up for one that got worse.
        let now = counts("m", &[("build", 10), ("walk", 600)]);
        let (text, failed) = before.compare(&now);
        assert!(failed && text.contains("+20.00 %"), "{text}");
    }

    #[test]
    fn a_workload_that_is_not_guarded_fails_too() {
        let [one, two] = [&[("a", 1)][..], &[("a", 1), ("b", 2)][..]].map(|of| counts("m", of));
        for (before, now) in [(&one, &two), (&two, &one), (&Baseline::default(), &one)] {
            let before = Baseline {
                machine: "m".to_owned(),
                ..before.clone()
            };
            assert!(before.compare(now).1);
        }
        assert!(!two.compare(&two).1);
    }

    #[test]
    fn on_another_machine_nothing_fails_and_that_is_said() {
        let before = counts("rustc 1", &[("a", 100)]);
        let (text, failed) = before.compare(&counts("rustc 2", &[("a", 900)]));
        assert!(!failed);
        assert!(
            text.contains("WORSE") && text.contains("another machine"),
            "{text}"
        );
        assert!(
            text.contains("rustc 1") && text.contains("rustc 2"),
            "{text}"
        );
    }

    #[test]
    fn the_file_is_read_as_it_was_written_and_nothing_else_is() {
        let baseline = counts("x86_64, rustc 1.95.0 (a b)", &[("a-1", 7), ("b", u64::MAX)]);
        assert_eq!(Baseline::parse(&baseline.text()), Ok(baseline));
        for bad in ["a", "a 1", "a\t", "a\t0", "a\t-1", "a\t1\t2", "a\t1\na\t2"] {
            let error = Baseline::parse(&format!("# head\n{bad}\n")).unwrap_err();
            assert!(error.starts_with("line "), "{error}");
        }
    }
}
