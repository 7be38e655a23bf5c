//! Runs the binary as a user does.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory of its own for one test, also used for temporary files.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
}

/// What a command did.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(bench.temporary()).unwrap();
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the command puts its temporary files.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.path("tmp")
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_esker"));
        command
            .current_dir(self.dir.path())
            .env("TMPDIR", self.temporary());
        command
    }

    /// Runs a command line whose words have no spaces.
    pub(crate) fn run(&self, line: &str) -> Ran {
        self.run_args(&line.split_whitespace().collect::<Vec<_>>())
    }

    pub(crate) fn run_args(&self, args: &[&str]) -> Ran {
        Ran::from(self.command().args(args).output().unwrap())
    }

    /// Runs a command line that must succeed; its standard output.
    pub(crate) fn ok(&self, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!(ran.code, 0, "esker {line}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// Runs a command line that must fail with `code`, print nothing, and say
    /// `part` in one sentence.
    pub(crate) fn fails(&self, line: &str, code: i32, part: &str) {
        let ran = self.run(line);
        assert_eq!(ran.code, code, "esker {line}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stdout.is_empty(), "esker {line}: {}", ran.stdout);
        assert!(ran.stderr.contains(part), "esker {line}: {}", ran.stderr);
        if code == 1 {
            assert_eq!(
                ran.stderr.trim_end().lines().count(),
                1,
                "esker {line}: {}",
                ran.stderr
            );
        }
    }

    /// Writes an fvecs file.
    pub(crate) fn fvecs(&self, name: &str, rows: &[Vec<f32>]) {
        let mut bytes = Vec::new();
        for row in rows {
            bytes.extend((row.len() as i32).to_le_bytes());
            bytes.extend(row.iter().flat_map(|x| x.to_le_bytes()));
        }
        self.write(name, &bytes);
    }

    /// Writes an ivecs file.
    pub(crate) fn ivecs<const N: usize>(&self, name: &str, rows: &[[u32; N]]) {
        let mut bytes = Vec::new();
        for row in rows {
            bytes.extend((N as i32).to_le_bytes());
            bytes.extend(row.iter().flat_map(|id| id.to_le_bytes()));
        }
        self.write(name, &bytes);
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Fails if temporary files are left.
    pub(crate) fn assert_clean(&self) {
        assert_eq!(names(&self.temporary()), [""; 0]);
    }
}

/// Sorted names in a directory.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
