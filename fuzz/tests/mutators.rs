//! The mutators, without a fuzzer: they keep their promises and reach what lies
//! behind the checksums.
#![allow(
    clippy::disallowed_methods,
    reason = "the corpora are files of the host"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use esker_fuzz::mutate::Mutate;
use esker_fuzz::{MUTATORS, TARGETS};
use esker_segment::{
    BlockCache, CollectionId, Expected, FileId, Metric, Paged, ReadAt, Segment, SegmentError,
    SegmentId,
};
use esker_tests::forge::{self, u32_at, u64_at};
use esker_tests::rng::{Rng, mix};

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let mut paths: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// What a fuzzer might do on its own: other bytes, and another length.
fn plain(data: &mut [u8], size: usize, most: usize) -> usize {
    assert!(size <= most && most <= data.len() && most > 0);
    let mut rng = Rng::new(
        data[..size]
            .iter()
            .fold(7, |seed, byte| mix(seed ^ u64::from(*byte))),
    );
    let size = match rng.below(3) {
        0 => rng.below(most as u64 + 1) as usize,
        _ => size,
    };
    for _ in 0..2 {
        if size > 0 {
            data[rng.below(size as u64) as usize] = rng.draw() as u8;
        }
    }
    size
}

fn mutated(mutate: Mutate, input: &[u8], seed: u32, most: usize) -> Vec<u8> {
    let mut data = input.to_vec();
    data.truncate(most);
    let size = data.len();
    data.resize(most, 0xAA);
    let len = mutate(&mut data, size, most, seed, plain);
    assert!(len <= most, "{len} bytes where {most} are allowed");
    data.truncate(len);
    data
}

#[test]
fn every_mutation_is_handled_and_a_function_of_its_seed() {
    for (target, mutate) in MUTATORS {
        let check = TARGETS.iter().find(|(name, _)| *name == target).unwrap().1;
        let (mut changed, mut tried) = (0, 0);
        let corpus = corpus(target);
        let rounds = 300 / corpus.len() as u32 + 1;
        for (n, input) in (0..).zip(&corpus) {
            for seed in 0..rounds {
                let seed = n * 1_000 + seed;
                for most in [1, 70, input.len() + 512] {
                    let one = mutated(mutate, input, seed, most);
                    assert_eq!(one, mutated(mutate, input, seed, most), "{target} {seed}");
                    if most > 70 {
                        check(&one);
                        changed += u32::from(one != *input);
                        tried += 1;
                    }
                }
            }
        }
        // Some take away what is not there, or put right what was changed.
        assert!(changed * 4 > tried * 3, "{target}: {changed} of {tried}");
    }
}

/// A file that is read as a device is.
struct Device(Vec<u8>);

impl ReadAt for Device {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        let from = self.0.get(offset as usize..).unwrap_or_default();
        let len = from.len().min(buffer.len());
        buffer[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }
}

/// What an open and a verification of it say is wrong.
fn verdicts(file: &[u8]) -> Vec<String> {
    if file.len() < 80 {
        return Vec::new();
    }
    let expected = Expected {
        file_id: FileId(file[40..56].try_into().unwrap()),
        id: SegmentId(u64_at(file, 56)),
        collection: CollectionId(u32_at(file, 64)),
        dimension: u32_at(file, 68),
        metric: Metric::from_tag(file[76]).unwrap_or(Metric::L2),
        len: file.len() as u64,
        hash: u64_at(file, file.len() - 16),
        rows: u32_at(file, 72),
    };
    let paged = Paged::new(
        Device(file.to_vec()),
        file.len() as u64,
        BlockCache::new(16 << 10),
    );
    let what = |error: SegmentError| match error {
        SegmentError::Corruption { what, .. } => what.to_string(),
        other => other.to_string(),
    };
    match Segment::open(paged, &expected) {
        Ok(segment) => segment.verify().err().map(what).into_iter().collect(),
        Err(error) => vec![what(error)],
    }
}

#[test]
fn mutated_segments_get_past_the_checksums() {
    let (mut behind, mut failed, mut all) = (BTreeSet::new(), 0, 0);
    let mutate = MUTATORS
        .iter()
        .find(|(name, _)| *name == "segment_open")
        .unwrap()
        .1;
    for number in 0..3 {
        let base = esker_fuzz::base_segment(number);
        assert_eq!(verdicts(&base), Vec::<String>::new());
        for seed in 0..600 {
            let mut file = mutated(mutate, &base, seed, base.len());
            forge::segment(&mut file);
            all += 1;
            for what in verdicts(&file) {
                failed += usize::from(what.contains("checksum"));
                behind.insert(what);
            }
        }
    }
    // What is left has sections that lie over each other, or no table of hashes.
    assert!(failed * 20 < all, "{failed} of {all} fail a checksum");
    assert!(behind.len() >= 25, "only {}: {behind:#?}", behind.len());
}

/// Whatever is changed in a database's files, what names them is put right with them:
/// left as they are they open, sealed ones as closed ones.
#[test]
fn what_is_not_changed_is_still_right_when_it_was_put_right() {
    for base in 0..esker_fuzz::BASES {
        let files = esker_fuzz::base_files(base);
        let mut sealed = files.to_vec();
        forge::sealed_directory(&mut sealed);
        assert_eq!(sealed, files, "there was nothing to put right");
        let mut unsealed = files.to_vec();
        forge::directory(&mut unsealed);
        for files in [sealed, unsealed] {
            esker_fuzz::open_files(&files, esker::MapMode::Mmap).unwrap();
        }
        // A byte of a payload, in the last log's last frame: the chain, its end in the
        // manifest's seal, the manifest's own chain and its end in `CURRENT` follow.
        let mut changed = files.to_vec();
        let log = changed.iter().rposition(|(name, file)| {
            name.ends_with(".log") && file[forge::LOG_HEADER..].iter().any(|byte| *byte != 0)
        });
        if let Some(log) = log {
            let bytes = &mut changed[log].1;
            let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
            bytes[last] ^= 1;
            forge::sealed_directory(&mut changed);
            assert_ne!(changed.as_slice(), files);
            esker_fuzz::open_files(&changed, esker::MapMode::Mmap).unwrap();
        }
    }
}
