//! Any bytes as a manifest, and as the `CURRENT` that names it.
//!
//! Owns the check of the manifest's replay. An input that begins as one of the two kinds of file is taken for
//! files, raw and with its checksums put right; any other says what to do with the
//! edits of a small database: every tag, every place in a field, every order. What
//! is read is read twice, written anew, and read again. At last its database is
//! opened, beside an empty log, which must succeed where nothing else is missing.

mod edits;

use std::path::Path;

use esker::fuzzing::{self, Replayed};
use esker::{CollectionOptions, Error, MAX_DIMENSION, MapMode, Metric};
use esker_tests::sim::SimEnv;
use xxhash_rust::xxh3::xxh3_64;

use crate::bases::{self, DIR, machine};
use crate::forge::{self, End, FRAME_HEADER, LOG_HEADER, put, u32_at, u64_at};
use crate::heap;
use crate::input::Input;

const CURRENT_LEN: usize = 64;
const CURRENT_MAGIC: &[u8] = b"ESKERCUR";
/// Heap that a replay may take beside twice its files.
const REPLAY_HEAP: u64 = 1 << 20;
/// The least that an edit says of a collection, and of a segment.
const LEAST: usize = 20;
const MAX_NAME_LEN: usize = 255;
/// File numbers have twelve digits, and a million numbers are kept back.
const MOST_FILES: u64 = 999_998_999_999;
/// Up to here there is room for many more.
const FEW_FILES: u64 = 900_000_000_000;
const FEW_SEQNOS: u64 = u64::MAX / 4;

/// Checks `input` as files, or as changes to files.
pub fn manifest_replay(input: &[u8]) {
    if input.starts_with(CURRENT_MAGIC) {
        let (current, manifest) = input.split_at(CURRENT_LEN.min(input.len()));
        look(current, manifest);
        let (mut current, mut manifest) = (current.to_vec(), manifest.to_vec());
        let end = forge::log(&mut manifest);
        fit(&mut current, &manifest, end);
        look(&current, &manifest);
    } else if input.starts_with(b"ESKERMAN") {
        let mut manifest = input.to_vec();
        look(&current(&manifest, None), &manifest);
        let end = forge::log(&mut manifest);
        if manifest != input {
            look(&current(&manifest, None), &manifest);
        }
        look(&current(&manifest, end), &manifest);
    } else {
        let (current, manifest) = edits::changed(Input(input));
        look(&current, &manifest);
    }
}

/// A `CURRENT` that names this manifest.
fn current(manifest: &[u8], sealed: Option<End>) -> Vec<u8> {
    let mut current = CURRENT_MAGIC.to_vec();
    current.extend(1_u32.to_le_bytes());
    current.extend(u32::from(sealed.is_some()).to_le_bytes());
    current.resize(CURRENT_LEN, 0);
    fit(&mut current, manifest, sealed);
    current
}

/// Puts right what `CURRENT` says of the manifest, and its hash.
fn fit(current: &mut [u8], manifest: &[u8], end: Option<End>) {
    if current.len() < CURRENT_LEN {
        return;
    }
    if let Some(names) = manifest.get(40..64) {
        put(current, 16, names);
    }
    if let Some((end, crc)) = end.filter(|_| u32_at(current, 12) & 1 != 0) {
        put(current, 40, &end.to_le_bytes());
        put(current, 48, &crc.to_le_bytes());
    }
    let hash = xxh3_64(&current[..56]);
    put(current, 56, &hash.to_le_bytes());
}

fn look(current: &[u8], manifest: &[u8]) {
    let number = current.get(16..24).map_or(1, |number| u64_at(number, 0));
    let name = format!("{number:012}.manifest");
    let files = [
        ("CURRENT".to_owned(), current.to_vec()),
        (name, manifest.to_vec()),
    ];
    let env = machine(&files);
    let bytes = current.len() + manifest.len();
    let verdict = replay(&env, bytes);
    match (&verdict, replay(&env, bytes)) {
        (Ok(one), Ok(two)) => assert_eq!(*one, two),
        (Err(one), Err(two)) => assert_eq!(one.to_string(), two.to_string()),
        (one, two) => panic!("{one:?}, then {two:?}"),
    }
    for (name, file) in &files {
        let now = env.file(format!("{DIR}/{name}")).expect("it was there");
        assert_eq!(now, *file, "{name} was touched");
    }
    match verdict {
        Ok(replayed) => {
            check_form(&manifest[..replayed.end as usize]);
            // Only a clean close leaves a seal that may be believed.
            assert!(u32_at(current, 12) & 1 != 0 || !replayed.counters().sealed);
            check_rules(&replayed, manifest);
            check_rewrite(&env, &replayed, number);
            open(&env, &replayed);
        }
        Err(Error::Corruption { file, offset, .. }) => {
            let place = files.iter().find(|(name, _)| file.ends_with(name));
            let (_, bytes) = place.expect("an error names one of the files");
            assert!(
                offset <= bytes.len() as u64,
                "{file:?} has no byte {offset}"
            );
        }
        Err(Error::Incompatible { file, .. }) => {
            assert!(files.iter().any(|(name, _)| file.ends_with(name)));
        }
        Err(error) => panic!("a healthy machine was answered with {error}"),
    }
}

fn replay(env: &SimEnv, bytes: usize) -> Result<Replayed, Error> {
    let replayed = heap::bounded(bytes as u64, REPLAY_HEAP, || {
        fuzzing::replay(&*env.env(), Path::new(DIR))
    })?;
    Ok(replayed.expect("there is a CURRENT"))
}

/// Every field of the edits that were read has the form that the format's table gives.
fn check_form(mut rest: &[u8]) {
    rest = &rest[LOG_HEADER..];
    while !rest.is_empty() {
        let len = u32_at(rest, 8) as usize;
        assert_eq!(rest[4], 2, "a frame that is no edit");
        let (mut edit, next) = rest[FRAME_HEADER..].split_at(len);
        rest = &next[len.next_multiple_of(8) - len..];
        while !edit.is_empty() {
            let (tag, len) = (u32_at(edit, 0), u32_at(edit, 4) as usize);
            let (body, next) = edit[8..].split_at(len);
            edit = next;
            let right = match tag {
                1 => 12 + usize::from(body[10]) + (usize::from(body[11]) << 8),
                2 | 9 => 4,
                7 | 8 | 10 => 8,
                4 | 6 => 12,
                11 => 20,
                5 => 60,
                3 => 64,
                // The two bytes behind the tag are zero.
                skipped => {
                    assert!((0x8000..=0xFFFF).contains(&skipped), "tag {tag:#x}");
                    continue;
                }
            };
            assert_eq!(len, right, "tag {tag}");
        }
    }
}

/// What every state promises, whatever it was read from.
fn check_rules(replayed: &Replayed, manifest: &[u8]) {
    assert!((LOG_HEADER as u64..=manifest.len() as u64).contains(&replayed.end));
    assert!(replayed.end + replayed.dropped_bytes <= manifest.len() as u64);
    let counters = replayed.counters();
    assert!(counters.next_file <= MOST_FILES);
    assert!(counters.last_seqno.0 <= u64::MAX / 2);
    let collections = replayed.collections();
    let mut held = collections.len();
    let mut names: Vec<&str> = Vec::new();
    for collection in &collections {
        assert_eq!(collection.ids.0, collection.ids.1);
        assert!(collection.ids.0.0 < counters.next_collection);
        assert!((1..=MAX_NAME_LEN).contains(&collection.name.len()));
        assert!((1..=MAX_DIMENSION).contains(&collection.dimension));
        assert!(collection.flushed <= counters.last_seqno);
        held += collection.segments.len();
        names.push(&collection.name);
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), collections.len(), "two of one name");
    // Memory is bounded by the file: nothing is held that it does not say.
    assert!(held * LEAST <= manifest.len(), "{held} things");
}

/// The state written as a fresh manifest is the same state, and its bytes are
/// always the same. Leaves the last of them.
fn check_rewrite(env: &SimEnv, replayed: &Replayed, number: u64) {
    let mut last = number;
    let mut edits = Vec::new();
    for fresh in (1..=3).filter(|fresh| *fresh != number).take(2) {
        replayed
            .rewrite(&env.env(), Path::new(DIR), fresh)
            .expect("a healthy machine");
        env.delete_file(format!("{DIR}/{last:012}.manifest"))
            .expect("it is there");
        last = fresh;
        let file = env.file(format!("{DIR}/{fresh:012}.manifest"));
        let file = file.expect("just written");
        let again = replay(env, file.len()).expect("just written");
        assert!(again.same_state(replayed), "{replayed:?}, then {again:?}");
        assert_eq!(again.dropped_bytes, 0);
        edits.push(file[LOG_HEADER + FRAME_HEADER..].to_vec());
    }
    assert_eq!(edits[0], edits[1]);
}

/// Opens the database and uses it.
fn open(env: &SimEnv, replayed: &Replayed) {
    let counters = replayed.counters();
    if counters.first_log <= MOST_FILES {
        let name = format!("{DIR}/{:012}.log", counters.first_log);
        let log = empty_log(counters.first_log);
        env.set_file(name, log).expect("the directory is there");
    }
    let collections = replayed.collections().into_iter();
    let mut names: Vec<String> = collections.map(|collection| collection.name).collect();
    names.sort_unstable();
    let whole = !counters.sealed
        && (1..=FEW_FILES).contains(&counters.first_log)
        && replayed.collections().iter().all(|c| c.segments.is_empty());
    let db = match bases::open(env, MapMode::Pread) {
        Ok(db) => db,
        Err(error) => {
            assert!(!whole, "nothing is missing, but {error}: {replayed:?}");
            return;
        }
    };
    assert_eq!(db.collections(), names);
    let mut free = (0..).map(|n: u32| n.to_string());
    let free = free.find(|name| !names.contains(name));
    let free = free.expect("there are more numbers than names");
    let made = db
        .create_collection(&free, CollectionOptions::new(2, Metric::L2))
        .and_then(|collection| collection.put("k", &[1.0, 2.0]))
        .and_then(|_| db.flush());
    // Where numbers are nearly used up, these may have been the last.
    let room = counters.next_file <= FEW_FILES
        && counters.last_seqno.0 <= FEW_SEQNOS
        && counters.next_collection < u32::MAX;
    let sound = db.verify().expect("it is open").is_ok();
    let closed = db.close();
    drop(db);
    let again = bases::open(env, MapMode::Pread);
    if room {
        made.and(closed).expect("a healthy machine");
        assert!(sound, "{replayed:?}");
        let db = again.expect("it was open just now");
        assert_eq!(db.collections().len(), names.len() + 1);
    }
}

/// A log of this number without a frame.
fn empty_log(number: u64) -> Vec<u8> {
    let mut log = vec![0; LOG_HEADER];
    log[8] = 1;
    put(&mut log, 40, &number.to_le_bytes());
    put(&mut log, 48, b"the log's own id");
    forge::log(&mut log);
    log
}
