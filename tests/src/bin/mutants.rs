//! Hunts every planted bug, each in a process of its own, and prints the table.
//!
//! `mutants [--seed N] [--seconds N] [name ...]`. Must not know: what the bugs are.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for developers"
)]

use std::process::ExitCode;
use std::time::Duration;

use esker_tests::mutants::{CONTROL, MUTANTS, Mutant, child, hunt_some, is_mutant_build, table};

const HOW: &str = "this build cannot leave steps out; build it with\n  RUSTFLAGS=\"--cfg \
                   esker_mutants\" cargo run --release -p esker-tests --target-dir \
                   target-mutants --bin mutants";

fn named(name: &str) -> Mutant {
    let all = MUTANTS.iter().chain([&CONTROL]);
    let found = all.into_iter().find(|mutant| mutant.name == name);
    *found.unwrap_or_else(|| panic!("there is no mutant {name:?}"))
}

fn main() -> ExitCode {
    if !is_mutant_build() {
        eprintln!("{HOW}");
        return ExitCode::FAILURE;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &str| text.parse().expect("a number");
    if let [flag, name, seed, seconds] = &args[..]
        && flag == "--hunt"
    {
        child(
            &named(name),
            number(seed),
            Duration::from_secs(number(seconds)),
        );
        return ExitCode::SUCCESS;
    }
    let (mut seed, mut seconds, mut chosen) = (20_250_101, 60, Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seed" => seed = number(args.next().expect("a seed")),
            "--seconds" => seconds = number(args.next().expect("seconds")),
            name => chosen.push(named(name)),
        }
    }
    if chosen.is_empty() {
        chosen = MUTANTS.to_vec();
    }
    let verdicts = hunt_some(&chosen, seed, Duration::from_secs(seconds), &|v| {
        let (name, seconds) = (v.mutant.name, v.seconds);
        eprintln!(
            "{name:28} {:10} {seconds:5.1} s  {}: {}",
            v.kind, v.by, v.seen
        );
    });
    print!("{}", table(&verdicts));
    let killed = verdicts.iter().filter(|v| v.killed).count();
    println!("\n{killed} of {} were killed.", verdicts.len());
    ExitCode::from(u8::from(killed < verdicts.len()))
}
