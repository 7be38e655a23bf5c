//! The parts in their order, what is skipped, and the summary.
//!
//! Owns the enclosure: everything that is mounted is mounted in a namespace of its
//! own, which ends with the process, however that ends; what is left of loop devices
//! then, the outer process lets go. Must not know: how a part works.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use crate::Arguments;
use crate::check::Findings;
use crate::host::{self, Kind};
use crate::images::{Bench, cuts, images};
use crate::kills;

/// Runs the parts in a process with mounts of its own, and tidies up after it.
pub(crate) fn run_enclosed(arguments: &Arguments) -> ExitCode {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(scratch.path().join(host::LOOPS)).expect("a directory");
    if host::no_devices().is_some() || !host::encloses() {
        return run(arguments, scratch.path());
    }
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().expect("own path"))
        .args(std::env::args_os().skip(1))
        .arg("--inner")
        .arg(scratch.path())
        .status();
    let left = std::fs::read_dir(scratch.path().join(host::LOOPS)).expect("listed");
    for entry in left.map_while(Result::ok) {
        let device = std::fs::read_to_string(entry.path()).unwrap_or_default();
        println!("letting {device} go");
        if let Err(error) = host::output("losetup", &["-d", &device]) {
            println!("left behind: {error}");
        }
    }
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) if status.code() == Some(1) => ExitCode::FAILURE,
        other => {
            println!("the campaign did not end by itself: {other:?}");
            ExitCode::FAILURE
        }
    }
}

/// Runs every part that this machine allows.
pub(crate) fn run(arguments: &Arguments, scratch: &Path) -> ExitCode {
    let started = Instant::now();
    let mut findings = Findings::default();
    println!("seed {}", arguments.seed);
    if arguments.images + arguments.cuts > 0 {
        on_devices(arguments, scratch, &mut findings);
    }
    if arguments.kills > 0 {
        match host::no_strace() {
            Some(reason) => skip(&mut findings, format!("kills: {reason}")),
            None => match host::in_memory() {
                Ok(dir) => kills::kills(arguments.seed, arguments.kills, dir.path(), &mut findings),
                Err(error) => findings.violation("kills", &error),
            },
        }
    }
    let seen = &findings.survivors;
    println!(
        "unsynced sectors: {} old, {} new, {} between, {} zero, {} other; {} kills were in \
         recoveries, {} torn tails, {} unsynced writes lost",
        seen.old,
        seen.new,
        seen.between,
        seen.zero,
        seen.other,
        findings.kills_in_recovery,
        findings.torn_tails,
        findings.lost
    );
    summary(&findings, arguments.seed, started.elapsed().as_secs_f64());
    // A torn superblock may keep an image from being mounted; many such test nothing.
    let mounted = findings.unmountable * 20 <= findings.images + findings.cuts;
    if mounted && findings.violations + findings.illegal_states == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn skip(findings: &mut Findings, reason: String) {
    println!("skipped: {reason}");
    findings.skipped.push(reason);
}

fn on_devices(arguments: &Arguments, scratch: &Path, findings: &mut Findings) {
    if let Some(reason) = host::no_devices() {
        return skip(findings, format!("images and cuts: {reason}"));
    }
    let kinds: Vec<Kind> = [Kind::Ext4, Kind::Xfs]
        .into_iter()
        .filter(|kind| arguments.fs == "all" || arguments.fs == kind.name())
        .collect();
    let (missing, kinds): (Vec<Kind>, Vec<Kind>) =
        kinds.into_iter().partition(|kind| kind.missing().is_some());
    for reason in missing.into_iter().filter_map(Kind::missing) {
        skip(findings, format!("images and cuts: {reason}"));
    }
    for (i, &kind) in kinds.iter().enumerate() {
        let bench = match Bench::new(kind, scratch) {
            Ok(bench) => bench,
            // A container may have the device nodes and forbid their use.
            Err(error) => {
                let reason = format!("images and cuts: {}: {error}", kind.name());
                skip(findings, reason);
                continue;
            }
        };
        // The first file system takes what does not divide.
        let share = |n: u64| {
            let each = n / kinds.len() as u64;
            each + if i == 0 { n % kinds.len() as u64 } else { 0 }
        };
        images(&bench, arguments.seed, share(arguments.images), findings);
        cuts(&bench, arguments.seed, share(arguments.cuts), findings);
    }
}

fn summary(findings: &Findings, seed: u64, seconds: f64) {
    let summary = serde_json::json!({
        "images": findings.images,
        "cuts": findings.cuts,
        "kills": findings.kills,
        "violations": findings.violations,
        "illegal_states": findings.illegal_states,
        "unmountable": findings.unmountable,
        "skipped": findings.skipped,
        "seconds": (seconds * 10.0).round() / 10.0,
        "seed": seed,
    });
    println!("{summary}");
}
