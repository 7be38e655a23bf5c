//! SIGKILL at each system call of a workload that changes anything.
//!
//! Owns finding the calls, and the child. A first run under `strace` lists them; then
//! one child for each is killed as it enters the call, which therefore does not
//! happen. Must not know: power cuts; the kernel lives on.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use esker_tests::child::{Talker, say};
use esker_tests::oracle::Loss;
use esker_tests::rng::Rng;

use crate::check::{Findings, recovered};
use crate::host::text;
use crate::work::{Op, Session, ops, options, oracle};

/// Calls that change files or names, or begin to use them. Not every architecture
/// has each: `?` tells strace so.
const CALLS: &str = "?pwrite64,?fdatasync,?fsync,?rename,?renameat,?renameat2,?unlink,\
                     ?unlinkat,?mkdir,?mkdirat,?openat,?flock,?ftruncate";
/// Calls at which a recovery is killed: no process makes them before it.
const IN_RECOVERY: [&str; 4] = ["pwrite64", "fdatasync", "fsync", "flock"];

/// Files that do not exist: opening them marks where the workload begins and ends.
const BEGIN: &str = "/esker-workload-begins";
const END: &str = "/esker-workload-ends";

const SIGKILL: i32 = 9;

/// The child: works, saying after each operation how many there were.
pub(crate) fn child(seed: u64, dir: &Path, recover: bool) {
    let mut session = Session::new(dir.to_owned(), options(seed));
    if recover {
        session.perform(&Op::Open).expect("opens after a kill");
        return;
    }
    drop(std::fs::File::open(BEGIN));
    for (i, op) in ops(seed).iter().enumerate() {
        session.perform(op).expect("acknowledged");
        say(i as u64 + 1).expect("the parent listens");
    }
    drop(session);
    drop(std::fs::File::open(END));
}

fn command(words: &[&str], seed: u64, dir: &Path, recover: bool) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq"]).args(words);
    command.arg(std::env::current_exe().expect("own path"));
    command.args(["--child", &seed.to_string(), "--dir", text(dir)]);
    if recover {
        command.args(["--recover", "1"]);
    }
    command
}

/// A call, and which one of its name.
type Site = (String, usize);

/// Every call of a workload, in order, as a first run lists them.
fn sites(seed: u64, scratch: &Path) -> Result<Vec<Site>, String> {
    let (dir, list) = (scratch.join("listed"), scratch.join("list"));
    let trace = format!("trace={CALLS}");
    let mut command = command(&["-o", text(&list), "-e", &trace], seed, &dir, false);
    let started = Talker::spawn(&mut command).map_err(|error| error.to_string())?;
    let (status, said) = started.wait().map_err(|error| error.to_string())?;
    if !status.success() || said != ops(seed).len() as u64 {
        return Err(format!("workload {seed} ends after {said}: {status}"));
    }
    std::fs::remove_dir_all(&dir).map_err(|error| error.to_string())?;
    let list = std::fs::read_to_string(&list).map_err(|error| error.to_string())?;
    parse(&list)
}

/// Lines are `PID NAME(ARGUMENTS...`; the first process's main thread does it all.
fn parse(list: &str) -> Result<Vec<Site>, String> {
    let (mut counts, mut found, mut inside) = (HashMap::new(), Vec::new(), false);
    let main = list.split_whitespace().next().unwrap_or_default();
    for line in list.lines() {
        let Some((thread, call)) = line.split_once(char::is_whitespace) else {
            continue;
        };
        let Some((name, _)) = call.trim_start().split_once('(') else {
            continue;
        };
        if thread != main {
            continue;
        }
        let count: &mut usize = counts.entry(name.to_owned()).or_default();
        *count += 1;
        if line.contains(END) {
            return Ok(found);
        }
        if inside {
            found.push((name.to_owned(), *count));
        }
        inside |= line.contains(BEGIN);
    }
    Err("strace listed no workload".to_owned())
}

/// Kills one child at each call of one workload after the other.
pub(crate) fn kills(seed: u64, count: u64, scratch: &Path, findings: &mut Findings) {
    let mut workload = 0;
    let before = findings.kills;
    while findings.kills - before < count {
        let seed = Rng::part(seed, 2_000_000 + workload).draw() >> 16;
        workload += 1;
        let sites = match sites(seed, scratch) {
            Ok(sites) if !sites.is_empty() => sites,
            Ok(_) => return findings.violation("kills", "a workload without calls"),
            Err(error) => return findings.violation("kills", &error),
        };
        let left = (count - (findings.kills - before)) as usize;
        // The rest of a workload that is too long is spread over it.
        let stride = sites.len().div_ceil(left).max(1);
        for (i, site) in sites.iter().step_by(stride).enumerate() {
            let context = format!("workload {seed}, kill at {} {}", site.0, site.1);
            if let Err(error) = kill_at(site, seed, i, scratch, findings) {
                findings.violation(&context, &error);
            }
            if findings.kills - before >= count {
                break;
            }
        }
        println!("{} of {count} kills", findings.kills - before);
    }
}

/// Runs a child that is killed; whether it was, and what it had said.
fn run(site: &Site, seed: u64, dir: &Path, recover: bool) -> Result<(bool, u64), String> {
    let (name, when) = site;
    let trace = format!("trace={name}");
    let inject = format!("inject={name}:signal=KILL:when={when}");
    let words = ["-o", "/dev/null", "-e", &trace, "-e", &inject];
    let mut command = command(&words, seed, dir, recover);
    let started = Talker::spawn(&mut command).map_err(|error| error.to_string())?;
    let (status, said) = started.wait().map_err(|error| error.to_string())?;
    // strace ends as its child did.
    let killed = status.signal() == Some(SIGKILL);
    if !killed && !status.success() {
        return Err(format!("the child failed: {status}"));
    }
    Ok((killed, said))
}

fn kill_at(
    site: &Site,
    seed: u64,
    n: usize,
    scratch: &Path,
    findings: &mut Findings,
) -> Result<(), String> {
    let dir = scratch.join("killed");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).map_err(|error| error.to_string())?;
    }
    let (killed, said) = run(site, seed, &dir, false)?;
    findings.kills += u64::from(killed);
    // Every fourth recovery is killed, too, once or twice.
    let mut rng = Rng::part(seed, n as u64);
    while n.is_multiple_of(4) && rng.chance(2, 3) {
        let name = IN_RECOVERY[rng.below(IN_RECOVERY.len() as u64) as usize];
        let site = (name.to_owned(), 1 + rng.below(6) as usize);
        let (killed, _) = run(&site, seed, &dir, true)?;
        findings.kills += u64::from(killed);
        findings.kills_in_recovery += u64::from(killed);
    }
    let ops = ops(seed);
    let mut oracle = oracle(&ops, said as usize, said as usize + 1);
    recovered(&dir, options(seed), &mut oracle, Loss::Process, findings)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn calls_are_counted_from_the_start_and_listed_from_the_mark() {
        let list = "7  openat(AT_FDCWD, \"/lib\") = 3\n\
                    7  openat(AT_FDCWD, \"/esker-workload-begins\") = -1\n\
                    7  openat(AT_FDCWD, \"/x\") = 3\n8  fsync(4) = 0\n\
                    7  fsync(3) = 0\n7  openat(AT_FDCWD, \"/esker-workload-ends\") = -1\n";
        let found = parse(list).unwrap();
        assert_eq!(found, [("openat".to_owned(), 3), ("fsync".to_owned(), 1)]);
        assert!(parse("7 openat(AT_FDCWD, \"/lib\") = 3\n").is_err());
    }
}
