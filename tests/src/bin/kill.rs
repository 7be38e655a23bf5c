//! Kills a real process that writes to a real directory, again and again, and
//! checks after each kill that the database holds exactly what it must.
//!
//! The child's operations are a function of their number, and every batch holds
//! its own number, so after a kill the parent reads how far the child got and
//! compares the whole state with a model of that many operations. Legal is what
//! was acknowledged, plus at most the one operation that was in flight.
//!
//! `kill [--kills N] [--seed S] [--dir DIR]`; the last line is a JSON object, the
//! exit code is 1 if anything was lost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use esker::{Collection, CollectionOptions, Db, Durability, Metric, Options, SearchOptions};
use esker::{WriteBatch, WriteOptions};
use esker_tests::child::{Talker, say};

type Rows = BTreeMap<Vec<u8>, (Vec<f32>, Option<Vec<u8>>)>;

/// Collections beside the one that holds the operation's number.
const SHAPES: [(&str, u32, Metric); 2] = [("a", 8, Metric::L2), ("b", 24, Metric::Cosine)];
const KEYS: u64 = 1_500;

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// One change of operation `op`: collection, key, and the row or its end.
type Change = (usize, Vec<u8>, Option<(Vec<f32>, Option<Vec<u8>>)>);

fn changes(seed: u64, op: u64) -> Vec<Change> {
    let r = mix(seed ^ mix(op));
    let count = if r.is_multiple_of(7) {
        2 + r / 7 % 30
    } else {
        1
    };
    (0..count)
        .map(|i| {
            let r = mix(r ^ (i + 1));
            let which = (r % 2) as usize;
            let key = format!("key-{:05}", mix(r) % KEYS).into_bytes();
            let row = (!(r / 2).is_multiple_of(5)).then(|| {
                let vector = (0..SHAPES[which].1)
                    .map(|d| (mix(r ^ u64::from(d)) % 2_001) as f32 / 1_000.0 - 1.0 + 1e-3)
                    .collect();
                let payload = (r / 10)
                    .is_multiple_of(3)
                    .then(|| vec![r as u8; (r / 30 % 300) as usize]);
                (vector, payload)
            });
            (which, key, row)
        })
        .collect()
}

fn options() -> Options {
    Options::new()
        .memory_budget(2 << 20)
        .memtable_bytes(64 << 10)
        .log_file_bytes(128 << 10)
        .max_log_bytes(1 << 20)
}

fn collections(db: &Db) -> (Vec<Collection>, Collection) {
    let rows = SHAPES.map(|(name, dimension, metric)| {
        db.create_collection(name, CollectionOptions::new(dimension, metric))
            .expect("collection")
    });
    let progress = db.create_collection("progress", CollectionOptions::new(1, Metric::L2));
    (rows.into(), progress.expect("collection"))
}

fn reached(progress: &Collection) -> u64 {
    let record = progress.get("op").expect("readable");
    record.map_or(0, |record| {
        u64::from_le_bytes(
            record
                .payload
                .expect("a number")
                .try_into()
                .expect("eight bytes"),
        )
    })
}

/// Writes until it is killed, saying after each acknowledgement which it was.
fn child(dir: &Path, seed: u64) {
    let db = Db::open(dir, options()).expect("opens");
    let (rows, progress) = collections(&db);
    let mut op = reached(&progress);
    loop {
        op += 1;
        let mut batch = WriteBatch::new();
        for (which, key, row) in changes(seed, op) {
            let (c, key) = (&rows[which], key.as_slice());
            match row {
                Some((vector, Some(payload))) => batch.put_with_payload(c, key, &vector, &payload),
                Some((vector, None)) => batch.put(c, key, &vector),
                None => batch.delete(c, key),
            }
            .expect("valid");
        }
        batch
            .put_with_payload(&progress, "op", &[1.0], &op.to_le_bytes())
            .expect("valid");
        let durability = match op % 4 {
            0 => Durability::Sync,
            1 => Durability::Periodic(Duration::from_millis(5)),
            _ => Durability::Os,
        };
        db.write_with(batch, WriteOptions::new().durability(durability))
            .expect("acknowledged");
        say(op).expect("the parent listens");
    }
}

fn spawn(dir: &Path, seed: u64) -> Talker {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command
        .args(["--child", &seed.to_string(), "--dir"])
        .arg(dir);
    Talker::spawn(&mut command).expect("starts")
}

/// Lets a child write for `life`, kills it, and returns the last number that it
/// said was acknowledged.
fn run_and_kill(dir: &Path, seed: u64, life: Duration) -> u64 {
    let process = spawn(dir, seed);
    std::thread::sleep(life);
    process.kill().expect("killed")
}

#[derive(Default)]
struct Model {
    at: u64,
    rows: [Rows; 2],
}

impl Model {
    fn advance(&mut self, seed: u64, to: u64) {
        while self.at < to {
            self.at += 1;
            for (which, key, row) in changes(seed, self.at) {
                match row {
                    Some(row) => self.rows[which].insert(key, row),
                    None => self.rows[which].remove(&key),
                };
            }
        }
    }

    /// Everything that differs, at most a few lines.
    fn differences(&self, rows: &[Collection]) -> Vec<String> {
        let mut found = Vec::new();
        for (model, collection) in self.rows.iter().zip(rows) {
            let stored: Rows = collection
                .scan(..)
                .expect("scans")
                .map(|item| item.expect("readable"))
                .map(|(key, record)| (key.to_vec(), (record.vector, record.payload)))
                .collect();
            let len = collection.len().expect("counts");
            if len != model.len() as u64 {
                found.push(format!(
                    "{}: len {len}, not {}",
                    collection.name(),
                    model.len()
                ));
            }
            for key in model.keys().chain(stored.keys()) {
                if model.get(key) != stored.get(key) {
                    found.push(format!(
                        "{}: {} differs",
                        collection.name(),
                        key.escape_ascii()
                    ));
                }
            }
            if let Some((key, (vector, _))) = model.iter().next() {
                let nearest = collection
                    .search(vector, &SearchOptions::new(1))
                    .expect("searches");
                let distance = nearest.hits.first().map(|hit| hit.distance);
                if distance.is_none_or(|d| d > 1e-5) {
                    found.push(format!(
                        "{}: {} is not found",
                        collection.name(),
                        key.escape_ascii()
                    ));
                }
            }
        }
        found.truncate(5);
        found
    }
}

struct Arguments {
    kills: u64,
    seed: u64,
    child: Option<u64>,
    dir: Option<PathBuf>,
}

fn arguments() -> Arguments {
    let mut parsed = Arguments {
        kills: 1_000,
        seed: 1,
        child: None,
        dir: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words
            .next()
            .unwrap_or_else(|| panic!("{word} needs a value"));
        let number = || {
            value
                .parse()
                .unwrap_or_else(|_| panic!("{word} takes a number"))
        };
        match word.as_str() {
            "--kills" => parsed.kills = number(),
            "--seed" => parsed.seed = number(),
            "--child" => parsed.child = Some(number()),
            "--dir" => parsed.dir = Some(value.into()),
            _ => panic!("unknown option {word}"),
        }
    }
    parsed
}

fn main() -> ExitCode {
    let arguments = arguments();
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let dir = arguments.dir.unwrap_or_else(|| scratch.path().join("db"));
    if let Some(seed) = arguments.child {
        child(&dir, seed);
        return ExitCode::SUCCESS;
    }
    let started = Instant::now();
    let mut model = Model::default();
    let (mut violations, mut in_flight, mut merges, mut torn) = (0_u64, 0_u64, 0_usize, 0_u64);
    for kill in 1..=arguments.kills {
        let life = Duration::from_micros(3_000 + mix(arguments.seed ^ kill) % 60_000);
        let acknowledged = run_and_kill(&dir, arguments.seed, life).max(model.at);
        let db = Db::open(&dir, options()).expect("opens after a kill");
        let (rows, progress) = collections(&db);
        let reached = reached(&progress);
        if !(acknowledged..=acknowledged + 1).contains(&reached) {
            violations += 1;
            println!("kill {kill}: acknowledged {acknowledged}, found {reached}");
        }
        in_flight += u64::from(reached > acknowledged);
        torn += u64::from(db.recovery_report().torn_tail.is_some());
        model.advance(arguments.seed, reached);
        let differences = model.differences(&rows);
        violations += differences.len() as u64;
        differences
            .iter()
            .for_each(|line| println!("kill {kill}, operation {reached}: {line}"));
        merges = merges.max(db.stats().segments);
        if kill % 100 == 0 {
            println!("{kill} kills, {reached} operations, {violations} violations");
        }
        // Every third time the parent closes cleanly, otherwise it just goes on.
        if kill % 3 == 0 {
            db.close().expect("closes");
        }
    }
    println!(
        "{{\"kills\":{},\"operations\":{},\"in_flight_found\":{in_flight},\"torn_tails\":{torn},\
         \"most_segments\":{merges},\"violations\":{violations},\"seconds\":{:.1},\"seed\":{}}}",
        arguments.kills,
        model.at,
        started.elapsed().as_secs_f64(),
        arguments.seed
    );
    if violations == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
