//! Running one workload under callgrind.
//!
//! Owns valgrind's command line and what its files mean. Must not know: what is
//! done with the counts.

use std::path::Path;
use std::process::Command;

use crate::workloads::COUNTED;

/// What a run told.
pub(crate) struct Counted {
    pub(crate) instructions: u64,
    /// What the program printed.
    pub(crate) printed: String,
}

/// Valgrind's version, or `None` where there is none.
pub(crate) fn version() -> Option<String> {
    let output = Command::new("valgrind").arg("--version").output().ok()?;
    output.status.success().then(|| {
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().replacen("valgrind-", "valgrind ", 1)
    })
}

/// Runs this program's `--run name dir` and counts.
pub(crate) fn count(name: &str, dir: &Path, out: &Path) -> Result<Counted, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--dump-line=no"])
        .args([
            "--collect-atstart=no",
            &format!("--toggle-collect={COUNTED}"),
        ])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(["--run", name])
        .arg(dir)
        .output()
        .map_err(|error| format!("starting valgrind failed: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "{name} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    let text = std::fs::read_to_string(out).map_err(|error| format!("{name}: {error}"))?;
    let instructions = total(&text).ok_or(format!("{name}: callgrind counted nothing"))?;
    Ok(Counted {
        instructions,
        printed: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    })
}

/// The instructions that a file of callgrind's sums up, if there are any.
fn total(text: &str) -> Option<u64> {
    let events = text.lines().find_map(|line| line.strip_prefix("events:"))?;
    let at = events.split_whitespace().position(|event| event == "Ir")?;
    let totals = text.lines().find_map(|line| line.strip_prefix("totals:"))?;
    let count = totals.split_whitespace().nth(at)?.parse().ok()?;
    (count > 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_that_of_instructions() {
        let text = "version: 1\nevents: Bc Ir\nfn=(1) a\n0 1 2\n\ntotals: 7 123456\n";
        assert_eq!(total(text), Some(123_456));
        assert_eq!(total(&text.replace("123456", "0")), None, "nothing ran");
        for gone in ["events: Bc Ir", "totals: 7 123456", "123456"] {
            assert_eq!(total(&text.replace(gone, "")), None, "{gone}");
        }
    }
}
