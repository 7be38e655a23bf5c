//! What opening files costs in heap: at most twice their bytes and 16 MiB, and far
//! less for small ones, whatever their lengths and counts say.
#![allow(
    clippy::disallowed_methods,
    reason = "the corpora are files of the host"
)]

use std::fs;
use std::ops::Range;
use std::path::Path;

use esker::MapMode;
use esker_fuzz::heap::{self, bounded, open_bound, peak};
use esker_fuzz::{BASES, TARGETS, base_files, open_files};
use esker_tests::forge::{self, FRAME_HEADER, LOG_HEADER};

/// What a field is made to say. As a 64-bit field's upper half each is far beyond any
/// file, as its lower half just beyond this one, or a size that would pass for honest.
const LIES: [u32; 4] = [u32::MAX, 0x7FFF_FFF0, 1 << 24, 0];

#[test]
fn the_counter_counts() {
    assert_eq!(peak(|| drop(vec![0_u8; 999])).1, 999);
    let (kept, bytes) = peak(|| {
        drop(Vec::<u64>::with_capacity(500));
        vec![7_u8; 100]
    });
    assert_eq!((kept.len(), bytes), (100, 4_000));
    let (_, bytes) = peak(|| peak(|| drop(vec![0_u8; 50])).1 + peak(|| ()).1);
    assert_eq!(bytes, 50, "what is inside counts outside");
    let (grown, bytes) = peak(|| {
        let mut grown = vec![1_u8; 64];
        grown.reserve_exact(1_000 - 64);
        grown
    });
    assert_eq!((grown.len(), bytes), (64, 1_064), "both, while it moves");
    assert_eq!(open_bound(1_000), 2_000 + (16 << 20));
    bounded(500, 1_000, || drop(vec![0_u8; 2_000]));
    let over = || bounded(500, 1_000, || drop(vec![0_u8; 2_001]));
    assert!(std::panic::catch_unwind(over).is_err(), "one byte too many");
    let over = || bounded(1, u64::MAX / 4, || drop(vec![0_u8; (16 << 20) + 3]));
    assert!(std::panic::catch_unwind(over).is_err(), "beyond the bound");
}

/// The targets hold their opens against the bound themselves; this one says that they
/// do, and how near they come.
#[test]
fn no_corpus_input_of_a_target_that_opens_files_takes_more() {
    for (target, check) in TARGETS {
        if matches!(target, "batch_decode" | "engine_ops") {
            continue;
        }
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(target);
        let mut files = 0;
        for entry in fs::read_dir(&dir).unwrap() {
            check(&fs::read(entry.unwrap().path()).unwrap());
            files += 1;
        }
        assert!(files > 0, "{target} has no corpus");
    }
    let most = heap::most();
    println!("at most {most} bytes beside twice the files");
    assert!(most > 10 << 10, "nothing was counted");
}

/// The places of a file where counts, lengths, offsets and kinds are.
fn fields(name: &str, file: &[u8]) -> Vec<usize> {
    let step = |range: Range<usize>| range.step_by(4);
    let end = file.len().saturating_sub(3);
    if name.ends_with(".segment") {
        let footer = forge::footer(file).expect("a segment has one");
        let starts = forge::sections(file).into_iter().flat_map(|(_, section)| {
            let end = section.end.min(section.start + 120);
            step(section.start..end.saturating_sub(3))
        });
        let own = step(0..80).chain(step(footer.start..end));
        own.chain(starts).collect()
    } else if name.ends_with(".log") {
        step(0..end.min(LOG_HEADER + 4 * FRAME_HEADER)).collect()
    } else {
        step(0..end).collect()
    }
}

#[test]
fn no_forged_length_costs_more_than_its_file_allows() {
    let (mut tried, mut opened) = (0, 0);
    for base in 0..BASES {
        let whole = base_files(base);
        for (n, (name, file)) in whole.iter().enumerate() {
            for (place, at) in fields(name, file).into_iter().enumerate() {
                for (which, lie) in LIES.into_iter().enumerate() {
                    let mut files = whole.to_vec();
                    forge::put(&mut files[n].1, at, &lie.to_le_bytes());
                    // One way to seal, one way to read for each.
                    match place % 2 {
                        0 => forge::directory(&mut files),
                        _ => forge::sealed_directory(&mut files),
                    }
                    let mode = [MapMode::Mmap, MapMode::Pread][(place + which) % 2];
                    opened += u32::from(open_files(&files, mode).is_ok());
                    tried += 1;
                }
            }
        }
    }
    println!(
        "{tried} tried, {opened} opened; at most {} beside",
        heap::most()
    );
    assert!(tried > 10_000 && opened > 500, "{opened} of {tried}");
}
