//! The error table: what each failing call must lead to.
//!
//! Owns the design's table on I/O errors as data: a call is put into a [`Role`] by its
//! kind, its file and what came before it, and a rule says for each kind of call, role
//! and phase whether the error is swallowed, answered, or poisons, and what its
//! text names. Invariant: a call without a rule is a fault of the sweep, so no site
//! goes unjudged. Must not know: how the engine comes to its answer.

use std::path::{Path, PathBuf};

use crate::sim::{Call, CallKind, CallOutcome};

/// What the host was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Open,
    /// A write, or a sync that the host asks for.
    Write,
    Flush,
    Compact,
    /// A step of background work.
    Background,
    /// Making or dropping a collection.
    Collection,
    Read,
    Verify,
    Close,
}

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The database's directory and its parent, and who may use them.
    Directory,
    /// Room for an output.
    Headroom,
    /// Room for the zeros of a log file that is prepared ahead.
    RoomForZeros,
    /// A file that nothing needs any more.
    Garbage,
    /// `CURRENT` as it is.
    Current,
    /// The `CURRENT` to be, before it is renamed.
    NextCurrent,
    /// `CURRENT` changing, and its name becoming durable.
    Switch,
    /// The log file that an open begins with.
    FirstLog,
    /// The next log file, until it has a header.
    NextLog,
    /// The header of the next log file.
    NextLogHeader,
    /// Frames of the log, and their sync.
    Frames,
    /// A log file of the process before.
    OldLog,
    /// A manifest that `CURRENT` does not name yet.
    FreshManifest,
    /// The manifest in use.
    Manifest,
    /// A segment or deletion vectors that nothing names yet.
    Output,
    /// The same, under its final name, being read back.
    ReadBack,
    /// A segment or deletion vectors in use.
    Named,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody hears of it; the operation succeeds.
    Swallowed,
    /// `Io`, and nothing else changes.
    Answered,
    /// `Poisoned`, with the text of the `Io` as its cause.
    Poisons,
}

/// A call, judged.
#[derive(Clone, Debug)]
pub struct Judged {
    pub role: Role,
    pub verdict: Verdict,
    /// What the error says was being done.
    pub doing: &'static str,
    /// The file that it names.
    pub file: PathBuf,
}

struct Rule(
    &'static [CallKind],
    Role,
    &'static [Phase],
    Verdict,
    &'static str,
);

const ANY: &[Phase] = &[
    Phase::Open,
    Phase::Write,
    Phase::Flush,
    Phase::Compact,
    Phase::Background,
    Phase::Collection,
    Phase::Read,
    Phase::Verify,
    Phase::Close,
];
const OPEN: &[Phase] = &[Phase::Open];
const CLOSE: &[Phase] = &[Phase::Close];
/// Where segments are made.
const BUILD: &[Phase] = &[Phase::Flush, Phase::Compact, Phase::Background];
/// Where edits of the manifest are made, an open and a close aside.
const EDIT: &[Phase] = &[
    Phase::Flush,
    Phase::Compact,
    Phase::Background,
    Phase::Collection,
];
const LOOK: &[Phase] = &[
    Phase::Read,
    Phase::Verify,
    Phase::Flush,
    Phase::Compact,
    Phase::Background,
];

/// The first rule that fits holds.
#[rustfmt::skip]
const TABLE: &[Rule] = {
    use CallKind::{Create, CreateDir, Len, List, Lock, Map, Open, Read, Remove, Rename, Space, Sync, SyncDir, Write};
    use Verdict::{Answered, Poisons, Swallowed};
    &[
        // An open that fails leaves no handle that could be poisoned.
        Rule(&[List], Role::Directory, &[Phase::Open, Phase::Verify], Answered, "listing"),
        Rule(&[CreateDir], Role::Directory, OPEN, Answered, "creating"),
        Rule(&[SyncDir], Role::Directory, OPEN, Answered, "syncing"),
        Rule(&[Lock], Role::Directory, OPEN, Answered, "locking"),
        Rule(&[Open], Role::OldLog, &[Phase::Open, Phase::Verify], Answered, "opening"),
        Rule(&[Len, Read], Role::OldLog, &[Phase::Open, Phase::Verify], Answered, "reading"),
        Rule(&[Create, Write, Sync], Role::FirstLog, OPEN, Answered, "creating"),
        Rule(&[Sync], Role::Frames, OPEN, Answered, "syncing"),
        Rule(&[Rename, SyncDir], Role::Switch, OPEN, Answered, "replacing"),
        // Reads.
        Rule(&[Open], Role::Current, &[Phase::Open, Phase::Verify], Answered, "opening"),
        Rule(&[Read], Role::Current, &[Phase::Open, Phase::Verify], Answered, "reading"),
        Rule(&[Open], Role::Manifest, &[Phase::Open, Phase::Verify], Answered, "opening"),
        Rule(&[Len, Read], Role::Manifest, &[Phase::Open, Phase::Verify], Answered, "reading"),
        Rule(&[Open], Role::Named, &[Phase::Open, Phase::Verify], Answered, "opening"),
        Rule(&[Map], Role::Named, OPEN, Answered, "mapping"),
        Rule(&[Len, Read], Role::Named, OPEN, Answered, "reading"),
        Rule(&[Len, Read], Role::Named, LOOK, Answered, "reading"),
        // Log append: `Io`; the file is abandoned, the next group starts a new one.
        Rule(&[Write], Role::Frames, &[Phase::Open, Phase::Write], Answered, "writing"),
        // The next log file: an output that nothing names. Ahead of need it is a favour.
        Rule(&[Create, SyncDir], Role::NextLog, &[Phase::Background], Swallowed, ""),
        Rule(&[Write, Sync], Role::NextLog, &[Phase::Background], Swallowed, ""),
        Rule(&[Space], Role::RoomForZeros, &[Phase::Background], Swallowed, ""),
        Rule(&[Create, SyncDir], Role::NextLog, &[Phase::Open, Phase::Write], Answered, "preparing"),
        Rule(&[Write, Sync], Role::NextLogHeader, &[Phase::Open, Phase::Write], Answered, "beginning"),
        // Other outputs that nothing names.
        Rule(&[Space], Role::Headroom, BUILD, Answered, "measuring free space of"),
        Rule(&[Create], Role::Output, BUILD, Answered, "creating"),
        Rule(&[Write], Role::Output, BUILD, Answered, "writing"),
        Rule(&[Sync], Role::Output, BUILD, Answered, "syncing"),
        Rule(&[Rename], Role::Output, BUILD, Answered, "renaming"),
        Rule(&[SyncDir], Role::Output, BUILD, Answered, "syncing"),
        Rule(&[Open], Role::ReadBack, BUILD, Answered, "opening"),
        Rule(&[Map], Role::ReadBack, BUILD, Answered, "mapping"),
        Rule(&[Len, Read], Role::ReadBack, BUILD, Answered, "reading"),
        Rule(&[Create, Write, Sync, SyncDir], Role::FreshManifest, ANY, Answered, "writing"),
        Rule(&[Remove, Create, Write, Sync], Role::NextCurrent, ANY, Answered, "writing"),
        // Manifest append, before its sync: a fresh manifest takes the edit.
        Rule(&[Write], Role::Manifest, EDIT, Swallowed, ""),
        Rule(&[Write], Role::Manifest, CLOSE, Swallowed, ""),
        // Outcomes that are unknown.
        Rule(&[Sync], Role::Frames, ANY, Poisons, "syncing"),
        Rule(&[Sync], Role::Manifest, ANY, Poisons, "syncing"),
        Rule(&[Rename, SyncDir], Role::Switch, EDIT, Poisons, "replacing"),
        // The handle is closed, whatever comes of its seal.
        Rule(&[Rename, SyncDir], Role::Switch, CLOSE, Answered, "replacing"),
        Rule(&[Remove], Role::Garbage, ANY, Swallowed, ""),
    ]
};

/// Judges the call at `at` of a log of calls. `began` is the number of the last call
/// before the operation.
pub fn judge(log: &[Call], at: usize, phase: Phase, began: u64) -> Result<Judged, String> {
    let call = &log[at];
    let (role, file) = role(log, at, phase, began);
    let rule = TABLE.iter().find(|Rule(kinds, of, phases, ..)| {
        kinds.contains(&call.kind) && *of == role && phases.contains(&phase)
    });
    let Some(Rule(_, _, _, verdict, doing)) = rule else {
        return Err(format!(
            "the table has no rule for {call} as {role:?} in {phase:?}"
        ));
    };
    Ok(Judged {
        role,
        verdict: *verdict,
        doing,
        file,
    })
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or("")
}

fn is(path: &Path, end: &str) -> bool {
    name(path).ends_with(end)
}

/// What the call is for, and the file that an error of it names.
fn role(log: &[Call], at: usize, phase: Phase, began: u64) -> (Role, PathBuf) {
    let call = &log[at];
    let path = &call.path;
    let itself = |role| (role, path.clone());
    match call.kind {
        CallKind::List | CallKind::CreateDir | CallKind::Lock => itself(Role::Directory),
        CallKind::Space if is_before_a_log(log, at) => itself(Role::RoomForZeros),
        CallKind::Space => itself(Role::Headroom),
        CallKind::SyncDir => directory(log, at, phase, began),
        CallKind::Rename => {
            let to = call.to.clone().unwrap_or_default();
            let switch = name(&to) == "CURRENT";
            (if switch { Role::Switch } else { Role::Output }, to)
        }
        CallKind::Remove if name(path) != "CURRENT.tmp" => itself(Role::Garbage),
        _ if name(path) == "CURRENT.tmp" => itself(Role::NextCurrent),
        _ if name(path) == "CURRENT" => itself(Role::Current),
        _ if is(path, ".log") => itself(log_role(log, at, phase, began)),
        _ if is(path, ".manifest") => itself(manifest_role(log, at)),
        _ if is(path, ".tmp") => itself(Role::Output),
        _ => itself(output_role(log, at)),
    }
}

/// Free space is asked for just before a log file is prepared, or before a merge.
fn is_before_a_log(log: &[Call], at: usize) -> bool {
    let next = log.get(at + 1);
    next.is_some_and(|next| next.kind == CallKind::Create && is(&next.path, ".log"))
}

/// What a directory is synced for: the last thing that was done in it.
fn directory(log: &[Call], at: usize, phase: Phase, began: u64) -> (Role, PathBuf) {
    let dir = &log[at].path;
    let inside = |call: &&Call| {
        call.number > began
            && call.kind.is_effect()
            && call.kind != CallKind::Remove
            && call.path.parent() == Some(dir)
            && !matches!(call.kind, CallKind::Lock | CallKind::CreateDir)
    };
    let Some(last) = log[..at].iter().rfind(inside) else {
        return (Role::Directory, dir.clone());
    };
    match &last.to {
        Some(to) if name(to) == "CURRENT" => (Role::Switch, to.clone()),
        Some(_) => (Role::Output, dir.clone()),
        None if is(&last.path, ".manifest") => (Role::FreshManifest, last.path.clone()),
        None if is(&last.path, ".log") => (log_role(log, at, phase, began), last.path.clone()),
        None => (Role::Directory, dir.clone()),
    }
}

/// Log files: which part of their life a call belongs to.
fn log_role(log: &[Call], at: usize, phase: Phase, began: u64) -> Role {
    let call = &log[at];
    let before = || log[..at].iter().filter(|c| c.path == call.path);
    match call.kind {
        CallKind::SyncDir => return Role::NextLog,
        CallKind::Open | CallKind::Len | CallKind::Read => return Role::OldLog,
        _ => {}
    }
    let mut of_open = log[..=at].iter().filter(|c| c.number > began);
    let first = of_open.find(|c| c.kind == CallKind::Create && is(&c.path, ".log"));
    let begins = |c: &Call| c.kind == CallKind::Write && c.offset == 0 && c.len == HEADER_LEN;
    let frames = |c: &Call| c.kind == CallKind::Write && c.offset >= HEADER_LEN;
    // A log of calls that does not reach back so far begins with frames.
    let forgotten = call.kind != CallKind::Create && !before().any(|c| c.kind == CallKind::Create);
    let begun = forgotten || before().any(begins);
    let has_frames = forgotten || before().skip_while(|c| !begins(c)).any(frames);
    let beginning = !begun && begins(call) || begun && call.kind == CallKind::Sync && !has_frames;
    if phase == Phase::Open && first.is_some_and(|c| c.path == call.path) && (!begun || beginning) {
        Role::FirstLog
    } else if beginning {
        Role::NextLogHeader
    } else if begun {
        Role::Frames
    } else {
        Role::NextLog
    }
}

const HEADER_LEN: u64 = esker_wal::HEADER_LEN as u64;

fn is_done(call: &Call) -> bool {
    call.outcome == Some(CallOutcome::Done)
}

/// A manifest is in use once `CURRENT` was replaced after it was made.
fn manifest_role(log: &[Call], at: usize) -> Role {
    let path = &log[at].path;
    let made = log[..at]
        .iter()
        .rposition(|c| c.kind == CallKind::Create && c.path == *path);
    let switched = |c: &Call| is_done(c) && c.to.as_deref().is_some_and(|to| name(to) == "CURRENT");
    match made {
        None if log[at].kind == CallKind::Create => Role::FreshManifest,
        Some(made) if !log[made..at].iter().any(switched) => Role::FreshManifest,
        _ => Role::Manifest,
    }
}

/// An output is in use once an edit was made durable after its rename.
fn output_role(log: &[Call], at: usize) -> Role {
    let path = &log[at].path;
    let renamed = log[..at].iter().rposition(|c| c.to.as_ref() == Some(path));
    let committed = |c: &Call| {
        let edit = c.kind == CallKind::Sync && is(&c.path, ".manifest");
        let switch = c.to.as_deref().is_some_and(|to| name(to) == "CURRENT");
        is_done(c) && (edit || switch)
    };
    match renamed {
        Some(renamed) if !log[renamed..at].iter().any(committed) => Role::ReadBack,
        _ => Role::Named,
    }
}

/// Whether a call wrote frames that a crash might reveal.
pub fn wrote_frames(log: &[Call], at: usize, phase: Phase, began: u64) -> bool {
    log[at].kind == CallKind::Write
        && is(&log[at].path, ".log")
        && log_role(log, at, phase, began) == Role::Frames
}
