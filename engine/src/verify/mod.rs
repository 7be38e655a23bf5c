//! Checking every file of a database, open or closed, and that they fit each other.
//!
//! Owns the order: manifest, logs, deletion vectors, segments, then keys across the
//! segments of each collection. Invariants: goes on after damage, so that all of it
//! is found; writes nothing; holds the commit lock only to copy the state; may be
//! slowed and stopped between pieces of about 1 MiB. Must not know: repair.

mod closed;
mod deletions;
mod keys;
mod logs;
mod manifest;
mod open;
mod pace;
mod report;
mod scrub;
mod segments;
mod state;

use std::path::Path;

use crate::env::Env;
use crate::error::Error;
use crate::options::VerifyOptions;
pub use closed::verify;
use pace::{Going, Run};
pub use report::VerifyReport;
pub use scrub::ScrubReport;
pub(crate) use scrub::Scrubber;

/// One verification.
struct Verifier<'a> {
    env: &'a dyn Env,
    dir: &'a Path,
    run: Run<'a>,
    report: VerifyReport,
    /// Problems of this file so far.
    of_file: u64,
}

impl<'a> Verifier<'a> {
    fn new(
        env: &'a dyn Env,
        dir: &'a Path,
        options: &'a VerifyOptions,
        gone: &'a dyn Fn() -> bool,
    ) -> Self {
        Self {
            env,
            dir,
            run: Run::new(env.clock(), options, gone),
            report: VerifyReport::default(),
            of_file: 0,
        }
    }

    /// Begins a file of `bytes`, of which `work` will be read.
    fn begin_file(&mut self, bytes: u64, work: u64) {
        self.of_file = 0;
        self.run.begin_file(bytes, work);
    }

    fn end_file(&mut self) {
        self.run.end_file();
    }

    fn problem(&mut self, problem: Error) {
        self.of_file += 1;
        self.run.found();
        let listed = self.report.problems.len() < report::LISTED;
        if listed && self.of_file <= report::LISTED_PER_FILE {
            self.report.problems.push(problem);
        } else {
            self.report.more_problems += 1;
        }
    }

    fn note(&mut self, note: String) {
        self.report.notes.push(note);
    }

    /// The report, after everything was looked at or it was stopped.
    fn finish(mut self, result: Going) -> VerifyReport {
        self.report.complete = result.is_ok();
        self.report.bytes = self.run.bytes();
        self.report
    }
}
