//! Files and frames that are whole, but of another database, of another place or
//! of another past of the same database.
//!
//! Checksums alone do not find these. Another past is what a restored copy or a
//! write that the device lost brings: ids and lengths are the same, rows are not.
//! Owns which swaps are tried. Must not know: what is in a frame.

use std::time::Instant;

use super::fixture::{Fixture, Plan, Tampered};

pub(super) fn hunt(seed: u64, deadline: Instant) -> Result<(), String> {
    for (closed, pread) in [(false, false), (true, true), (false, true), (true, false)] {
        let own = Plan {
            seed,
            value: 1.5,
            pread,
            closed,
            grown: true,
            extra: 0,
            dropped: false,
        };
        let fixture = Fixture::new(own);
        let other_past = Fixture::new(Plan { value: 2.5, ..own });
        let stranger = Fixture::new(Plan {
            seed: !seed,
            value: 3.5,
            extra: 3,
            ..own
        });
        for other in [&other_past, &stranger] {
            whole_files(&fixture, other)?;
        }
        two_of_a_kind(&fixture)?;
        frames(&fixture, &other_past)?;
        if !closed {
            foreign_tail(&fixture, &stranger)?;
        }
        young(own)?;
        if Instant::now() > deadline {
            break;
        }
    }
    Ok(())
}

fn tampered<'a>(what: String, name: &'a str, content: Vec<u8>) -> Tampered<'a> {
    Tampered {
        what,
        files: vec![(name, Some(content))],
        harmless: false,
        cut: false,
    }
}

/// Each file in turn is the other database's of this name.
fn whole_files(fixture: &Fixture, other: &Fixture) -> Result<(), String> {
    let theirs = other.names();
    for name in fixture.names().iter().filter(|name| theirs.contains(name)) {
        let content = other.file(name);
        if content == fixture.file(name) {
            continue;
        }
        let what = format!("{name} of {:?}", other.plan());
        fixture.judge(&tampered(what, name, content))?;
    }
    Ok(())
}

/// Two files of one kind have each other's place; and one has both places.
fn two_of_a_kind(fixture: &Fixture) -> Result<(), String> {
    let names = fixture.names();
    let kind = |name: &str| name.split('.').nth(1).map(str::to_owned);
    for a in &names {
        for b in names.iter().filter(|b| *b != a && kind(b) == kind(a)) {
            let (of_a, of_b) = (fixture.file(a), fixture.file(b));
            let one = tampered(format!("{b} in the place of {a}"), a, of_b.clone());
            fixture.judge(&one)?;
            fixture.judge(&Tampered {
                what: format!("{a} and {b} in each other's place"),
                files: vec![(a, Some(of_b)), (b, Some(of_a))],
                harmless: false,
                cut: false,
            })?;
        }
    }
    Ok(())
}

/// Where the frames of a log begin.
fn frame_starts(bytes: &[u8]) -> Vec<usize> {
    let places = (128..bytes.len()).step_by(8);
    places
        .filter(|&at| bytes[at..].starts_with(b"EFRM"))
        .collect()
}

/// Each frame in turn is the one that another past has in this place.
fn frames(fixture: &Fixture, other: &Fixture) -> Result<(), String> {
    let names = fixture.names();
    let logs = |name: &&String| name.ends_with(".log") || name.ends_with(".manifest");
    for name in names.iter().filter(logs) {
        let (own, theirs) = (fixture.file(name), other.file(name));
        let starts = frame_starts(&own);
        assert_eq!(starts, frame_starts(&theirs), "the same writes were made");
        let ends = starts.iter().copied().skip(1).chain([own.len()]);
        for (start, end) in starts.iter().copied().zip(ends) {
            let range = start..end;
            if own[range.clone()] == theirs[range.clone()] {
                continue;
            }
            let mut spliced = own.clone();
            spliced[range.clone()].copy_from_slice(&theirs[range.clone()]);
            let what = format!("the frame at {start} of {name} of another past");
            fixture.judge(&tampered(what, name, spliced))?;
        }
    }
    Ok(())
}

/// Blocks of another log behind the end, as a file system leaves them that gives
/// used blocks to a file before its data is written: a torn tail, not damage.
fn foreign_tail(fixture: &Fixture, stranger: &Fixture) -> Result<(), String> {
    let name = fixture.newest_log();
    let (mut own, theirs) = (fixture.file(&name), stranger.file(&name));
    let frames = frame_starts(&theirs);
    let behind = frames.iter().filter(|&&at| at >= own.len()).count();
    assert!(behind >= 2, "the stranger wrote more: {behind}");
    own.extend_from_slice(&theirs[own.len()..]);
    fixture.judge(&Tampered {
        what: format!("frames of another log behind the end of {name}"),
        files: vec![(&name, Some(own))],
        harmless: true,
        cut: false,
    })
}

/// A database without segments, with the manifest of one that lost a collection:
/// only the manifest's own id can tell.
fn young(own: Plan) -> Result<(), String> {
    let own = Plan {
        grown: false,
        ..own
    };
    let fixture = Fixture::new(own);
    let stranger = Fixture::new(Plan {
        seed: !own.seed,
        dropped: true,
        ..own
    });
    whole_manifest(&fixture, &stranger)
}

fn whole_manifest(fixture: &Fixture, other: &Fixture) -> Result<(), String> {
    let names = fixture.names();
    let manifests = names.iter().filter(|name| name.ends_with(".manifest"));
    for name in manifests {
        let what = format!("{name} of another database");
        fixture.judge(&tampered(what, name, other.file(name)))?;
    }
    Ok(())
}
