//! Why a command did not do its work, and the one way to standard output.
//!
//! Owns the exit codes: 0 done, 1 the data or the engine said no, 2 the command
//! line did not make sense (`salvage` also ends with 2 if it finished and rows are
//! lost). Invariants: every failure is one sentence that a
//! user can act on; a reader that closes our standard output ends the command
//! quietly, since `esker search ... | head -1` is no mistake.
//! Must not know: what the commands do.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Why a command stopped.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is well formed but cannot be meant: exit code 2.
    Usage(String),
    /// Data, disk or engine refused: exit code 1.
    Failed(String),
    /// Nobody reads our output any more: exit code 0, nothing to say.
    ClosedPipe,
}

impl Failure {
    /// A failure of data, disk or engine.
    pub(crate) fn failed(what: impl Into<String>) -> Self {
        Self::Failed(what.into())
    }

    /// `doing` a file did not work, as in "reading base.fvecs failed: ...".
    pub(crate) fn file(doing: &str, path: &Path, error: &impl Display) -> Self {
        Self::Failed(format!("{doing} {} failed: {error}", path.display()))
    }

    /// Says on standard error what is to be said, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let (text, code) = match self {
            Self::Usage(text) => (text, 2),
            Self::Failed(text) => (text, 1),
            Self::ClosedPipe => return ExitCode::SUCCESS,
        };
        note(text);
        ExitCode::from(code)
    }
}

impl From<esker::Error> for Failure {
    fn from(error: esker::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Writes one line to standard output. `println!` would panic on a closed pipe.
pub(crate) fn print_line(text: impl Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::failed(format!("writing to standard output failed: {error}")),
        })
}

/// Writes one line to standard error. It may be closed; the exit code still tells.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "esker: {text}");
}
