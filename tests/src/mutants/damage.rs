//! Flipped bits, cut files and lost files of databases at rest.
//!
//! Owns which damages are tried: of every file in turn, so that a small file is not
//! forgotten for a large one. Must not know: what files mean.

use std::time::Instant;

use super::fixture::{Fixture, Plan, Tampered};
use crate::rng::Rng;

/// Damages that are tried at most, all databases together.
const MOST: usize = 12_000;
/// Bytes of a file whose bits are all tried; of a longer one, so many are drawn.
const ALL_BITS: usize = 6_000;

#[derive(Clone, Copy)]
enum Damage {
    Flip(usize, u8),
    Cut(usize),
    Gone,
}

pub(super) fn hunt(seed: u64, deadline: Instant) -> Result<(), String> {
    let plans = [
        (false, false, true),
        (true, true, true),
        (false, false, false),
        (true, false, true),
        (false, true, true),
    ];
    for (i, (closed, pread, grown)) in plans.into_iter().enumerate() {
        let fixture = Fixture::new(Plan {
            seed,
            value: 1.5,
            pread,
            closed,
            grown,
            extra: 0,
            dropped: false,
        });
        let start = Instant::now();
        let share = deadline.saturating_duration_since(start) / (plans.len() - i) as u32;
        each(&fixture, Rng::part(seed, i as u64), start + share)?;
    }
    Ok(())
}

fn each(fixture: &Fixture, mut rng: Rng, deadline: Instant) -> Result<(), String> {
    let names = fixture.names();
    let files: Vec<_> = names.iter().map(|name| fixture.file(name)).collect();
    let several_logs = names.iter().filter(|name| name.ends_with(".log")).count() > 1;
    let mut damages: Vec<_> = files.iter().map(|f| damages(f, &mut rng)).collect();
    for _ in 0..MOST / 5 / names.len() {
        for ((name, bytes), damages) in names.iter().zip(&files).zip(&mut damages) {
            let Some(damage) = damages.pop() else {
                continue;
            };
            if Instant::now() > deadline {
                return Ok(());
            }
            let (what, content) = damaged(name, bytes, damage);
            fixture.judge(&Tampered {
                what,
                files: vec![(name, content)],
                harmless: false,
                cut: match damage {
                    Damage::Flip(..) => false,
                    Damage::Cut(_) => true,
                    // The first of the chain is in the manifest.
                    Damage::Gone => several_logs,
                },
            })?;
        }
    }
    Ok(())
}

/// The damages of one file, to be taken from the end.
fn damages(bytes: &[u8], rng: &mut Rng) -> Vec<Damage> {
    let len = bytes.len();
    let drawn = |rng: &mut Rng| rng.below(len as u64) as usize;
    let mut all = Vec::new();
    if len <= ALL_BITS {
        all.extend((0..len * 8).map(|at| Damage::Flip(at / 8, (at % 8) as u8)));
    } else {
        // Most of a segment is padding: what is not is as likely.
        let written: Vec<_> = (0..len).filter(|&at| bytes[at] != 0).collect();
        for _ in 0..ALL_BITS / 2 {
            let bit = rng.below(8) as u8;
            all.push(Damage::Flip(drawn(rng), bit));
            let at = written[rng.below(written.len() as u64) as usize];
            all.push(Damage::Flip(at, bit));
        }
    }
    for i in (1..all.len()).rev() {
        all.swap(i, rng.below(i as u64 + 1) as usize);
    }
    all.extend((0..12).map(|_| Damage::Cut(drawn(rng))));
    all.extend([Damage::Cut(0), Damage::Cut(len.saturating_sub(1))]);
    all.push(Damage::Gone);
    all
}

fn damaged(name: &str, bytes: &[u8], damage: Damage) -> (String, Option<Vec<u8>>) {
    match damage {
        Damage::Flip(at, bit) => {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << bit;
            (format!("bit {bit} of byte {at} of {name}"), Some(flipped))
        }
        Damage::Cut(len) => (
            format!("{name} cut to {len} bytes"),
            Some(bytes[..len].to_vec()),
        ),
        Damage::Gone => (format!("{name} lost"), None),
    }
}
