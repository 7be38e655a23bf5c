//! One damaged database: opened, asked everything, judged.
//!
//! Owns the rule. Each answer is the right one, or an error that names a file of the
//! database as damaged; what an open reports hides no loss; what changed nothing is
//! seen by a verification where that vouches for every bit. Once a question was
//! answered by such an error the rest is asked in a share of the cases only. Must not
//! know: what was done to the files.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use esker::{Background, Db, Error, GraphOptions, MapMode, Options};

use super::damage::Tampered;
use super::questions::{Asked, Expected};
use super::shelf::Shelf;
use super::specimen::{DIR, File, Kind, Specimen};

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// An error named the damage when the database was opened.
    AtOpen(Named),
    /// Or when it was read.
    AtRead(Named),
    /// Every answer is right.
    Harmless {
        /// A verification reports the damage all the same.
        verified: bool,
    },
    Wrong(String),
    Panicked(String),
}

/// Which file an error named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// One that was damaged.
    Itself,
    /// Another file of the database.
    Another,
}

/// Judges cases of one specimen, faster where it has seen damage before.
pub(super) struct Judge<'a> {
    specimen: &'a Specimen,
    /// For a page of a file, the question that met the last damage to it.
    hints: HashMap<(usize, usize, usize), usize>,
    answer: Vec<u8>,
}

const PAGE: usize = 4096;

/// Opens what is on a shelf, with buffers that suit small databases.
pub(super) fn open(shelf: &Shelf, mode: MapMode) -> Result<Db, Error> {
    let options = Options::new()
        .background(Background::Manual)
        .auto_compact(false)
        .map_mode(mode)
        .create_if_missing(false)
        .memory_budget(16 << 20)
        .memtable_bytes(4 << 20)
        .log_file_bytes(1 << 20)
        .block_cache_bytes(128 << 10)
        .graph(GraphOptions::new().min_rows(100).max_degree(8).l_build(16))
        .env(shelf.env());
    Db::open(DIR, options)
}

impl<'a> Judge<'a> {
    pub(super) fn new(specimen: &'a Specimen) -> Self {
        Self {
            specimen,
            hints: HashMap::new(),
            answer: Vec::new(),
        }
    }

    /// Judges one case, read as `mode` says. With `thorough` everything is asked.
    pub(super) fn judge(&mut self, tampered: &Tampered, mode: usize, thorough: bool) -> Verdict {
        let judged = catch_unwind(AssertUnwindSafe(|| self.examine(tampered, mode, thorough)));
        match judged {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(what)) => Verdict::Wrong(what),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                Verdict::Panicked(text.unwrap_or("without a word").to_owned())
            }
        }
    }

    fn examine(
        &mut self,
        tampered: &Tampered,
        mode: usize,
        thorough: bool,
    ) -> Result<Verdict, String> {
        let specimen = self.specimen;
        let expected = &specimen.expected[mode];
        let mut files = specimen.shared();
        for (n, bytes) in &tampered.files {
            let name = &specimen.files[*n].name;
            match bytes {
                Some(bytes) => files.insert(name.clone(), bytes.clone()),
                None => files.remove(name),
            };
        }
        let shelf = Shelf::new(files);
        let before = shelf.names();
        let db = match open(&shelf, expected.mode) {
            Ok(db) => db,
            Err(error) => {
                let named = self.named("an open", &error, tampered)?;
                // Nothing is taken away or left behind, so the damage can be mended.
                let mut after = shelf.names();
                after.retain(|name| &**name != "LOCK" || before.contains(name));
                return match after == before {
                    true => Ok(Verdict::AtOpen(named)),
                    false => Err(format!("a failed open leaves {after:?} of {before:?}")),
                };
            }
        };
        self.check_report(&db, expected, tampered)?;
        let asked = match Asked::new(&db) {
            Ok(asked) => asked,
            Err(error) => return Err(format!("a collection is gone: {error}")),
        };
        if let Some(named) = self.ask_all(&asked, expected, tampered, mode, thorough)? {
            return Ok(Verdict::AtRead(named));
        }
        let verified = self.verify(&db, tampered)?;
        drop(asked);
        db.close().map_err(|error| format!("a close: {error}"))?;
        if thorough {
            self.ask_again(&shelf, expected, tampered, mode)?;
        }
        Ok(Verdict::Harmless { verified })
    }

    /// Asks until an error names the damage, or to the end. An error, too, may only
    /// come after right answers.
    fn ask_all(
        &mut self,
        asked: &Asked,
        expected: &Expected,
        tampered: &Tampered,
        mode: usize,
        thorough: bool,
    ) -> Result<Option<Named>, String> {
        let place = tampered.files.first().map_or(0, |(file, _)| *file);
        let place = (mode, place, tampered.at / PAGE);
        let first = self.hints.get(&place).copied();
        let rest = (0..expected.questions.len()).filter(|n| Some(*n) != first);
        let mut met = None;
        for n in first.into_iter().chain(rest) {
            let (question, right) = &expected.questions[n];
            self.answer.clear();
            let answered = asked.ask(question, &mut self.answer);
            let differs = match &answered {
                Ok(()) => self.answer != *right,
                Err(_) => !right.starts_with(&self.answer),
            };
            if differs {
                let at = self.answer.iter().zip(right).position(|(a, b)| a != b);
                let at = at.unwrap_or(self.answer.len().min(right.len()));
                let lens = (self.answer.len(), right.len());
                return Err(format!(
                    "{question:?} has another answer, from byte {at} on of (it, the right one) \
                     {lens:?}"
                ));
            }
            let Err(error) = answered else { continue };
            let named = self.named(&format!("{question:?}"), &error, tampered)?;
            if met.is_none() {
                self.hints.insert(place, n);
                met = Some(named);
            }
            if !thorough {
                break;
            }
        }
        Ok(met)
    }

    /// Which file an error names; it must be of the right kind, name one, and a place
    /// in it.
    fn named(&self, what: &str, error: &Error, tampered: &Tampered) -> Result<Named, String> {
        let (file, offset) = match error {
            Error::Corruption { file, offset, .. } => (file, *offset),
            Error::Incompatible { file, .. } => (file, 0),
            other => return Err(format!("{what} gives an error of a wrong kind: {other:?}")),
        };
        let specimen = self.specimen;
        let name = file.file_name().and_then(|name| name.to_str());
        let name = name.filter(|_| file.parent() == Some(Path::new(DIR)));
        let is_it = |file: &File| Some(&*file.name) == name;
        let Some(number) = specimen.files.iter().position(is_it) else {
            // A whole file of an earlier state names files that are gone since.
            let known = specimen.donors.iter().flat_map(|donor| &donor.files);
            return match known.into_iter().any(is_it) {
                true => Ok(Named::Another),
                false => Err(format!(
                    "{what} gives an error that names no file of it: {error}"
                )),
            };
        };
        let tampered = tampered.files.iter().find(|(n, _)| *n == number);
        let new = tampered.map(|(_, bytes)| bytes.as_ref().map_or(0, |b| b.len()));
        let len = specimen.files[number].bytes.len().max(new.unwrap_or(0));
        if offset > len as u64 {
            return Err(format!("{what} gives an error behind the end: {error}"));
        }
        Ok(match tampered {
            Some(_) => Named::Itself,
            None => Named::Another,
        })
    }

    /// A report that differs tells of a loss that is not there, or hides one. Which files
    /// were left over is no loss; nor is it to have believed a `CURRENT` that is whole,
    /// of this manifest, and older than the seal.
    fn check_report(
        &self,
        db: &Db,
        expected: &Expected,
        tampered: &Tampered,
    ) -> Result<(), String> {
        let mut report = db.recovery_report().clone();
        report.removed_files = expected.report.removed_files;
        let current = |(n, _): &(usize, _)| self.specimen.files[*n].kind == Kind::Current;
        report.clean |= tampered.files.iter().any(current);
        if report == expected.report {
            return Ok(());
        }
        Err(format!(
            "the open reports {report:?} instead of {:?}",
            expected.report
        ))
    }

    /// Whether a verification reports anything. Of a live segment it vouches for every
    /// bit, so damage to one that nothing notices is wrong.
    fn verify(&self, db: &Db, tampered: &Tampered) -> Result<bool, String> {
        let report = db.verify().map_err(|error| format!("verify: {error}"))?;
        for problem in &report.problems {
            self.named("verify", problem, tampered)?;
        }
        let vouched = |(n, _): &(usize, _)| self.specimen.files[*n].kind == Kind::Segment;
        if report.is_ok() && tampered.files.iter().any(vouched) {
            return Err("a segment is damaged, and nothing notices".to_owned());
        }
        Ok(!report.is_ok())
    }

    /// What was harmless once stays so.
    fn ask_again(
        &mut self,
        shelf: &Shelf,
        expected: &Expected,
        tampered: &Tampered,
        mode: usize,
    ) -> Result<(), String> {
        let db = open(shelf, expected.mode).map_err(|e| format!("a second open: {e}"))?;
        let report = db.recovery_report();
        if !report.clean || report.torn_tail.is_some() {
            return Err(format!("a second open reports {report:?}"));
        }
        let asked = Asked::new(&db).map_err(|e| format!("after a second open: {e}"))?;
        match self.ask_all(&asked, expected, tampered, mode, true)? {
            None => Ok(()),
            Some(_) => Err("after a second open there are errors".to_owned()),
        }
    }
}
