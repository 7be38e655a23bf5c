//! Databases with one damaged segment, and what they must still answer.
//!
//! Owns the rows, the two kinds of disk, and the places that are damaged. Must not
//! know: what the engine does about damage.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use esker::{
    Background, Collection, CollectionOptions, Db, Error, GraphOptions, Hit, MapMode, Metric,
    Options, SearchOptions, SearchResult,
};
use esker_tests::forge;
use esker_tests::load::uniform;
use esker_tests::sim::{Crash, SimEnv};

/// Rows of each segment of collection `a`.
pub const ROWS: u64 = 40;
/// Segments of collection `a`.
pub const SEGMENTS: u64 = 3;
/// The segment that is damaged, of `a`'s, oldest first.
pub const DAMAGED: u64 = 1;
pub const DIMENSION: usize = 4;

/// Keys that only the memtable has.
pub const FRESH: [u64; 2] = [1_000, 1_001];
/// Place in each segment of a row that is deleted, in a deletion vector.
const DEAD_ROW: u64 = 7;
/// The one of the damaged segment.
pub const DEAD: u64 = DAMAGED * ROWS + DEAD_ROW;
/// Rows of each segment that live.
pub const LIVE: u64 = ROWS - 1;
/// Rows of collection `a`.
pub const ALL: u64 = SEGMENTS * LIVE + FRESH.len() as u64;

/// A simulated disk, or a directory of the machine's.
pub enum Disk {
    Sim(SimEnv),
    Real(tempfile::TempDir),
}

impl Disk {
    pub fn both() -> [fn() -> Self; 2] {
        [
            || Self::Sim(SimEnv::new(11)),
            || Self::Real(tempfile::tempdir().expect("dir")),
        ]
    }

    pub fn dir(&self) -> PathBuf {
        match self {
            Self::Sim(_) => PathBuf::from("/db"),
            Self::Real(dir) => dir.path().join("db"),
        }
    }

    pub fn options(&self, mode: MapMode) -> Options {
        let options = Options::new()
            .background(Background::Manual)
            .auto_compact(false)
            .map_mode(mode)
            .graph(GraphOptions::new().min_rows(10));
        match self {
            Self::Sim(env) => options.env(env.env()),
            Self::Real(_) => options,
        }
    }

    pub fn names(&self) -> Vec<String> {
        let mut names = match self {
            Self::Sim(env) => env.names("/db").expect("lists"),
            Self::Real(_) => std::fs::read_dir(self.dir())
                .expect("lists")
                .map(|entry| entry.expect("reads").file_name())
                .map(|name| name.into_string().expect("ours"))
                .collect(),
        };
        names.sort();
        names
    }

    pub fn read(&self, path: &Path) -> Vec<u8> {
        match self {
            Self::Sim(env) => env.file(path).expect("reads"),
            Self::Real(_) => std::fs::read(path).expect("reads"),
        }
    }

    /// Changes bytes of a file where it lies: mappings of it see that.
    pub fn write(&self, path: &Path, content: &[u8]) {
        match self {
            Self::Sim(env) => env.set_file(path, content.to_vec()).expect("set"),
            Self::Real(_) => {
                let file = std::fs::OpenOptions::new().write(true).open(path);
                let file = file.expect("opens");
                file.set_len(content.len() as u64).expect("cut");
                file.write_all_at(content, 0).expect("written");
            }
        }
    }

    pub fn remove(&self, path: &Path) {
        match self {
            Self::Sim(env) => env.delete_file(path).expect("removed"),
            Self::Real(_) => std::fs::remove_file(path).expect("removed"),
        }
    }

    /// The same bytes on a disk of their own.
    pub fn copy(&self) -> Self {
        match self {
            Self::Sim(env) => Self::Sim(env.crash_image(Crash::KeepAll)),
            Self::Real(_) => {
                let copy = Self::Real(tempfile::tempdir().expect("dir"));
                std::fs::create_dir(copy.dir()).expect("made");
                for name in self.names() {
                    let (from, to) = (self.dir().join(&name), copy.dir().join(&name));
                    std::fs::copy(from, to).expect("copied");
                }
                copy
            }
        }
    }

    pub fn open(&self, mode: MapMode) -> Db {
        Db::open(self.dir(), self.options(mode)).expect("opens")
    }
}

/// Every row of a segment of `a`, or of its memtable: key, vector, payload.
pub fn rows(segment: Option<u64>) -> Vec<(u64, Vec<f32>, Vec<u8>)> {
    let keys: Vec<u64> = match segment {
        Some(n) => (n * ROWS..(n + 1) * ROWS)
            .filter(|k| k % ROWS != DEAD_ROW)
            .collect(),
        None => FRESH.to_vec(),
    };
    let vectors = uniform(5, 2_000, DIMENSION);
    let row = |key: u64| (key, vectors[key as usize].clone(), key.to_string().into());
    keys.into_iter().map(row).collect()
}

/// A closed database: `a` has three segments with graphs and two fresh rows, one row of
/// each is deleted; `b` has one segment.
pub struct Bed {
    pub disk: Disk,
    pub mode: MapMode,
    /// The file that is damaged, and the one with its deletion vector.
    pub segment: PathBuf,
    pub deletions: PathBuf,
}

pub fn collection(db: &Db, name: &str) -> Collection {
    db.collection(name).expect("there")
}

fn put_all(c: &Collection, rows: &[(u64, Vec<f32>, Vec<u8>)]) {
    for (key, vector, payload) in rows {
        c.put_with_payload(*key, vector, payload).expect("written");
    }
}

fn with(names: &[String], end: &str) -> Vec<String> {
    let found = names.iter().filter(|name| name.ends_with(end));
    found.cloned().collect()
}

impl Bed {
    pub fn new(disk: Disk, mode: MapMode) -> Self {
        let db = disk.open(mode);
        let shape = CollectionOptions::new(DIMENSION as u32, Metric::Cosine);
        let a = db.create_collection("a", shape).expect("made");
        let b = db.create_collection("b", shape).expect("made");
        let mut segments = Vec::new();
        for n in 0..SEGMENTS {
            let before = with(&disk.names(), ".segment");
            put_all(&a, &rows(Some(n)));
            a.put(n * ROWS + DEAD_ROW, &[1.0; DIMENSION])
                .expect("written");
            db.flush().expect("flushed");
            let now = with(&disk.names(), ".segment");
            segments.extend(now.into_iter().filter(|name| !before.contains(name)));
        }
        for n in (0..SEGMENTS).filter(|n| *n != DAMAGED) {
            a.delete(n * ROWS + DEAD_ROW).expect("written");
        }
        db.flush().expect("flushed");
        // In a file of its own.
        a.delete(DEAD).expect("written");
        put_all(&b, &rows(Some(0)));
        db.flush().expect("flushed");
        put_all(&a, &rows(None));
        db.close().expect("closes");
        drop((a, b, db));
        let deletions = with(&disk.names(), ".deletions");
        assert_eq!((segments.len(), deletions.len()), (3, 2));
        Self {
            segment: disk.dir().join(&segments[DAMAGED as usize]),
            deletions: disk.dir().join(&deletions[1]),
            mode,
            disk,
        }
    }

    /// On both kinds of disk, in both modes.
    pub fn all() -> impl Iterator<Item = Self> {
        let modes = [MapMode::Mmap, MapMode::Pread];
        let beds = modes.map(|mode| Disk::both().map(|disk| Self::new(disk(), mode)));
        beds.into_iter().flatten()
    }

    pub fn copy(&self) -> Self {
        let disk = self.disk.copy();
        let moved = |path: &PathBuf| disk.dir().join(path.file_name().expect("a name"));
        Self {
            segment: moved(&self.segment),
            deletions: moved(&self.deletions),
            mode: self.mode,
            disk,
        }
    }

    pub fn open(&self) -> Db {
        self.disk.open(self.mode)
    }

    pub fn sections(&self) -> Vec<Section> {
        let file = self.disk.read(&self.segment);
        let sections = forge::sections(&file).into_iter();
        let found = sections.map(|(entry, bytes)| Section {
            tag: u16::from_le_bytes([file[entry], file[entry + 1]]),
            bytes,
        });
        found.filter(|section| !section.bytes.is_empty()).collect()
    }

    /// Flips one bit in the middle of a section, in the file as it lies.
    pub fn flip(&self, section: &Section) {
        let mut file = self.disk.read(&self.segment);
        file[section.bytes.start + section.bytes.len() / 2] ^= 4;
        self.disk.write(&self.segment, &file);
    }
}

/// A section of the file that is damaged.
#[derive(Clone, Debug)]
pub struct Section {
    pub tag: u16,
    pub bytes: std::ops::Range<usize>,
}

impl Section {
    /// Whether an open reads it.
    pub fn is_table(&self) -> bool {
        use esker_segment::layout::SectionTag::{Codec, KeyFences, Stats};
        [Codec as u16, KeyFences as u16, Stats as u16].contains(&self.tag)
    }
}

/// All rows, exactly.
pub fn exact() -> SearchOptions {
    SearchOptions::new(500)
        .exact(true)
        .with_vectors(true)
        .with_payloads(true)
}

/// Reads every block of every section in some way: the first thing that fails.
pub fn touch_all(c: &Collection) -> esker::Result<()> {
    for n in 0..SEGMENTS {
        for (key, ..) in rows(Some(n)) {
            c.get(key)?;
        }
    }
    c.scan(..)?.collect::<esker::Result<Vec<_>>>()?;
    let query = [0.5; DIMENSION];
    c.search(&query, &exact())?;
    let walk = SearchOptions::new(5).l_search(10);
    c.search(&query, &walk)?;
    Ok(())
}

/// The damage that a call met, which must name the file.
pub fn damage<T: std::fmt::Debug>(answer: esker::Result<T>, file: &Path) -> (u64, String) {
    match answer {
        Err(Error::Corruption {
            file: named,
            offset,
            what,
        }) if named == file => (offset, what),
        other => panic!("expected damage of {}, got {other:?}", file.display()),
    }
}

/// The exact answer over some of the segments and the fresh rows, from a database that
/// has nothing else.
pub fn answer_over(segments: &[u64], query: &[f32]) -> Vec<Hit> {
    let db = Disk::Sim(SimEnv::new(3)).open(MapMode::Mmap);
    let shape = CollectionOptions::new(DIMENSION as u32, Metric::Cosine);
    let c = db.create_collection("c", shape).expect("made");
    for n in segments {
        put_all(&c, &rows(Some(*n)));
    }
    put_all(&c, &rows(None));
    c.search(query, &exact()).expect("searches").hits
}

/// That an answer is the right one without the damaged segment, and says so.
pub fn assert_skipped(found: &SearchResult, query: &[f32]) {
    let others: Vec<u64> = (0..SEGMENTS).filter(|n| *n != DAMAGED).collect();
    assert_eq!(found.hits, answer_over(&others, query));
    assert_eq!(found.skipped.len(), 1);
    assert!(found.stats.incomplete);
}
