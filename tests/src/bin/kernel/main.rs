//! The database on real kernels: power cuts and kills, judged by the same oracle and
//! the same simulated machine as everything else.
//!
//! Three parts, all for Linux. *Images*: a workload runs on ext4 or XFS on a loop
//! device over a one-file FUSE file system that logs every write and flush; from the
//! log, images are made that are cut at any write, with any subset of the writes
//! after the last flush; the kernel mounts them, replays its journal, and the
//! database opens. *Cuts*: the file system is cut off from its device while a
//! workload runs. *Kills*: SIGKILL at each system call, by `strace`. Every directory
//! that a power cut left must be one that the simulated machine could leave.
//!
//! `kernel [--images N] [--cuts N] [--kills N] [--seed S] [--fs ext4|xfs|all]`; the
//! last line is a JSON object, the exit code is 1 if anything was wrong. What this
//! machine lacks is skipped, with a printed reason.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a broken assumption should stop the campaign where it stands"
)]

#[cfg(target_os = "linux")]
mod check;
#[cfg(target_os = "linux")]
mod device;
#[cfg(target_os = "linux")]
mod host;
#[cfg(target_os = "linux")]
mod images;
#[cfg(target_os = "linux")]
mod kills;
#[cfg(target_os = "linux")]
mod parts;
#[cfg(target_os = "linux")]
mod store;
#[cfg(target_os = "linux")]
mod tape;
#[cfg(target_os = "linux")]
mod twin;
#[cfg(target_os = "linux")]
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug)]
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "read by the parts, which are for Linux")
)]
struct Arguments {
    images: u64,
    cuts: u64,
    kills: u64,
    seed: u64,
    fs: String,
    /// A child that works until it is killed.
    child: Option<u64>,
    /// It only opens the database.
    recover: bool,
    dir: Option<PathBuf>,
    /// Where the outer process lets the inner one work.
    inner: Option<PathBuf>,
}

fn arguments() -> Arguments {
    let mut parsed = Arguments {
        images: 2_000,
        cuts: 500,
        kills: 2_000,
        seed: 1,
        fs: "all".to_owned(),
        child: None,
        recover: false,
        dir: None,
        inner: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words
            .next()
            .unwrap_or_else(|| panic!("{word} needs a value"));
        let number = || -> u64 {
            value
                .parse()
                .unwrap_or_else(|_| panic!("{word} takes a number"))
        };
        match word.as_str() {
            "--images" => parsed.images = number(),
            "--cuts" => parsed.cuts = number(),
            "--kills" => parsed.kills = number(),
            "--seed" => parsed.seed = number(),
            "--fs" if ["ext4", "xfs", "all"].contains(&&*value) => parsed.fs = value,
            "--child" => parsed.child = Some(number()),
            "--recover" => parsed.recover = number() > 0,
            "--dir" => parsed.dir = Some(value.into()),
            "--inner" => parsed.inner = Some(value.into()),
            _ => panic!("unknown option {word} {value}"),
        }
    }
    parsed
}

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    let arguments = arguments();
    if let (Some(seed), Some(dir)) = (arguments.child, &arguments.dir) {
        kills::child(seed, dir, arguments.recover);
        return ExitCode::SUCCESS;
    }
    match &arguments.inner {
        Some(scratch) => parts::run(&arguments, scratch),
        None => parts::run_enclosed(&arguments),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    let arguments = arguments();
    println!("skipped: everything: this is not Linux");
    println!(
        "{{\"images\":0,\"cuts\":0,\"kills\":0,\"violations\":0,\"illegal_states\":0,\
         \"skipped\":[\"not Linux\"],\"seconds\":0.0,\"seed\":{}}}",
        arguments.seed
    );
    ExitCode::SUCCESS
}
