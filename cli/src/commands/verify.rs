//! `esker verify`: every byte of a database that nobody has open.
//!
//! Invariants: nothing is written and nothing recovered; one line on standard output
//! for each problem, then one that sums up; exit code 1 if there is a problem. A
//! signal just ends it. Must not know: how files are checked.

use esker::{Error, MapMode, Options, VerifyOptions, VerifyReport};
use serde_json::{Value, json};

use crate::args::Verify;
use crate::failure::{Failure, note, print_line};
use crate::progress;

/// Checks every byte, and names every problem found.
pub(crate) fn verify(args: &Verify) -> Result<(), Failure> {
    super::check_there(&args.dir)?;
    let mut options = VerifyOptions::new();
    if let Some(rate) = args.rate {
        options = options.bytes_per_second(rate << 20);
    }
    if !args.quiet {
        options = options.on_progress(progress::verification());
    }
    // A disk that fails a read of mapped memory would end the process.
    let how = Options::new().map_mode(MapMode::Pread);
    let report = esker::verify(&args.dir, &how, &options)?;
    if args.json {
        print_line(as_json(&report))?;
    } else {
        for problem in &report.problems {
            print_line(line(problem))?;
        }
        for text in &report.notes {
            note(text);
        }
        if !args.quiet {
            print_line(summary(&report))?;
        }
    }
    match found(&report) {
        0 => Ok(()),
        found => Err(Failure::failed(format!(
            "{} is damaged: {}",
            args.dir.display(),
            count(found)
        ))),
    }
}

fn found(report: &VerifyReport) -> u64 {
    report.problems.len() as u64 + report.more_problems
}

fn count(problems: u64) -> String {
    match problems {
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    }
}

fn line(problem: &Error) -> String {
    match problem {
        Error::Corruption { file, offset, what } => {
            format!("{}: byte {offset}: {what}", file.display())
        }
        other => other.to_string(),
    }
}

fn summary(report: &VerifyReport) -> String {
    let verdict = match found(report) {
        0 => "intact".to_owned(),
        found => format!("damaged, {}", count(found)),
    };
    format!(
        "{verdict}: {} segments of {} rows, {} deletion vectors and {} logs of {} batches, \
         {} bytes read",
        report.segments,
        report.rows,
        report.deletion_vectors,
        report.logs,
        report.log_batches,
        report.bytes
    )
}

fn as_json(report: &VerifyReport) -> Value {
    let problems = report.problems.iter().map(|problem| match problem {
        Error::Corruption { file, offset, what } => json!({
            "file": file.display().to_string(),
            "offset": offset,
            "what": what,
        }),
        other => json!({ "what": other.to_string() }),
    });
    json!({
        "intact": found(report) == 0,
        "complete": report.complete,
        "segments": report.segments,
        "rows": report.rows,
        "live_rows": report.live_rows,
        "deletion_vectors": report.deletion_vectors,
        "logs": report.logs,
        "log_batches": report.log_batches,
        "manifests": report.manifests,
        "unnamed_files": report.unnamed_files,
        "bytes": report.bytes,
        "problems": problems.collect::<Vec<_>>(),
        "more_problems": report.more_problems,
        "notes": report.notes,
    })
}
