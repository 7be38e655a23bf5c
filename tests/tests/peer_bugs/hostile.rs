//! Lessons on files whose checksums are right and whose fields lie.
//!
//! Owns lesson 22 and the part of lesson 14 that is about bytes that are no text.

use esker::{Db, Error, Key, SearchOptions};
use esker_tests::forge::{self, FRAME_HEADER, LOG_HEADER};
use esker_tests::run::Settings;
use esker_tests::sim::{Crash, SimEnv};

use crate::allocations;
use crate::support::{Bench, DIR, SMALL, delete, files, machine, put_of};

type File = (String, Vec<u8>);

/// What a field is made to say. As a 64-bit field's upper half each is far beyond any
/// file, as its lower half just beyond this one.
const LIES: [u32; 3] = [u32::MAX, 0x7FFF_FFF0, 0];

/// Two segments with graphs, deletion vectors, and a log with rows of its own.
fn base(settings: Settings) -> Bench {
    let mut bench = Bench::new(22, settings, &["rows"]);
    for round in 0..2 {
        let rows: Vec<_> = (5 * round..5 * round + 20)
            .map(|key| put_of("rows", key, round, key as usize % 5))
            .collect();
        bench.sync(&rows);
        bench.flush();
    }
    bench.sync(&[delete("rows", 3), put_of("rows", 50, 2, 9)]);
    bench
}

/// Whatever can be asked of a database that may lie. Every answer is fine but a panic.
fn use_it(env: &SimEnv, settings: Settings) {
    let Ok(db) = Db::open(DIR, settings.options(env)) else {
        return;
    };
    for name in db.collections() {
        let Ok(rows) = db.collection(&name) else {
            continue;
        };
        if let Ok(scan) = rows.scan(..) {
            scan.take(100).for_each(drop);
        }
        let query = vec![1.0; rows.dimension() as usize];
        let _ = rows.search(&query, &SearchOptions::new(5).l_search(8));
        let _ = rows.search(&query, &SearchOptions::new(5).exact(true));
        let _ = (rows.get(7_u64), rows.len());
        let _ = (rows.put(8_u64, &query), rows.delete(9_u64));
    }
    let _ = db.verify();
    let _ = db.flush();
    let _ = db.compact();
}

/// The places of a file where counts, lengths, offsets and kinds are.
fn fields(name: &str, file: &[u8]) -> Vec<usize> {
    let step = |range: std::ops::Range<usize>| range.step_by(4);
    let end = file.len().saturating_sub(3);
    if name.ends_with(".segment") {
        let footer = forge::footer(file).expect("a segment has one");
        let tables = forge::sections(file).into_iter();
        let starts = tables.flat_map(|(_, section)| {
            let end = section.end.min(section.start + 44);
            step(section.start..end.saturating_sub(3))
        });
        step(40..80)
            .chain(step(footer.start..end))
            .chain(starts)
            .collect()
    } else if name.ends_with(".log") {
        step(0..end.min(LOG_HEADER + FRAME_HEADER + 80)).collect()
    } else if name == "LOCK" {
        Vec::new()
    } else {
        step(0..end).collect()
    }
}

/// USearch #776, hnswlib #673, faiss #5400, #4817, #5464, chroma #7002: counts,
/// dimensions and links in headers were taken at their word: reads out of bounds, heap
/// overflows, two gigabytes for a file of some bytes.
#[test]
fn lesson_22_usearch_776_no_header_field_is_taken_at_its_word() {
    let mut tried = 0;
    for pread in [false, true] {
        let settings = Settings { pread, ..SMALL };
        let whole = files(&base(settings).env.crash_image(Crash::LoseAllUnsynced));
        let bytes: usize = whole.iter().map(|(_, file)| file.len()).sum();
        let bound = 4 * bytes as i64 + (16 << 20);
        for (n, (name, file)) in whole.iter().enumerate() {
            for (place, at) in fields(name, file).into_iter().enumerate() {
                // Each half of the places for one way of reading segments.
                if place % 2 != usize::from(pread) && !name.ends_with(".manifest") {
                    continue;
                }
                for lie in LIES {
                    let mut files = whole.clone();
                    forge::put(&mut files[n].1, at, &lie.to_le_bytes());
                    forge::directory(&mut files);
                    let env = machine(&files);
                    let ((), peak) = allocations::peak(|| use_it(&env, settings));
                    assert!(peak < bound, "{name} at {at}, {lie:#x}: {peak} bytes");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 1_500, "{tried}");
}

fn opened(files: &[File]) -> Result<Db, Error> {
    Db::open(DIR, SMALL.options(&machine(files)))
}

/// fjall #68: a journal of bytes that were no UTF-8 made the start panic. Keys may be
/// any bytes here; names of collections may not, and say so.
#[test]
fn lesson_14_fjall_68_bytes_that_are_no_text_are_keys_or_an_error() {
    let mut bench = Bench::new(68, SMALL, &["rows", "other"]);
    bench.sync(&[put_of("rows", 1, 1, 3)]);
    let keys: Vec<Key> = [&[0xFF][..], &[0xC3, 0x28], &[0, 0x80, 0], b"\xF0\x90"]
        .map(Key::from)
        .into();
    let rows = bench.db.collection("rows").expect("there");
    for key in &keys {
        rows.put(key.clone(), &[1.0; 4]).expect("any bytes will do");
    }
    let whole = files(&bench.env.crash_image(Crash::KeepAll));
    let db = opened(&whole).expect("opens");
    let rows = db.collection("rows").expect("there");
    assert!(
        keys.iter()
            .all(|key| rows.contains(key.clone()).expect("reads"))
    );
    drop((rows, db));
    // Each byte of the name, and each of its length.
    let manifest = whole.iter().position(|f| f.0.ends_with(".manifest"));
    let manifest = manifest.expect("there is one");
    let name = whole[manifest].1.windows(5).position(|w| w == b"other");
    let name = name.expect("it names its collections");
    for (at, value) in [(0, 0xFF), (2, 0x80), (4, 0xC3), (-2, 0xFF), (-2, 0)] {
        let mut files = whole.clone();
        files[manifest].1[name.strict_add_signed(at)] = value;
        forge::directory(&mut files);
        let error = opened(&files).expect_err("not a name");
        assert!(matches!(error, Error::Corruption { .. }), "{error}");
    }
    // And any byte of either journal, with its checksum wrong and right.
    for (n, (name, file)) in whole.iter().enumerate() {
        if !name.ends_with(".log") && !name.ends_with(".manifest") {
            continue;
        }
        for at in 0..file.len() {
            for forged in [false, true] {
                let mut files = whole.clone();
                files[n].1[at] ^= 0xFF;
                if forged {
                    forge::directory(&mut files);
                }
                drop(opened(&files));
            }
        }
    }
}

/// As above: a stranger's file whose very name is no text.
#[cfg(unix)]
#[test]
fn lesson_14_fjall_68_a_name_that_is_no_text_is_nobody_s() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().expect("dir");
    let options = || esker::Options::new().background(esker::Background::Manual);
    Db::open(dir.path(), options())
        .expect("opens")
        .close()
        .expect("closes");
    let stranger = dir
        .path()
        .join(std::ffi::OsStr::from_bytes(b"\xFF\xFE.log"));
    std::fs::write(&stranger, b"mine").expect("written");
    let db = Db::open(dir.path(), options()).expect("opens");
    assert!(db.recovery_report().clean);
    db.close().expect("closes");
    assert_eq!(std::fs::read(&stranger).expect("left alone"), b"mine");
}
