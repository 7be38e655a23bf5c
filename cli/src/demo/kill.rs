//! Ingests in a second process and kills that process in the middle of a batch.
//!
//! Owns the child's life. Invariants: the child is killed and reaped before this
//! module returns, with or without an error; a batch counts as acknowledged only
//! if its `acked` line came through the pipe, those read after the kill included.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::child::{BATCH, CHILD_COMMAND, Message};
use crate::failure::Failure;

/// How the ingest ended.
pub(crate) struct Killed {
    /// The child's process id.
    pub(crate) pid: u32,
    /// Batches acknowledged, from the first on without a gap.
    pub(crate) acked_batches: usize,
    /// The batch that had begun and was not acknowledged.
    pub(crate) in_flight: Option<usize>,
}

/// Kills and reaps its process when dropped, so that no error leaves it running.
struct Running(Child);

impl Running {
    fn kill(&mut self) -> std::io::Result<()> {
        // SIGKILL on Unix: no handler runs, no buffer is flushed. Reaped before
        // anyone opens the database, since its lock dies with the process.
        self.0.kill()?;
        self.0.wait().map(drop)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Starts the child on `db_dir`, lets it write the batches before `victim`, and
/// kills it while it writes that one.
pub(crate) fn ingest_and_kill(
    db_dir: &Path,
    victim: usize,
    bar: &ProgressBar,
) -> Result<Killed, Failure> {
    let fail = |error: std::io::Error| {
        Failure::failed(format!(
            "running the process that is to be killed failed: {error}"
        ))
    };
    let mut command = Command::new(std::env::current_exe().map_err(fail)?);
    command
        .arg(CHILD_COMMAND)
        .arg(db_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = Running(command.spawn().map_err(fail)?);
    let pid = child.0.id();
    let (Some(mut commands), Some(answers)) = (child.0.stdin.take(), child.0.stdout.take()) else {
        return Err(Failure::failed(
            "the process that is to be killed has no pipes",
        ));
    };
    let mut answers = BufReader::new(answers).lines();

    let mut fastest_ack = Duration::MAX;
    for batch in 0..victim {
        expect_begin(&mut commands, &mut answers, batch)?;
        let begun = Instant::now();
        match next(&mut answers)? {
            Some(Message::Acked(acked)) if acked == batch => bar.inc(BATCH as u64),
            other => return Err(out_of_step(other)),
        }
        fastest_ack = fastest_ack.min(begun.elapsed());
    }
    expect_begin(&mut commands, &mut answers, victim)?;
    // Somewhere between the first byte of the write and the end of its sync.
    std::thread::sleep(kill_delay(fastest_ack));
    child.kill().map_err(fail)?;
    Ok(match next(&mut answers)? {
        None => Killed {
            pid,
            acked_batches: victim,
            in_flight: Some(victim),
        },
        Some(Message::Acked(acked)) if acked == victim => Killed {
            pid,
            acked_batches: victim + 1,
            in_flight: None,
        },
        other => return Err(out_of_step(other)),
    })
}

/// A random part of half of what the fastest batch took, so that the batch is
/// then still being written. The slowest would not do: one slow sync among the
/// earlier batches would let this one finish.
fn kill_delay(fastest_ack: Duration) -> Duration {
    // Before any batch was timed there is nothing to go by, so no delay.
    let fastest = if fastest_ack == Duration::MAX {
        Duration::ZERO
    } else {
        fastest_ack
    };
    fastest.mul_f64(0.5 * super::random_fraction())
}

fn expect_begin(
    commands: &mut impl Write,
    answers: &mut Lines<BufReader<ChildStdout>>,
    batch: usize,
) -> Result<(), Failure> {
    // A broken pipe shows below as the end of the answers.
    let _ = commands.write_all(b"next\n");
    match next(answers)? {
        Some(Message::Begin(begun)) if begun == batch => Ok(()),
        other => Err(out_of_step(other)),
    }
}

/// The next message; `None` at the end of the pipe.
fn next(answers: &mut Lines<BufReader<ChildStdout>>) -> Result<Option<Message>, Failure> {
    match answers.next() {
        None => Ok(None),
        Some(Ok(line)) => match Message::parse(&line) {
            // Killed inside of a line: the acknowledgement did not come through.
            None => Ok(None),
            message => Ok(message),
        },
        Some(Err(error)) => Err(Failure::failed(format!(
            "reading from the ingesting process failed: {error}"
        ))),
    }
}

fn out_of_step(message: Option<Message>) -> Failure {
    Failure::failed(match message {
        None => {
            "the ingesting process ended before it was killed; its own message says why".to_owned()
        }
        Some(message) => format!("the ingesting process said {message:?} out of turn"),
    })
}
