//! A violation as a test that can be pasted into a file.
//!
//! Owns [`Repro`] and its replay. Invariant: replaying follows exactly the printed
//! path. Must not know: how it was found.

use std::fmt;

use esker::Db;

use super::explore::{Judge, live_on};
use super::text;
use crate::oracle::{Loss, Queries};
use crate::run::{Case, record};
use crate::sim::{Image, Still};

/// A case, and crashes in it and in the recoveries after it.
#[derive(Clone, Debug)]
pub struct Repro {
    pub case: Case,
    /// The effect after which the world stopped, and what was left; the first of
    /// the workload, the others of the recovery before.
    pub path: Vec<(u64, Image)>,
}

impl fmt::Display for Repro {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::print(&self.case))?;
        for (effect, image) in &self.path {
            match image {
                Image::Killed => writeln!(f, "crash {effect} killed")?,
                Image::Random(seed) => writeln!(f, "crash {effect} random {seed}")?,
                Image::Pieces { left, noise } => {
                    write!(f, "crash {effect} pieces {left}")?;
                    match noise {
                        Some(seed) => writeln!(f, " {seed}")?,
                        None => writeln!(f)?,
                    }
                }
            }
        }
        Ok(())
    }
}

impl Repro {
    /// A test that fails as long as the bug is there.
    #[must_use]
    pub fn as_test(&self, name: &str) -> String {
        let lines = self.to_string().replace('\n', "\n        ");
        format!(
            "#[test]\nfn {name}() {{\n    esker_tests::campaign::replay(\n        \"\n        \
             {}\",\n    );\n}}\n",
            lines.trim_end()
        )
    }

    fn parse(text: &str) -> Self {
        let mut repro = Self {
            case: Case {
                seed: 0,
                settings: Vec::new(),
                birth: Vec::new(),
                ops: Vec::new(),
            },
            path: Vec::new(),
        };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let read = match line.strip_prefix("crash ") {
                Some(crash) => parse_crash(crash).map(|crash| repro.path.push(crash)),
                None => text::parse(line, &mut repro.case),
            };
            read.unwrap_or_else(|| panic!("not a line of a case: {line:?}"));
        }
        repro
    }

    /// Follows the path; the error says what is wrong at its end.
    ///
    /// # Errors
    /// The violation, if it is still there.
    pub fn run(&self) -> Result<(), String> {
        let scenes = record(&self.case, 0)?;
        let Some(((effect, image), deeper)) = self.path.split_first() else {
            return Ok(());
        };
        // The last scene of an effect knows most: the operation has returned.
        let scene = scenes.iter().rfind(|scene| scene.still.effect == *effect);
        let scene = scene.ok_or_else(|| format!("the workload has no effect {effect}"))?;
        let mut still = scene.still.clone();
        let mut image = *image;
        let mut loss = loss(image, Loss::Process);
        for (effect, next) in deeper {
            let env = still.image(image);
            env.watch();
            drop(Db::open("/db", scene.settings.options(&env)));
            let stills = env.take_stills();
            let there = stills.into_iter().find(|still| still.effect == *effect);
            still = there.ok_or_else(|| format!("the recovery has no effect {effect}"))?;
            image = *next;
            loss = self::loss(image, loss);
        }
        let judge = Judge {
            oracle: &scene.oracle,
            settings: scene.settings,
        };
        check(&still, image, loss, &judge)
    }
}

fn loss(image: Image, before: Loss) -> Loss {
    match image {
        Image::Killed => before,
        Image::Pieces { .. } | Image::Random(_) => Loss::Power,
    }
}

/// Everything that an exploration may ask of what is left.
fn check(still: &Still, image: Image, loss: Loss, judge: &Judge<'_>) -> Result<(), String> {
    let env = still.image(image);
    let left = env.image_report();
    let db = Db::open("/db", judge.settings.options(&env))
        .map_err(|error| format!("the database does not open: {error}\n{left:?}"))?;
    let queries = Queries::new(0);
    let found = judge.oracle.inspect(&db, loss, &queries);
    let found = found.map_err(|error| format!("{error}\n{left:?}\n{:?}", db.recovery_report()))?;
    live_on(&env, &db, &found, judge, &queries)
}

fn parse_crash(text: &str) -> Option<(u64, Image)> {
    let mut words = text.split_whitespace();
    let effect = words.next()?.parse().ok()?;
    let image = match words.next()? {
        "killed" => Image::Killed,
        "random" => Image::Random(words.next()?.parse().ok()?),
        "pieces" => Image::Pieces {
            left: words.next()?.parse().ok()?,
            noise: match words.next() {
                Some(seed) => Some(seed.parse().ok()?),
                None => None,
            },
        },
        _ => return None,
    };
    Some((effect, image))
}

/// Replays what [`Repro`] prints.
///
/// # Panics
/// If the violation is still there, or the text is not one of a case.
pub fn replay(text: &str) {
    let repro = Repro::parse(text);
    if let Err(error) = repro.run() {
        panic!("{error}\n\n{repro}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::workload::{exhaustive, workload};

    /// What is printed is read back.
    #[test]
    fn every_case_survives_its_text() {
        let numbers = (0..exhaustive())
            .step_by(97)
            .chain(exhaustive()..exhaustive() + 300);
        for n in numbers {
            let images = [
                Image::Killed,
                Image::Random(n),
                Image::Pieces {
                    left: n,
                    noise: None,
                },
                Image::Pieces {
                    left: 3,
                    noise: Some(n),
                },
            ];
            let repro = Repro {
                case: workload(7, n).case,
                path: images.map(|image| (n, image)).to_vec(),
            };
            let again = Repro::parse(&repro.to_string());
            assert_eq!(again.to_string(), repro.to_string());
            assert_eq!(format!("{:?}", again.case), format!("{:?}", repro.case));
            assert_eq!(again.path, repro.path);
        }
    }
}
