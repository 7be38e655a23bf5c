//! The databases that are damaged, each closed cleanly, and their relatives.
//!
//! Owns which there are. `main` has at least 64 KiB of segments, of logs and of
//! manifest: two collections with graphs, one of them with norms, payloads, rows that
//! are overwritten and deleted, and many rows that are in the log alone. `tombs` has
//! deletion vectors of 64 KiB, which takes so many rows that it is a database of its
//! own. A donor is another state: an earlier one of the same database, or the same
//! operations elsewhere. Invariant: equal seeds make equal bytes. Must not know: how
//! files are damaged.

use std::path::Path;
use std::sync::Arc;

use esker::MapMode;
use esker_segment::Bytes;

use super::contents::{crowd_keys, key, write_main, write_tombs};
use super::questions::Expected;
use super::shelf::Files;
use crate::sim::SimEnv;

pub(super) const DIR: &str = "/db";

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Segment,
    Log,
    Manifest,
    Deletions,
    Current,
    Lock,
}

impl Kind {
    /// In the order of tables.
    pub const ALL: [Self; 6] = [
        Self::Segment,
        Self::Log,
        Self::Manifest,
        Self::Deletions,
        Self::Current,
        Self::Lock,
    ];

    fn of(name: &str) -> Self {
        match name.split_once('.').map_or(name, |(_, kind)| kind) {
            "segment" => Self::Segment,
            "log" => Self::Log,
            "manifest" => Self::Manifest,
            "deletions" => Self::Deletions,
            "CURRENT" => Self::Current,
            "LOCK" => Self::Lock,
            _ => panic!("{name} is no file of a database at rest"),
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::Log => "log",
            Self::Manifest => "manifest",
            Self::Deletions => "deletions",
            Self::Current => "CURRENT",
            Self::Lock => "LOCK",
        }
    }
}

/// One file of a database at rest.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) name: Arc<str>,
    pub(super) kind: Kind,
    pub(super) bytes: Bytes,
}

/// Another state, from which sectors and files are taken.
pub(super) struct Donor {
    pub(super) name: &'static str,
    pub(super) files: Vec<File>,
}

/// A database that is damaged.
pub struct Specimen {
    pub(super) name: &'static str,
    /// By name.
    pub(super) files: Vec<File>,
    pub(super) donors: Vec<Donor>,
    /// What it answers, as maps and by reads.
    pub(super) expected: [Expected; 2],
    /// Of the bits of segments, one in so many is flipped.
    pub(super) segment_stride: u64,
    /// After an error, everything else is asked in one of so many flips and cuts, and
    /// in sixteen times as many of other cases.
    pub(super) thorough: u64,
}

/// How a database comes to be.
struct Script {
    name: &'static str,
    /// Makes it, and gives earlier states of it.
    write: fn(&SimEnv, f32) -> [Donor; 2],
    /// Every key that was ever there, or a share of them.
    keys: fn() -> Vec<Vec<u8>>,
    segment_stride: u64,
    thorough: u64,
}

impl Specimen {
    /// Of everything at least 64 KiB but deletion vectors.
    #[must_use]
    pub fn main(seed: u64) -> Self {
        Self::make(
            seed,
            &Script {
                name: "main",
                write: write_main,
                keys: || (0..460).map(|n| key(n).to_vec()).collect(),
                segment_stride: 1,
                thorough: 256,
            },
        )
    }

    /// Deletion vectors of 64 KiB.
    #[must_use]
    pub fn tombs(seed: u64) -> Self {
        Self::make(
            seed,
            &Script {
                name: "tombs",
                write: write_tombs::<8>,
                keys: crowd_keys::<8>,
                segment_stride: 251,
                thorough: 1024,
            },
        )
    }

    /// As [`Specimen::tombs`], with an eighth of it.
    #[must_use]
    pub fn few_tombs(seed: u64) -> Self {
        Self::make(
            seed,
            &Script {
                name: "few-tombs",
                write: write_tombs::<1>,
                keys: crowd_keys::<1>,
                segment_stride: 251,
                thorough: 1024,
            },
        )
    }

    fn make(seed: u64, script: &Script) -> Self {
        let run = |seed, value| {
            let env = SimEnv::new(seed);
            let earlier = (script.write)(&env, value);
            (files(&env), earlier)
        };
        let (own, earlier) = run(seed, 1.0);
        let (other_ids, _) = run(!seed, 1.0);
        let (other_values, _) = run(seed, 2.0);
        let donor = |name, files| Donor { name, files };
        let mut donors = Vec::from(earlier);
        donors.push(donor("other-ids", other_ids));
        donors.push(donor("other-values", other_values));
        let expected = [MapMode::Mmap, MapMode::Pread]
            .map(|mode| Expected::of(shared(&own), mode, &(script.keys)()));
        Self {
            name: script.name,
            files: own,
            donors,
            expected,
            segment_stride: script.segment_stride,
            thorough: script.thorough,
        }
    }

    /// What it is called in the names of cases.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Bytes of all files of a kind.
    #[must_use]
    pub fn bytes_of(&self, kind: Kind) -> usize {
        let files = self.files.iter().filter(|file| file.kind == kind);
        files.map(|file| file.bytes.len()).sum()
    }

    /// The files as a shelf takes them.
    pub(super) fn shared(&self) -> Files {
        shared(&self.files)
    }
}

fn shared(files: &[File]) -> Files {
    let files = files.iter();
    files
        .map(|f| (Arc::clone(&f.name), f.bytes.clone()))
        .collect()
}

pub(super) fn files(env: &SimEnv) -> Vec<File> {
    let names = env.names(DIR).expect("lists");
    let file = |name: String| File {
        kind: Kind::of(&name),
        bytes: Bytes::from_vec(env.file(Path::new(DIR).join(&name)).expect("reads")),
        name: name.into(),
    };
    names.into_iter().map(file).collect()
}
