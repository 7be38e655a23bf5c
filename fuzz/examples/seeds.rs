//! Writes the seed corpora: files made by the engine, and short lists of changes.
#![allow(
    clippy::disallowed_methods,
    reason = "the corpora are files of the host"
)]

use std::fs;
use std::io;
use std::path::Path;

use esker::fuzzing::{self, Operation};
use esker::{Background, CollectionId, CollectionOptions, Db, Metric, Options};
use esker_segment::{DeletionVector, FileId, Row, SegmentId, deletion};
use esker_tests::sim::{Crash, SimEnv};

fn main() -> io::Result<()> {
    for (name, file) in database() {
        if name.ends_with(".log") || name.ends_with(".manifest") {
            write("log_replay", &name.replace('.', "-"), &file)?;
        }
    }
    write("segment_open", "cosine", &esker_fuzz::base_segment(0))?;
    for (name, input) in deletions().into_iter().chain(bitmaps()) {
        write("deletion_vector", &name, &input)?;
    }
    for (name, input) in operations() {
        write("engine_ops", &name, &input)?;
    }
    for (name, changes) in [
        ("header", &[0x00, 10, 68, 0, 4, 2][..]),
        ("keys", &[0x01, 2, 0, 0, 3, 100, 4, 2, 0, 1, 1]),
        ("payloads", &[0x02, 6, 8, 0, 5, 0xFF, 8, 0, 0, 2, 1]),
        ("vectors", &[0x00, 0, 0, 0, 4, 0xFF, 1, 4, 0, 1, 0x80]),
        ("raw-hash", &[0x81, 9, 20, 0, 1, 1]),
        ("edges", &[0x00, 9, 0, 0, 0, 200, 9, 40, 0, 4, 0xFF]),
        ("edge-to-itself", &[0x01, 6, 0, 0, 4, 0, 6, 4, 0, 4, 0]),
        ("degree", &[0x00, 10, 40, 0, 0, 5]),
        ("start", &[0x00, 10, 44, 0, 0, 99]),
        ("no-graph", &[0x01, 7, 40, 0, 4, 0]),
    ] {
        write("segment_open", name, changes)?;
    }
    for (name, changes) in directories() {
        write("open_directory", &name, &changes)?;
    }
    for (name, input) in manifests().into_iter().chain(edits()) {
        write("manifest_replay", &name, &input)?;
    }
    for (name, input) in batches() {
        write("batch_decode", &name, &input)?;
    }
    Ok(())
}

fn write(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(name), bytes)
}

/// Logs, one of them ended by a crash, and a manifest with edits.
fn database() -> Vec<(String, Vec<u8>)> {
    let env = SimEnv::new(1);
    let options = Options::new()
        .background(Background::Manual)
        .log_file_bytes(4 << 10)
        .max_log_bytes(64 << 10)
        .env(env.env());
    let db = Db::open("/db", options).expect("the disk is empty");
    let rows = db
        .create_collection("rows", CollectionOptions::new(2, Metric::L2))
        .expect("a healthy machine");
    for n in 0..40_u8 {
        let payload = vec![n; usize::from(n) * 4];
        rows.put_with_payload(format!("row {n}").as_str(), &[f32::from(n), 1.0], &payload)
            .expect("a healthy machine");
        if n == 5 {
            db.flush().expect("a healthy machine");
        }
    }
    let image = env.crash_image(Crash::LoseAllUnsynced);
    let names = image.names("/db").expect("there is a database");
    let read = |name: String| {
        let file = image.file(format!("/db/{name}")).expect("it is listed");
        (name, file)
    };
    names.into_iter().map(read).collect()
}

/// A manifest alone, and one of a clean close behind its `CURRENT`.
fn manifests() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (name, file) in database() {
        if name.ends_with(".manifest") {
            seeds.push(("manifest".to_owned(), file));
        }
    }
    let env = SimEnv::new(2);
    let db = Db::open("/db", Options::new().env(env.env())).expect("the disk is empty");
    for (name, metric) in [("words", Metric::Cosine), ("dots", Metric::InnerProduct)] {
        let rows = db.create_collection(name, CollectionOptions::new(3, metric));
        let rows = rows.expect("a healthy machine");
        rows.put("k", &[1.0; 3]).expect("a healthy machine");
    }
    db.drop_collection("dots").expect("it is there");
    db.close().expect("a healthy machine");
    let names = env.names("/db").expect("there is a database");
    let read = |end: &str| {
        let name = names.iter().find(|name| name.ends_with(end));
        let name = name.expect("every database has one");
        env.file(format!("/db/{name}")).expect("it is listed")
    };
    let both = [read("CURRENT"), read(".manifest")].concat();
    seeds.push(("sealed".to_owned(), both));
    seeds
}

/// A database, and changes to its edits: how, which edit, which field, values.
fn edits() -> Vec<(String, Vec<u8>)> {
    let seeds: [(&str, &[u8]); 22] = [
        ("base-closed", &[0x81]),
        ("base-crashed", &[2]),
        // Two collections, a segment with deletions, a flush; counters.
        (
            "made",
            &[
                0x40, 0, 0, 0, 1, 0, 2, 0, b'a', 1, 0, 9, 1, 1, 3, 1, b'b', 1, 0, 9, 3, 1, 9, 5,
                200, 7, 1, 8, 1, 0, 9, 5, 1, 5, 6, 64, 30, 9, 1, 0, 9, 6, 1, 4, 1, 0, 9, 10, 0, 8,
                1, 0, 9, 8, 0, 20, 1, 0, 9, 7, 0, 3,
            ],
        ),
        // Names: two of one, none, the longest, one that is longer, no UTF-8.
        (
            "name-twice",
            &[0x40, 0, 0, 0, 1, 7, 2, 0, 1, 1, 0, 0, 1, 8, 2, 0, 1],
        ),
        ("name-empty", &[0x40, 0, 0, 0, 1, 7, 2, 0, 0xFF]),
        ("name-longest", &[0x40, 0, 0, 0, 1, 7, 2, 0, 0xFE]),
        ("name-longer", &[0x40, 0, 0, 0, 1, 7, 2, 0, 0xFD]),
        ("name-no-text", &[0x40, 0, 0, 0, 1, 7, 2, 0, 0xFC]),
        ("dimension", &[0x40, 0, 0, 0, 1, 7, 0xF7, 0, b'z']),
        // Every counter at its limit, and beyond.
        (
            "counters",
            &[
                0x40, 0, 0, 0, 1, 0, 0xF8, 2, b'a', 1, 0, 0, 8, 0, 0xFB, 1, 0, 0, 10, 0, 0xFE, 1,
                0, 0, 9, 0xFF, 1, 0, 0, 6, 0, 0xFE, 1, 0, 0, 7, 0, 1,
            ],
        ),
        (
            "numbers-nearly-used-up",
            &[
                0x40, 0, 0, 0, 1, 0, 2, 0, b'a', 1, 0, 0, 8, 0, 0xFB, 1, 0, 0, 10, 0, 0xFE, 1, 0,
                0, 7, 0, 1,
            ],
        ),
        ("no-file-left", &[0x40, 0, 0, 0, 8, 0, 0xFA]),
        ("no-seqno-left", &[0x40, 0, 0, 0, 10, 0, 0xFD]),
        ("flushed-ahead", &[0, 1, 2, 0, 6, 0, 9]),
        ("kind", &[0x40, 0, 0, 0, 1, 7, 2, 0, 1, 7, 0, 0, 3]),
        ("skipped", &[1, 1, 0, 9, 0x99, 0, 30]),
        ("unknown", &[1, 1, 1, 9, 14, 0, 4]),
        // A field shown shorter than it is; swapped; twice; without its place.
        ("length", &[1, 13, 1, 0, 0, 0xFF]),
        ("longer-body", &[0, 14, 1, 0, 40]),
        ("reserved", &[0, 13, 1, 0, 1, 7, 0]),
        ("order", &[1, 12, 0, 1, 0, 11, 1, 0, 2, 10, 2, 0]),
        ("torn", &[2, 6, 0, 0, 9]),
    ];
    let owned = |(name, input): (&str, &[u8])| (name.to_owned(), input.to_vec());
    seeds.into_iter().map(owned).collect()
}

/// Payloads of the engine's frames, and batches made of small numbers.
fn batches() -> Vec<(String, Vec<u8>)> {
    let row = |collection, key, vector, payload| Operation {
        collection: CollectionId(collection),
        key,
        vector,
        payload,
    };
    let one: Vec<u8> = [1.0_f32; 3]
        .into_iter()
        .flat_map(f32::to_le_bytes)
        .collect();
    let bad: Vec<u8> = [f32::NAN; 3]
        .into_iter()
        .flat_map(f32::to_le_bytes)
        .collect();
    let long = [b'k'; 300];
    let mut seeds = Vec::new();
    for (name, operations) in [
        ("none", &[][..]),
        ("put", &[row(0, b"a", Some(&one[..]), None)]),
        (
            "several",
            &[
                row(0, b"new", Some(&one), Some(b"payload")),
                row(1, &long, Some(&one[..8]), Some(b"")),
                row(2, b"a", None, None),
                row(0, b"new", None, None),
                row(3, b"of a dropped one", Some(&one), None),
            ],
        ),
        ("no-collection", &[row(4, b"a", Some(&one), None)]),
        ("dimension", &[row(1, b"a", Some(&one), None)]),
        ("not-a-number", &[row(0, b"a", Some(&bad), None)]),
    ] {
        seeds.push((name.to_owned(), fuzzing::encode_batch(operations)));
    }
    // A row with a payload whose bytes were changed: where, and to what.
    let row = [row(0, b"a", Some(&one[..]), Some(b"ow"))];
    for (name, changes) in [
        ("reserved", &[(4, 1)][..]),
        ("key-length", &[(10, 0)]),
        ("flags", &[(9, 3)]),
        ("payload-unflagged", &[(9, 0)]),
        ("delete-of-a-row", &[(8, 2), (9, 0)]),
        ("padding", &[(27, 0xFF)]),
    ] {
        let mut bytes = fuzzing::encode_batch(&row);
        for (at, value) in changes {
            bytes[*at] = *value;
        }
        seeds.push((name.to_owned(), bytes));
    }
    let mut trailing = fuzzing::encode_batch(&row);
    trailing.push(0);
    seeds.push(("trailing".to_owned(), trailing));
    let made: [(&str, &[u8]); 8] = [
        (
            "made",
            &[0x00, 1, 2, 3, 4, 0x18, 2, 5, 6, 7, 0x21, 0, 0x20, 1, 9],
        ),
        (
            "made-long-key",
            &[0x00, 0x90, 80, 1, 1, 2, 3, 0x01, 0x90, 80, 1],
        ),
        ("made-infinite", &[0x20, 1, 0xFE, 0x20, 2, 1]),
        ("made-too-large", &[0x20, 1, 0xFD]),
        ("made-no-direction", &[0x10, 1, 0, 0]),
        ("made-tiny", &[0x10, 1, 0xFC, 0xFC]),
        // One more than there is; a byte of the key's length; two bytes too many.
        ("lies-count", &[0x00, 1, 2, 3, 4, 0xF0, 1, 0, 0, 0]),
        (
            "lies-length",
            &[0x08, 1, 9, 2, 3, 4, 0xF3, 2, 0, 1, 0, 0, 0, 0xF1, 0, 0],
        ),
    ];
    let owned = |(name, input): (&str, &[u8])| (name.to_owned(), input.to_vec());
    seeds.extend(made.into_iter().map(owned));
    seeds
}

/// Files: lists, a bitmap and runs, alone and together.
fn deletions() -> Vec<(String, Vec<u8>)> {
    let of = |rows: &dyn Fn(&u32) -> bool, below: u32| -> DeletionVector {
        (0..below).filter(|row| rows(row)).map(Row).collect()
    };
    let list = of(&|row| row % 3_000 == 0, 90_000);
    let runs = of(&|row| (70_000..71_000).contains(row), 90_000);
    let bits = of(&|row| row % 7 < 3 && *row < 14_000, 14_000);
    let none = DeletionVector::default();
    let file_id = FileId(*b"a deletions file");
    let file = |vectors: &[(SegmentId, &DeletionVector)]| {
        deletion::encode(file_id, vectors).expect("few rows").0
    };
    let both = list.union(&runs);
    let three = [
        (SegmentId(7), &list),
        (SegmentId(8), &none),
        (SegmentId(9), &runs),
    ];
    let seeds = [
        ("one", file(&[(SegmentId(7), &both)])),
        ("three", file(&three)),
        ("bitmap", file(&[(SegmentId(7), &bits)])),
    ];
    seeds.map(|(name, file)| (name.to_owned(), file)).into()
}

/// Bitmaps in small numbers: which lies, whether there are runs, containers.
fn bitmaps() -> Vec<(String, Vec<u8>)> {
    let seeds: [(&str, &[u8]); 12] = [
        ("made-none", &[0, 0]),
        ("made-list", &[0, 0, 0x00, 3, 1, 2, 3, 4, 0x11, 0, 9]),
        ("made-bits", &[0, 0, 0x0A, 9, 40, 7, 0, 1]),
        (
            "made-runs",
            &[0, 1, 0x03, 2, 5, 9, 1, 0xF8, 0x40, 9, 0x10, 0, 9],
        ),
        (
            "made-offsets",
            &[
                0, 1, 0x03, 1, 0, 9, 0, 0, 0x10, 0, 1, 0x20, 0, 1, 0x30, 0, 1,
            ],
        ),
        ("runs-touch", &[0, 1, 0x03, 2, 5, 9, 0, 3]),
        ("key-again", &[0, 0, 0x10, 0, 1, 0xF0, 0, 1]),
        ("cardinality", &[0, 0, 0x0C, 3, 1, 2, 3, 4, 1]),
        ("count", &[1, 0, 0x00, 3, 1, 2, 3, 4, 1, 0, 0, 0]),
        (
            "length",
            &[2, 0, 0x00, 3, 1, 2, 3, 4, 0xF8, 0xFF, 0xFF, 0xFF],
        ),
        ("damage", &[4, 0, 0x00, 3, 1, 2, 3, 4, 4, 0, 0x80]),
        ("padding", &[8, 0, 0x00, 2, 1, 2, 3, 9]),
    ];
    let owned = |(name, input): (&str, &[u8])| (name.to_owned(), input.to_vec());
    seeds.into_iter().map(owned).collect()
}

/// Lists of operations: a head of eight bytes, then eight for each.
fn operations() -> Vec<(String, Vec<u8>)> {
    const PUT: [u8; 8] = [0, 2, 0x01, 0x40, 0x42, 0x50, 0x83, 0x60];
    const PUT_UNSYNCED: [u8; 8] = [0, 0x1E, 0x02, 0x41, 0x44, 0x51, 0x81, 0x61];
    const DELETE: [u8; 8] = [0, 1, 0x01, 0, 0x42, 0x10, 0, 0];
    const BULK: [u8; 8] = [10, 3, 30, 1, 9, 1, 0, 0];
    const SUBMIT: [u8; 8] = [0x49, 1, 0x70, 2, 0x71, 3, 0, 0];
    const FLUSH: [u8; 8] = [12, 0, 0, 0, 0, 0, 0, 0];
    const COMPACT: [u8; 8] = [14, 0, 0, 0, 0, 0, 0, 0];
    const STEPS: [u8; 8] = [0x90, 0, 0, 0, 0, 0, 0, 0];
    const IDLE: [u8; 8] = [18, 200, 0, 0, 0, 0, 0, 0];
    const SNAPSHOT: [u8; 8] = [19, 0, 0, 0, 0, 0, 0, 0];
    const DROP: [u8; 8] = [21, 0, 0, 0, 0, 0, 0, 0];
    const CROSS: [u8; 8] = [0x36, 0, 1, 0x05, 0x77, 0, 0, 0];
    const CROSS_SYNC: [u8; 8] = [0x16, 0x23, 1, 0x05, 0x77, 0, 0, 0];
    const VERIFY: [u8; 8] = [24, 0, 0, 0, 0, 0, 0, 0];
    const REOPEN: [u8; 8] = [25, 0, 0, 0, 0, 0, 0, 0];
    const CRASH: [u8; 8] = [27, 0, 0, 0, 0, 0, 0, 0];
    const CRASH_SOON: [u8; 8] = [27, 0xC5, 0x5E, 3, 0x2D, 0, 0, 0];
    const SYNC_FAILS: [u8; 8] = [0x5D, 1, 0, 0, 0, 0, 0, 0];
    const DISK_FULL: [u8; 8] = [0x3D, 0xC2, 7, 0, 0, 0, 0, 0];
    const READ_FAILS: [u8; 8] = [0x9D, 2, 0, 0, 0, 0, 0, 0];
    let head = |bits: u8| [1, 0, bits, bits ^ 8, 0, 0, 0, 0];
    let seeds: [(&str, u8, &[[u8; 8]]); 9] = [
        ("write", 0, &[PUT, DELETE, PUT_UNSYNCED, SUBMIT]),
        ("flush", 0x40, &[PUT, FLUSH, DELETE, FLUSH, COMPACT, VERIFY]),
        ("graph", 0x41, &[BULK, FLUSH, BULK, DELETE, FLUSH, COMPACT]),
        (
            "snapshot",
            8,
            &[PUT, SNAPSHOT, DELETE, FLUSH, SNAPSHOT, DROP],
        ),
        ("steps", 0, &[BULK, STEPS, IDLE, PUT, STEPS, REOPEN]),
        (
            "crash",
            0,
            &[PUT, PUT_UNSYNCED, CRASH, BULK, CRASH_SOON, FLUSH],
        ),
        (
            "faults",
            1,
            &[PUT, SYNC_FAILS, PUT, REOPEN, DISK_FULL, BULK, FLUSH],
        ),
        (
            "reads-fail",
            9,
            &[PUT, FLUSH, READ_FAILS, COMPACT, REOPEN, PUT],
        ),
        ("cross", 0, &[PUT, FLUSH, PUT_UNSYNCED, CROSS, CROSS_SYNC]),
    ];
    let mut all = vec![("born-crashing".to_owned(), vec![2, 0, 0, 0, 0x23, 0x1F])];
    for (name, bits, operations) in seeds {
        let bytes = [&head(bits), &operations.concat()[..]].concat();
        all.push((name.to_owned(), bytes));
    }
    all
}

/// Each kind of change, with checksums left alone and put right.
fn directories() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for base in 0..3_u8 {
        seeds.push((format!("untouched-{base}"), vec![base]));
    }
    for how in 0..7_u8 {
        let mode = ((how % 2) << 6) | (how % 3);
        // A file, how, where, a value.
        let one = [how, how, how * 30, 0, 9, 1, 0, 0];
        let two = [how + 3, how, 200, 1, 1, 0, 0, 0x80];
        let modes = [
            ("change", mode),
            ("forged", 0x80 | mode),
            ("sealed", 0xA1 | (mode & 0x40)),
        ];
        for (name, mode) in modes {
            let changes = [&[mode][..], &one, &two].concat();
            seeds.push((format!("{name}-{how}"), changes));
        }
    }
    seeds
}
