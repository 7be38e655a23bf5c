//! Writes the seed corpora: files made by the engine, and short lists of changes.
#![allow(
    clippy::disallowed_methods,
    reason = "the corpora are files of the host"
)]

use std::fs;
use std::io;
use std::path::Path;

use esker::{Background, CollectionOptions, Db, Metric, Options};
use esker_segment::{DeletionVector, FileId, Row, SegmentId, deletion};
use esker_tests::sim::{Crash, SimEnv};

fn main() -> io::Result<()> {
    for (name, file) in database() {
        if name.ends_with(".log") || name.ends_with(".manifest") {
            write("log_replay", &name.replace('.', "-"), &file)?;
        }
    }
    write("segment_open", "cosine", &esker_fuzz::base_segment(0))?;
    write("segment_open", "deletions", &deletions())?;
    for (name, changes) in [
        ("header", &[0x00, 10, 68, 0, 4, 2][..]),
        ("keys", &[0x01, 2, 0, 0, 3, 100, 4, 2, 0, 1, 1]),
        ("payloads", &[0x02, 6, 8, 0, 5, 0xFF, 8, 0, 0, 2, 1]),
        ("vectors", &[0x00, 0, 0, 0, 4, 0xFF, 1, 4, 0, 1, 0x80]),
        ("raw-hash", &[0x81, 9, 20, 0, 1, 1]),
    ] {
        write("segment_open", name, changes)?;
    }
    for (name, changes) in directories() {
        write("open_directory", &name, &changes)?;
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

fn deletions() -> Vec<u8> {
    let rows = (0..90_000).filter(|row| row % 3_000 == 0 || (70_000..71_000).contains(row));
    let vector: DeletionVector = rows.map(Row).collect();
    let file_id = FileId(*b"a deletions file");
    let (file, _) = deletion::encode(file_id, &[(SegmentId(7), &vector)]).expect("few rows");
    file
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
        for (name, mode) in [("change", mode), ("forged", 0x80 | mode)] {
            let changes = [&[mode][..], &one, &two].concat();
            seeds.push((format!("{name}-{how}"), changes));
        }
    }
    seeds
}
