//! `campaign --mutants [--seed N] [--seconds N] [name ...]`.
//!
//! Owns the words behind the flag, and what is printed: a line for each mutant as
//! it is hunted, a table for the documentation, one JSON object. Must not know: how
//! children run.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::hunter::{Hunter, child};
use super::list::{CONTROL, MUTANTS, Mutant};
use super::runner::{HUNT, Task, Verdict, controls, hunt_each, is_mutant_build, table};

const HOW: &str = "this build cannot leave steps out; build it with\n  RUSTFLAGS=\"--cfg \
                   esker_mutants\" cargo run -p esker-tests --target-dir \
                   target-mutants --bin campaign -- --mutants";

/// Time of a child by default.
const SECONDS: u64 = 60;

/// Runs the command if the words are one of its two forms.
#[must_use]
pub fn command(words: &[String]) -> Option<ExitCode> {
    let (first, rest) = words.split_first()?;
    let run = match first.as_str() {
        "--mutants" => all,
        HUNT => one,
        _ => return None,
    };
    if !is_mutant_build() {
        eprintln!("{HOW}");
        return Some(ExitCode::FAILURE);
    }
    Some(run(rest).unwrap_or_else(|what| {
        eprintln!("{what}");
        ExitCode::from(2)
    }))
}

fn named(name: &str) -> Result<Mutant, String> {
    let mut all = MUTANTS.iter().chain([&CONTROL]);
    let found = all.find(|mutant| mutant.name == name);
    found
        .copied()
        .ok_or_else(|| format!("there is no mutant {name:?}"))
}

fn number(word: Option<&String>) -> Result<u64, String> {
    word.and_then(|word| word.parse().ok())
        .ok_or_else(|| "a number is missing".to_owned())
}

/// The child: name, seed, seconds and perhaps the only hunter.
fn one(words: &[String]) -> Result<ExitCode, String> {
    let mutant = named(words.first().map_or("", String::as_str))?;
    let time = Duration::from_secs(number(words.get(2))?);
    let is_named = |name: &String| Hunter::ALL.into_iter().find(|h| h.name() == name);
    let only = words.get(3).and_then(is_named);
    child(&mutant, number(words.get(1))?, time, only);
    Ok(ExitCode::SUCCESS)
}

fn all(words: &[String]) -> Result<ExitCode, String> {
    let (mut seed, mut seconds, mut chosen) = (1, SECONDS, Vec::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seed" => seed = number(words.next())?,
            "--seconds" => seconds = number(words.next())?,
            name => chosen.push(named(name)?),
        }
    }
    if chosen.is_empty() {
        chosen.extend(MUTANTS);
    }
    let time = Duration::from_secs(seconds);
    let task = |mutant| Task {
        mutant,
        time,
        only: None,
    };
    let start = Instant::now();
    let tasks: Vec<_> = chosen.into_iter().map(task).collect();
    let verdicts = hunt_each(&tasks, seed, &report);
    // What is found where nothing is left out is found falsely, and so may be the rest.
    let controls = hunt_each(&controls(&verdicts), seed, &report);
    let sound = controls.iter().all(|v| v.kind == "survived");
    print!("{}", table(&verdicts));
    let killed = verdicts.iter().filter(|v| v.killed).count();
    let survivors = verdicts.iter().filter(|v| !v.killed);
    let line = serde_json::json!({
        "images": null,
        "workloads": null,
        "io_error_sites": null,
        // Found where nothing is left out.
        "violations": controls.iter().filter(|v| v.kind != "survived").count(),
        "mutants": verdicts.len(),
        "mutants_killed": killed,
        "survivors": survivors.map(|v| v.mutant.name).collect::<Vec<_>>(),
        "slowest_seconds": verdicts.iter().map(|v| v.seconds).fold(0.0, f64::max),
        "seconds": start.elapsed().as_secs(),
        "seed": seed,
    });
    println!("{line}");
    let done = sound && killed == verdicts.len();
    Ok(ExitCode::from(u8::from(!done)))
}

fn report(v: &Verdict) {
    let seen: String = v.seen.chars().take(300).collect();
    let (name, seconds) = (v.mutant.name, v.seconds);
    eprintln!("{name:28} {:10} {seconds:5.1} s  {}: {seen}", v.kind, v.by);
}
