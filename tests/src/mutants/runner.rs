//! One child process for each mutant, two at a time, against the clock.
//!
//! Owns the children. Invariant: a mutant counts as killed only if a hunter says
//! what it saw; a child that hangs or dies without a word is named as such.
//! Must not know: hunters.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::hunter::{FOUND, Hunter};
use super::list::{CONTROL, MUTANTS, Mutant};

/// The flag of a child.
pub(super) const HUNT: &str = "--hunt";

/// Children at a time.
const AT_ONCE: usize = 2;

/// What became of a mutant.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub mutant: Mutant,
    pub killed: bool,
    /// The hunter that found it, or how the child ended without a finding.
    pub by: String,
    /// A violation, or a panic.
    pub kind: String,
    /// The first line of what was seen.
    pub seen: String,
    pub seconds: f64,
}

/// Whether this build can leave steps out at all.
#[must_use]
pub const fn is_mutant_build() -> bool {
    cfg!(esker_mutants)
}

/// A child to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) mutant: Mutant,
    pub(super) time: Duration,
    /// The only hunter, or all of them.
    pub(super) only: Option<Hunter>,
}

/// Hunts every mutant in a child process of its own: the running program, which must
/// hand its words to [`super::command()`].
#[must_use]
pub fn hunt_all(seed: u64, per_mutant: Duration) -> Vec<Verdict> {
    let task = |mutant: &Mutant| Task {
        mutant: *mutant,
        time: per_mutant,
        only: None,
    };
    let tasks: Vec<_> = MUTANTS.iter().map(task).collect();
    hunt_each(&tasks, seed, &|_| {})
}

/// Runs the tasks, with a word on each as it is done; the verdicts are in their order.
pub(super) fn hunt_each(
    tasks: &[Task],
    seed: u64,
    done: &(dyn Fn(&Verdict) + Sync),
) -> Vec<Verdict> {
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(task) = tasks.get(at) else { break };
                    let verdict = hunt_one(task, seed);
                    done(&verdict);
                    verdicts.lock().unwrap().push((at, verdict));
                }
            });
        }
    });
    let mut verdicts = verdicts.into_inner().unwrap();
    verdicts.sort_by_key(|(at, _)| *at);
    verdicts.into_iter().map(|(_, verdict)| verdict).collect()
}

/// Children in which nothing is left out: each hunter that found something, with the
/// same seed and more time than it ever took. What they find was found falsely.
pub(super) fn controls(verdicts: &[Verdict]) -> Vec<Task> {
    let control = |&hunter: &Hunter| {
        let found = verdicts.iter().filter(|v| v.by == hunter.name());
        let slowest = found.map(|v| v.seconds).reduce(f64::max)?;
        Some(Task {
            mutant: CONTROL,
            time: Duration::from_secs_f64(2.0 * slowest + 4.0),
            only: Some(hunter),
        })
    };
    Hunter::ALL.iter().filter_map(control).collect()
}

fn hunt_one(task: &Task, seed: u64) -> Verdict {
    let Task { mutant, time, only } = *task;
    let start = Instant::now();
    let program = std::env::current_exe().expect("the program knows itself");
    let mut child = Command::new(program)
        .args([HUNT, mutant.name, &seed.to_string()])
        .arg(time.as_secs().to_string())
        .args(only.map(Hunter::name))
        .env("ESKER_MUTANT", mutant.name)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts itself");
    // One that ends by itself may be a little late.
    let time = time + Duration::from_secs(2).min(time / 10);
    let ended = wait(&mut child, start + time);
    let mut output = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        // What a killed child wrote last may be half a line.
        let _ = stdout.read_to_string(&mut output);
    }
    let found = output.lines().find_map(|line| line.strip_prefix(FOUND));
    let mut parts = found.unwrap_or_default().splitn(3, '\t').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    let (kind, by, seen) = (part(), part(), part());
    let (by, kind) = match (found, ended) {
        (Some(_), _) => (by, kind),
        (None, None) => ("nobody: out of time".to_owned(), "hang".to_owned()),
        (None, Some(0)) => ("nobody".to_owned(), "survived".to_owned()),
        (None, Some(code)) => (format!("nobody: exit {code}"), "died".to_owned()),
    };
    Verdict {
        mutant,
        killed: found.is_some(),
        by,
        kind,
        seen,
        seconds: start.elapsed().as_secs_f64(),
    }
}

/// The child's exit code; `None` if it had to be ended.
fn wait(child: &mut Child, deadline: Instant) -> Option<i32> {
    loop {
        if let Some(status) = child.try_wait().expect("a child can be asked") {
            return Some(status.code().unwrap_or(-1));
        }
        if Instant::now() > deadline {
            // It may end by itself at this very moment.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The verdicts as a table of the documentation.
#[must_use]
pub fn table(verdicts: &[Verdict]) -> String {
    let mut text = String::from("| mutant | removes | killed by | seconds |\n|---|---|---|---|\n");
    for v in verdicts {
        let panic = if v.kind == "panic" { " (panic)" } else { "" };
        let line = format!(
            "| `{}` | {} | {}{panic} | {:.1} |\n",
            v.mutant.name, v.mutant.removes, v.by, v.seconds
        );
        text.push_str(&line);
    }
    text
}
