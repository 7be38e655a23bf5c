//! Cases as lines of text, for people and for tests.
//!
//! Owns both directions: what [`print`] writes, [`parse`] reads back. One line an
//! operation, `;` between the parts of one. Must not know: crashes.

use std::fmt::Write as _;
use std::str::SplitWhitespace;

use esker::Durability;

use crate::run::{
    BulkSpec, Case, ChangeSpec, Crossing, How, Inside, Op, PERIOD, Place, Settings, WriteSpec,
};

/// The lines of a case whose operations are those of a campaign.
#[must_use]
pub fn print(case: &Case) -> String {
    let mut text = format!("seed {}\n", case.seed);
    for settings in &case.settings {
        let _ = writeln!(text, "{}", print_settings(settings));
    }
    for op in &case.ops {
        let _ = writeln!(text, "{}", print_op(op));
    }
    text
}

fn print_settings(settings: &Settings) -> String {
    let flag = |on, name| if on { name } else { "" };
    format!(
        "settings {} {} {} {} {}{}{}{}",
        settings.memtable_bytes,
        settings.memory_budget,
        settings.log_file_bytes,
        settings.max_log_files,
        settings.merge_width,
        flag(settings.pread, " pread"),
        flag(settings.auto_compact, " auto_compact"),
        flag(settings.graph, " graph"),
    )
}

fn print_op(op: &Op) -> String {
    match op {
        Op::Write(spec) => print_write(spec),
        Op::Submit(specs) => {
            let specs: Vec<_> = specs.iter().map(print_write).collect();
            format!("submit ; {}", specs.join(" ; "))
        }
        Op::Bulk(bulk) => format!(
            "bulk {} {} {} {} {}",
            print_durability(bulk.durability),
            bulk.collection,
            bulk.first,
            bulk.rows,
            bulk.seed.map_or("-".to_owned(), |seed| seed.to_string()),
        ),
        Op::Sync => "sync".to_owned(),
        Op::Flush => "flush".to_owned(),
        Op::Compact => "compact".to_owned(),
        Op::Steps(n) => format!("steps {n}"),
        Op::Idle { millis } => format!("idle {millis}"),
        Op::Snapshot => "snapshot".to_owned(),
        Op::Release => "release".to_owned(),
        Op::Pause => "pause".to_owned(),
        Op::DropCollection(n) => format!("drop {n}"),
        Op::Cross(crossing) => print_crossing(crossing),
        Op::Verify => "verify".to_owned(),
        Op::Reopen => "reopen".to_owned(),
        Op::Entangle(_) | Op::Crash(_) | Op::Fail(_) => panic!("not of a campaign: {op:?}"),
    }
}

fn print_crossing(crossing: &Crossing) -> String {
    let place = match crossing.place {
        Place::SegmentCreate => "segment-create",
        Place::SegmentWrite => "segment-write",
        Place::SegmentSync => "segment-sync",
        Place::LogSync => "log-sync",
    };
    let inner: Vec<_> = crossing
        .inner
        .iter()
        .map(|inside| match inside {
            Inside::Flush => "flush".to_owned(),
            Inside::EndMerges { paused: false } => "end-merges".to_owned(),
            Inside::EndMerges { paused: true } => "pause-and-end-merges".to_owned(),
            Inside::Merge => "merge".to_owned(),
            Inside::Write(spec) => print_write(spec),
        })
        .collect();
    format!(
        "cross {place} {} ; {}",
        print_op(&crossing.outer),
        inner.join(" ; ")
    )
}

fn print_write(spec: &WriteSpec) -> String {
    let how = match spec.how {
        How::Write => "write",
        How::Try => "try",
        How::Submit => "queue",
    };
    let mut text = format!("{how} {}", print_durability(spec.durability));
    for change in &spec.changes {
        let _ = write!(text, " {}:{}", change.collection, change.key);
        match (change.value, change.payload) {
            (None, _) => text.push('-'),
            (Some(value), None) => {
                let _ = write!(text, "={value}");
            }
            (Some(value), Some(len)) => {
                let _ = write!(text, "={value}+{len}");
            }
        }
    }
    text
}

fn print_durability(durability: Durability) -> &'static str {
    match durability {
        Durability::Sync => "sync",
        Durability::Periodic(_) => "periodic",
        _ => "os",
    }
}

/// Reads a line of a case into it; `None` for anything else.
pub fn parse(line: &str, case: &mut Case) -> Option<()> {
    let mut words = line.split_whitespace();
    match words.clone().next()? {
        "seed" => case.seed = words.nth(1)?.parse().ok()?,
        "settings" => {
            words.next();
            case.settings.push(parse_settings(words)?);
        }
        _ => case.ops.push(parse_op(line)?),
    }
    Some(())
}

fn parse_settings(mut words: SplitWhitespace<'_>) -> Option<Settings> {
    let mut number = || words.next()?.parse::<u64>().ok();
    let mut settings = Settings {
        memtable_bytes: number()? as usize,
        memory_budget: number()? as usize,
        log_file_bytes: number()?,
        max_log_files: number()?,
        merge_width: number()? as usize,
        pread: false,
        auto_compact: false,
        graph: false,
    };
    for word in words {
        match word {
            "pread" => settings.pread = true,
            "auto_compact" => settings.auto_compact = true,
            "graph" => settings.graph = true,
            _ => return None,
        }
    }
    Some(settings)
}

fn parse_op(line: &str) -> Option<Op> {
    let (first, rest) = line.split_once(';').unwrap_or((line, ""));
    let parts = || {
        rest.split(';')
            .map(str::trim)
            .filter(|part| !part.is_empty())
    };
    let mut words = first.split_whitespace();
    let op = match words.next()? {
        "submit" => Op::Submit(parts().map(parse_write).collect::<Option<_>>()?),
        "bulk" => Op::Bulk(BulkSpec {
            durability: parse_durability(words.next()?)?,
            collection: words.next()?.parse().ok()?,
            first: words.next()?.parse().ok()?,
            rows: words.next()?.parse().ok()?,
            seed: match words.next()? {
                "-" => None,
                seed => Some(seed.parse().ok()?),
            },
        }),
        "sync" => Op::Sync,
        "flush" => Op::Flush,
        "compact" => Op::Compact,
        "steps" => Op::Steps(words.next()?.parse().ok()?),
        "idle" => Op::Idle {
            millis: words.next()?.parse().ok()?,
        },
        "snapshot" => Op::Snapshot,
        "release" => Op::Release,
        "pause" => Op::Pause,
        "drop" => Op::DropCollection(words.next()?.parse().ok()?),
        "verify" => Op::Verify,
        "reopen" => Op::Reopen,
        "cross" => {
            let place = match words.next()? {
                "segment-create" => Place::SegmentCreate,
                "segment-write" => Place::SegmentWrite,
                "segment-sync" => Place::SegmentSync,
                "log-sync" => Place::LogSync,
                _ => return None,
            };
            let outer: Vec<_> = words.collect();
            let inside = |part: &str| match part {
                "flush" => Some(Inside::Flush),
                "end-merges" => Some(Inside::EndMerges { paused: false }),
                "pause-and-end-merges" => Some(Inside::EndMerges { paused: true }),
                "merge" => Some(Inside::Merge),
                write => Some(Inside::Write(parse_write(write)?)),
            };
            Op::Cross(Crossing {
                place,
                outer: Box::new(parse_op(&outer.join(" "))?),
                inner: parts().map(inside).collect::<Option<_>>()?,
            })
        }
        _ => Op::Write(parse_write(first)?),
    };
    Some(op)
}

fn parse_write(text: &str) -> Option<WriteSpec> {
    let mut words = text.split_whitespace();
    let how = match words.next()? {
        "write" => How::Write,
        "try" => How::Try,
        "queue" => How::Submit,
        _ => return None,
    };
    Some(WriteSpec {
        how,
        durability: parse_durability(words.next()?)?,
        changes: words.map(parse_change).collect::<Option<_>>()?,
    })
}

fn parse_change(word: &str) -> Option<ChangeSpec> {
    let (collection, rest) = word.split_once(':')?;
    let (key, value) = match rest.split_once('=') {
        None => (rest.strip_suffix('-')?, None),
        Some((key, value)) => (key, Some(value)),
    };
    let (value, payload) = match value.map(|value| value.split_once('+').ok_or(value)) {
        None => (None, None),
        Some(Err(value)) => (Some(value.parse().ok()?), None),
        Some(Ok((value, len))) => (Some(value.parse().ok()?), Some(len.parse().ok()?)),
    };
    Some(ChangeSpec {
        collection: collection.parse().ok()?,
        key: key.parse().ok()?,
        value,
        payload,
    })
}

fn parse_durability(word: &str) -> Option<Durability> {
    match word {
        "sync" => Some(Durability::Sync),
        "periodic" => Some(Durability::Periodic(PERIOD)),
        "os" => Some(Durability::Os),
        _ => None,
    }
}
