//! The table of all campaigns, in a file that people read.
//!
//! Owns its last lines: one for each run, of which this one rewrites its own as it
//! goes on. Invariant: the file is replaced as a whole, so a run that is killed
//! leaves the last state that it wrote. Must not know: what is counted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A run's line.
pub struct Row {
    pub seed: u64,
    pub from: u64,
    pub next: u64,
    pub images: u64,
    pub violations: u64,
    pub seconds: u64,
}

/// The file as it was before this run.
pub struct Ledger {
    path: PathBuf,
    before: String,
    commit: String,
}

const HEAD: &str = "\
| commit | seed | first workload | next workload | images | violations | seconds |
|---|---|---|---|---|---|---|
";

impl Ledger {
    /// Reads the file; a missing one is empty.
    ///
    /// # Errors
    /// A file that cannot be read, or has no table.
    pub fn open(path: &Path) -> Result<Self, String> {
        let before = match fs::read_to_string(path) {
            Ok(text) if text.contains(HEAD) => text,
            Ok(text) if text.is_empty() => HEAD.to_owned(),
            Ok(_) => return Err(format!("{} holds no table of campaigns", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => HEAD.to_owned(),
            Err(error) => return Err(format!("reading {}: {error}", path.display())),
        };
        let commit = commit().unwrap_or_else(|| "unknown".to_owned());
        Ok(Self {
            path: path.to_owned(),
            before,
            commit,
        })
    }

    /// The first workload that no run of this seed has done.
    pub fn next(&self, seed: u64) -> Option<u64> {
        let rows = self.before.lines().filter_map(|line| {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let number = |i: usize| cells.get(i)?.parse::<u64>().ok();
            (number(2)? == seed).then(|| number(4))?
        });
        rows.max()
    }

    /// Puts this run's line at the end.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn write(&self, row: &Row) -> Result<(), String> {
        let text = format!(
            "{}\n| {} | {} | {} | {} | {} | {} | {} |\n",
            self.before.trim_end(),
            self.commit,
            row.seed,
            row.from,
            row.next,
            row.images,
            row.violations,
            row.seconds
        );
        let temporary = self.path.with_extension("tmp");
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &self.path))
            .map_err(|error| format!("writing {}: {error}", self.path.display()))
    }
}

/// What is being tested, with a `+` if it was changed since.
fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let hash = git(&["rev-parse", "--short=10", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--", "*.rs"])?;
    Some(format!(
        "{hash}{}",
        if changed.is_empty() { "" } else { "+" }
    ))
}
