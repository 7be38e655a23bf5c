//! Judging what a power cut left: is it a legal state of the simulated machine, and
//! does the database that opens on it hold what it must?
//!
//! Owns reading a directory, and the two verdicts. Must not know: how the cut came.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use esker::{Db, Options};
use esker_tests::oracle::{Loss, Oracle, Queries};
use esker_tests::sim::{Observed, Survivors};

use crate::store::Mark;
use crate::tape::{Call, Player};

/// The database's directory on both machines.
pub(crate) const DIR: &str = "/db";

/// What was found, over all states that were judged.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) images: u64,
    pub(crate) cuts: u64,
    pub(crate) kills: u64,
    /// Of these, while the database recovered from another.
    pub(crate) kills_in_recovery: u64,
    pub(crate) violations: u64,
    pub(crate) illegal_states: u64,
    /// Images that the file system itself refused.
    pub(crate) unmountable: u64,
    /// Writes that a power cut took, as it may.
    pub(crate) lost: u64,
    pub(crate) torn_tails: u64,
    pub(crate) survivors: Survivors,
    pub(crate) skipped: Vec<String>,
}

impl Findings {
    pub(crate) fn violation(&mut self, context: &str, what: &str) {
        self.violations += 1;
        println!("VIOLATION {context}\n{what}");
    }

    pub(crate) fn illegal(&mut self, context: &str, what: &str) {
        self.illegal_states += 1;
        println!("ILLEGAL STATE {context}\n{what}");
    }
}

/// A directory's files, or that there is none.
pub(crate) fn observe(dir: &Path) -> io::Result<Observed> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.insert(name, std::fs::read(entry.path())?);
    }
    Ok(Some(files))
}

/// Whether the simulated machine could leave what was observed, had its power been
/// cut at one of the calls where the real one's was. Marks must not go back.
pub(crate) fn legal(
    player: &mut Player,
    tape: &[Call],
    mark: Mark,
    observed: &Observed,
) -> Result<Survivors, String> {
    let (mut at, end) = (mark.done, mark.begun.min(tape.len()));
    let mut first = None;
    loop {
        // What changes something may have done it or not: after it more is legal.
        // A sync only takes possibilities away: before it more is.
        at += tape[at..end]
            .iter()
            .take_while(|call| !call.is_sync())
            .count();
        match player.play(tape, at).admits(DIR, observed) {
            Ok(survivors) => return Ok(survivors),
            Err(error) => drop(first.get_or_insert(error)),
        }
        at += tape[at..end]
            .iter()
            .take_while(|call| call.is_sync())
            .count();
        if at == end {
            return Err(first.unwrap_or_default());
        }
    }
}

/// Opens a database and compares it with its model.
pub(crate) fn recovered(
    dir: &Path,
    options: Options,
    oracle: &mut Oracle,
    loss: Loss,
    findings: &mut Findings,
) -> Result<(), String> {
    let db = Db::open(dir, options).map_err(|error| format!("it does not open: {error}"))?;
    let report = db.recovery_report().clone();
    findings.torn_tails += u64::from(report.torn_tail.is_some());
    let recovered = oracle
        .check(&db, loss, &Queries::new(1))
        .map_err(|error| format!("{report:?}\n{error}"))?;
    findings.lost += (recovered.of - recovered.prefix) as u64;
    let verified = db.verify().map_err(|error| format!("verifying: {error}"))?;
    if !verified.is_ok() {
        return Err(format!("verification found {:#?}", verified.problems));
    }
    Ok(())
}
