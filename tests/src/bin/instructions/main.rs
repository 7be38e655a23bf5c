//! Counts the instructions of small workloads, and fails where they grew.
//!
//! `instructions [--bless] [--baseline FILE] [WORKLOAD...]`
//!
//! Each workload runs under `valgrind --tool=callgrind`, which counts what the program
//! itself executes, so that the figures do not depend on what else the machine does.
//! They are compared with `tests/instructions.tsv`: more than 3 % above it is a failure;
//! so is a workload that it lacks. `--bless` writes the file anew. With names, only these
//! workloads run. Counts depend on the compiler, on the processor's features (valgrind
//! offers no AVX-512) and on the C library: where any of them is not the baseline's,
//! differences are printed and nothing fails. Without valgrind the program says so and
//! ends with success.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a program of the test suite: a broken assumption should stop it"
)]

mod baseline;
mod callgrind;
mod workloads;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use baseline::Baseline;
use workloads::{WORKLOADS, Workload};

const USAGE: &str = "usage: instructions [--bless] [--baseline FILE] [WORKLOAD...]";

struct Arguments {
    bless: bool,
    baseline: PathBuf,
    names: Vec<String>,
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments {
        bless: false,
        baseline: Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.tsv"),
        names: Vec::new(),
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--bless" => parsed.bless = true,
            "--baseline" => parsed.baseline = words.next().ok_or(USAGE)?.into(),
            name if WORKLOADS.iter().any(|workload| workload.name == name) => {
                parsed.names.push(word);
            }
            _ => {
                let names = WORKLOADS.map(|workload| workload.name).join(" ");
                return Err(format!("{word:?}? {USAGE}\nworkloads: {names}"));
            }
        }
    }
    if parsed.bless && !parsed.names.is_empty() {
        return Err("--bless counts all workloads: name none".to_owned());
    }
    Ok(parsed)
}

/// All that counts depend on beside the code. `features` is what the program saw
/// under valgrind.
fn machine(valgrind: &str, features: &str) -> String {
    let said = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).output().ok();
        let output = output.filter(|output| output.status.success());
        output.map_or_else(
            || format!("unknown {program}"),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
    };
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let parts = [
        std::env::consts::ARCH,
        features,
        &said(&rustc, &["--version"]),
        &said("getconf", &["GNU_LIBC_VERSION"]),
        valgrind,
    ];
    parts.join(", ")
}

/// Those features of the processor that code here or in the libraries chooses by.
fn features() -> String {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let found: [(&str, bool); 0] = [];
    let found = found.iter().filter(|(_, is)| *is).map(|(name, _)| *name);
    found.collect::<Vec<_>>().join(" ")
}

/// Prepares the workloads, counts them, as many at once as there are processors.
fn count_all(workloads: &[&Workload], valgrind: &str) -> Result<Baseline, String> {
    let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
    let next = AtomicUsize::new(0);
    let counted = Mutex::new(Vec::new());
    let worker = || {
        while let Some(workload) = workloads.get(next.fetch_add(1, Ordering::Relaxed)) {
            let dir = scratch.path().join(workload.name);
            let out = dir.with_extension("callgrind");
            std::fs::create_dir(&dir).unwrap();
            (workload.prepare)(&dir);
            let result = callgrind::count(workload.name, &dir, &out);
            counted.lock().unwrap().push((workload.name, result));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(worker);
        }
    });
    let mut all = Baseline::default();
    for (name, result) in counted.into_inner().unwrap() {
        let result = result?;
        all.machine = machine(valgrind, &result.printed);
        all.counts.insert(name.to_owned(), result.instructions);
    }
    Ok(all)
}

fn run(arguments: &Arguments) -> Result<bool, String> {
    if cfg!(debug_assertions) {
        return Err("counts of a debug build say nothing: use --release".to_owned());
    }
    let Some(valgrind) = callgrind::version() else {
        println!("instructions: skipped, there is no valgrind");
        return Ok(true);
    };
    let is_named = |workload: &&Workload| {
        arguments.names.is_empty() || arguments.names.iter().any(|name| name == workload.name)
    };
    let workloads: Vec<&Workload> = WORKLOADS.iter().filter(is_named).collect();
    let now = count_all(&workloads, &valgrind)?;
    let path = &arguments.baseline;
    let failed = |doing: &str, error| format!("{doing} {} failed: {error}", path.display());
    if arguments.bless {
        std::fs::write(path, now.text()).map_err(|error| failed("writing", error))?;
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed("reading", error))?;
    let mut before =
        Baseline::parse(&text).map_err(|error| format!("{}, {error}", path.display()))?;
    before
        .counts
        .retain(|name, _| arguments.names.is_empty() || arguments.names.contains(name));
    let (table, failed) = before.compare(&now);
    print!("{table}");
    Ok(!failed)
}

/// The other side of [`callgrind::count`].
fn run_one(name: &str, dir: &Path) -> Result<(), String> {
    let workload = WORKLOADS.iter().find(|workload| workload.name == name);
    let workload = workload.ok_or(format!("there is no workload {name}"))?;
    (workload.run)(dir);
    println!("{}", features());
    Ok(())
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = match words.as_slice() {
        [run, name, dir] if run == "--run" => run_one(name, Path::new(dir)).map(|()| true),
        _ => arguments(words.into_iter()).and_then(|arguments| run(&arguments)),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("instructions: more than the baseline allows, see above");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_baseline_guards_every_workload() {
        let parsed = arguments(std::iter::empty()).unwrap();
        let text = std::fs::read_to_string(parsed.baseline).unwrap();
        let baseline = Baseline::parse(&text).unwrap();
        let mut names = WORKLOADS.map(|workload| workload.name);
        names.sort_unstable();
        let stored: Vec<&String> = baseline.counts.keys().collect();
        assert_eq!(stored, names);
        assert!(baseline.machine.contains("rustc "), "{}", baseline.machine);
    }

    #[test]
    fn the_command_line_means_what_it_says() {
        let parse = |line: &str| arguments(line.split_whitespace().map(str::to_owned));
        assert!(parse("--bless").unwrap().bless);
        let parsed = parse("log-1k-frames --baseline x.tsv").unwrap();
        assert_eq!((parsed.names.len(), parsed.bless), (1, false));
        assert_eq!(parsed.baseline, Path::new("x.tsv"));
        for line in ["--bless log-1k-frames", "nothing", "--baseline", "--what"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    /// What a baseline counts is done at all, in builds that cannot count it.
    #[test]
    fn every_workload_does_its_work() {
        for workload in WORKLOADS {
            let dir = tempfile::tempdir().unwrap();
            (workload.prepare)(dir.path());
            (workload.run)(dir.path());
        }
    }
}
