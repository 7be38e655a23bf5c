//! The `esker` command.
//!
//! Owns nothing but the way from the command line to a command and to an exit
//! code. Architecture invariant: everything here goes through the public API of
//! the `esker` crate, so each command is also an example of a host program.
#![allow(
    clippy::disallowed_methods,
    reason = "a host of the engine, outside its seam: it reads the user's files, clock and processes itself"
)]

mod args;
mod bench;
mod commands;
mod demo;
mod failure;
mod figures;
mod progress;
mod recall;
mod scratch;
mod text;
mod vecs;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Demo(args) => demo::run(&args),
        Command::Create(args) => commands::create(&args),
        Command::Import(args) => commands::import(&args),
        Command::Get(args) => commands::get(&args),
        Command::Search(args) => commands::search(&args),
        Command::Stats(args) => commands::stats(&args),
        Command::Verify(args) => commands::verify(&args),
        Command::Salvage(args) => return commands::salvage(&args),
        Command::Compact(args) => commands::compact(&args),
        Command::BenchIngest(args) => bench::ingest(&args),
        Command::BenchMerge(args) => bench::merge(&args),
        Command::BenchSegments(args) => bench::segments(&args),
        Command::BenchChurn(args) => bench::churn(&args),
        Command::Bench(args) => bench::search(&args),
        Command::Figures(args) => figures::run(&args),
        Command::DemoChild { dir } => demo::child::run(&dir),
        Command::SweepScratch { dir } => scratch::sweep(&dir),
    }?;
    Ok(ExitCode::SUCCESS)
}
