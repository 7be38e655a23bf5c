//! A child process that says which operations were acknowledged, until it ends.
//!
//! Owns the pipe. Invariant: only a whole line counts, so what is reported was
//! acknowledged. Must not know: what the operations are, why the child ends.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

/// A process whose last word is remembered.
pub struct Talker {
    process: Child,
    reader: JoinHandle<u64>,
}

impl Talker {
    /// Starts a command that [`say`]s numbers.
    ///
    /// # Errors
    /// If it does not start.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut process = command.stdout(Stdio::piped()).spawn()?;
        let out = process.stdout.take().expect("piped");
        let reader = std::thread::spawn(move || last_number(BufReader::new(out)));
        Ok(Self { process, reader })
    }

    /// Kills it, and returns the last number that it said; zero for none.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub fn kill(mut self) -> io::Result<u64> {
        self.process.kill()?;
        Ok(self.wait()?.1)
    }

    /// Waits for its end, and returns that and the last number that it said.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn wait(mut self) -> io::Result<(ExitStatus, u64)> {
        let status = self.process.wait()?;
        let said = self.reader.join().expect("the reader does not panic");
        Ok((status, said))
    }
}

/// The number of the last whole line: one that a kill cut off was not said.
fn last_number(mut out: impl BufRead) -> u64 {
    let (mut last, mut line) = (0, String::new());
    while let Ok(1..) = out.read_line(&mut line) {
        if let Some(Ok(number)) = line.strip_suffix('\n').map(str::parse) {
            last = number;
        }
        line.clear();
    }
    last
}

/// Says a number, in the child.
///
/// # Errors
/// If nobody listens.
pub fn say(number: u64) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{number}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::last_number;

    #[test]
    fn a_line_that_is_cut_off_was_not_said() {
        assert_eq!(last_number(&b""[..]), 0);
        assert_eq!(last_number(&b"7\n12\n"[..]), 12);
        assert_eq!(last_number(&b"7\n12\n130"[..]), 12);
    }
}
