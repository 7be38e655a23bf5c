//! The workloads of a campaign: all short ones, then random ones for ever.
//!
//! Owns the alphabet of the short ones and the draws of the random ones. Invariants:
//! workload number n of a seed is the same case for ever; a short workload needs
//! only the crashes in its last operation, because its beginning is a workload too.
//! Must not know: crashes.

use esker::Durability;

use crate::rng::Rng;
use crate::run::{
    BulkSpec, Case, ChangeSpec, Crossing, How, Inside, Op, PERIOD, Place, Settings, WriteSpec,
};

/// Longest of the exhaustive workloads.
pub const LONGEST: u32 = 4;

/// The alphabet of the exhaustive workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Letter {
    Put,
    Overwrite,
    Delete,
    /// Puts, overwrites and deletes in all three collections, as one batch.
    Batch,
    Flush,
    Compact,
    Snapshot,
    Reopen,
}

const LETTERS: [Letter; 8] = [
    Letter::Put,
    Letter::Overwrite,
    Letter::Delete,
    Letter::Batch,
    Letter::Flush,
    Letter::Compact,
    Letter::Snapshot,
    Letter::Reopen,
];

/// Ways to run the exhaustive workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    /// Every write is synced.
    Synced,
    /// No write is synced; segments have graphs and are read block by block.
    Unsynced,
    /// Rows so large that nearly each begins a log file and fills a memtable;
    /// synced and unsynced writes in turn.
    Rotating,
    /// Background work after each operation; periodic and unsynced writes in turn.
    Working,
}

const VARIANTS: [Variant; 4] = [
    Variant::Synced,
    Variant::Unsynced,
    Variant::Rotating,
    Variant::Working,
];

/// How many exhaustive workloads there are.
#[must_use]
pub fn exhaustive() -> u64 {
    let letters = LETTERS.len() as u64;
    let of_one_variant: u64 = (0..=LONGEST).map(|length| letters.pow(length)).sum();
    of_one_variant * VARIANTS.len() as u64
}

/// A case, and the first operation whose crashes no other workload covers.
#[derive(Clone, Debug)]
pub struct Workload {
    pub case: Case,
    pub from: usize,
}

/// One in so many workloads is a random one from the start.
const RANDOM_ONE_IN: u64 = 16;

/// By this number every exhaustive workload has had its turn.
#[must_use]
pub fn all_exhaustive_before() -> u64 {
    exhaustive().div_ceil(RANDOM_ONE_IN - 1) * RANDOM_ONE_IN
}

/// Workload number `n`. The exhaustive ones come in an order that the seed scatters,
/// so that a run which ends early has seen some of every kind, with random ones among
/// them; from [`all_exhaustive_before`] on all are random.
#[must_use]
pub fn workload(seed: u64, n: u64) -> Workload {
    let (round, place) = (n / RANDOM_ONE_IN, n % RANDOM_ONE_IN);
    let rank = round * (RANDOM_ONE_IN - 1) + place;
    if place == RANDOM_ONE_IN - 1 || rank >= exhaustive() {
        return random(seed, n);
    }
    /// Prime, and no divisor of the number of exhaustive workloads.
    const STRIDE: u64 = 7_919;
    let scattered = rank
        .wrapping_mul(STRIDE)
        .wrapping_add(crate::rng::mix(seed) >> 32);
    short(scattered % exhaustive())
}

/// The shorter ones first, the variants in turn.
fn short(n: u64) -> Workload {
    let variant = VARIANTS[(n % VARIANTS.len() as u64) as usize];
    let mut rank = n / VARIANTS.len() as u64;
    let letters = LETTERS.len() as u64;
    let mut length = 0;
    while rank >= letters.pow(length) {
        rank -= letters.pow(length);
        length += 1;
    }
    let mut ops = vec![Op::Write(write(
        Durability::Sync,
        vec![change(variant, 0, 0, 1), change(variant, 1, 1, 2)],
    ))];
    if variant == Variant::Unsynced {
        ops.push(Op::Flush);
    }
    let base = ops.len();
    let mut from = base;
    for i in 0..length {
        let letter = LETTERS[(rank % letters) as usize];
        rank /= letters;
        from = ops.len() + 1;
        ops.push(spell(letter, variant, i as u16));
        if variant == Variant::Working && letter != Letter::Snapshot {
            ops.push(Op::Idle { millis: 60 });
        }
    }
    Workload {
        case: Case {
            seed: n,
            settings: vec![settings(variant)],
            birth: Vec::new(),
            ops,
        },
        from: if length == 0 { 0 } else { from },
    }
}

fn spell(letter: Letter, variant: Variant, i: u16) -> Op {
    let durability = match variant {
        Variant::Synced => Durability::Sync,
        Variant::Unsynced => Durability::Os,
        Variant::Rotating if i.is_multiple_of(2) => Durability::Os,
        Variant::Rotating => Durability::Sync,
        Variant::Working if i.is_multiple_of(2) => Durability::Periodic(PERIOD),
        Variant::Working => Durability::Os,
    };
    let value = u32::from(i) + 3;
    let put = |collection, key| change(variant, collection, key, value);
    let delete = |collection, key| ChangeSpec {
        collection,
        key,
        value: None,
        payload: None,
    };
    match letter {
        Letter::Put => Op::Write(write(durability, vec![put(0, i + 10)])),
        Letter::Overwrite => Op::Write(write(durability, vec![put(0, 0)])),
        Letter::Delete => Op::Write(write(durability, vec![delete(0, 0)])),
        Letter::Batch => Op::Write(write(
            durability,
            vec![put(0, 0), put(1, i + 10), delete(1, 1), put(2, 2)],
        )),
        Letter::Flush => Op::Flush,
        Letter::Compact => Op::Compact,
        Letter::Snapshot => Op::Snapshot,
        Letter::Reopen => Op::Reopen,
    }
}

fn write(durability: Durability, changes: Vec<ChangeSpec>) -> WriteSpec {
    WriteSpec {
        changes,
        durability,
        how: How::Write,
    }
}

fn change(variant: Variant, collection: u8, key: u16, value: u32) -> ChangeSpec {
    ChangeSpec {
        collection,
        key,
        value: Some(value),
        payload: match variant {
            Variant::Rotating => Some(1_500),
            _ if value.is_multiple_of(2) => Some(20),
            _ => None,
        },
    }
}

fn settings(variant: Variant) -> Settings {
    let small = matches!(variant, Variant::Rotating | Variant::Working);
    Settings {
        memtable_bytes: if small { 1 << 10 } else { 8 << 10 },
        // So small that opens flush while they replay.
        memory_budget: if small { 64 << 10 } else { 1 << 20 },
        log_file_bytes: 4 << 10,
        max_log_files: 2,
        pread: matches!(variant, Variant::Unsynced | Variant::Working),
        auto_compact: small,
        merge_width: 2,
        graph: matches!(variant, Variant::Unsynced),
    }
}

// Random ones.

fn random(seed: u64, n: u64) -> Workload {
    let rng = &mut Rng::part(seed, n);
    let settings = Settings {
        memtable_bytes: [1 << 10, 2 << 10, 8 << 10][rng.below(3) as usize],
        memory_budget: [64 << 10, 512 << 10, 8 << 20][rng.below(3) as usize],
        log_file_bytes: [4 << 10, 4 << 10, 16 << 10][rng.below(3) as usize],
        max_log_files: 2 + rng.below(4),
        pread: rng.chance(1, 2),
        auto_compact: rng.chance(4, 5),
        merge_width: 2 + rng.below(2) as usize,
        graph: rng.chance(1, 3),
    };
    let length = 3 + rng.below(22);
    Workload {
        case: Case {
            seed: seed ^ n,
            settings: vec![settings],
            birth: Vec::new(),
            ops: (0..length).map(|_| op(rng)).collect(),
        },
        // The making of the database is the same each time.
        from: 1,
    }
}

fn op(rng: &mut Rng) -> Op {
    match rng.below(40) {
        0..=15 => Op::Write(random_write(rng)),
        16 | 17 => Op::Submit((0..1 + rng.below(4)).map(|_| random_write(rng)).collect()),
        18 => Op::Sync,
        19..=21 => Op::Flush,
        22 | 23 => Op::Compact,
        24..=28 => Op::Steps(1 + rng.below(5) as u8),
        29 | 30 => Op::Idle {
            millis: rng.below(250) as u16,
        },
        31 => Op::Snapshot,
        32 => Op::Release,
        33 => Op::DropCollection(rng.below(3) as u8),
        34 | 35 => Op::Cross(crossing(rng)),
        36 => Op::Bulk(BulkSpec {
            collection: rng.below(3) as u8,
            first: rng.below(40) as u16,
            rows: 1 + rng.below(30) as u16,
            seed: rng.chance(2, 3).then(|| rng.below(1_000) as u16),
            durability: durability(rng),
        }),
        37 if rng.chance(1, 3) => Op::Pause,
        37 => Op::Cross(Crossing {
            place: Place::SegmentCreate,
            outer: Box::new(Op::Steps(1 + rng.below(3) as u8)),
            inner: vec![Inside::EndMerges {
                paused: rng.chance(1, 2),
            }],
        }),
        _ => Op::Reopen,
    }
}

fn crossing(rng: &mut Rng) -> Crossing {
    let inner = (0..1 + rng.below(3)).map(|_| match rng.below(3) {
        0 => Inside::Flush,
        _ => Inside::Write(random_write(rng)),
    });
    Crossing {
        inner: inner.collect(),
        place: [Place::SegmentWrite, Place::SegmentSync][rng.below(2) as usize],
        outer: Box::new(if rng.chance(2, 3) {
            Op::Compact
        } else {
            Op::Flush
        }),
    }
}

fn random_write(rng: &mut Rng) -> WriteSpec {
    let most = [2, 2, 10][rng.below(3) as usize];
    let changes = 1 + rng.below(most);
    WriteSpec {
        changes: (0..changes)
            .map(|_| ChangeSpec {
                collection: rng.below(3) as u8,
                key: rng.below(12) as u16,
                value: rng.chance(3, 4).then(|| rng.below(256) as u32),
                payload: [None, None, Some(9), Some(700)][rng.below(4) as usize],
            })
            .collect(),
        durability: durability(rng),
        how: [How::Write, How::Write, How::Write, How::Try][rng.below(4) as usize],
    }
}

fn durability(rng: &mut Rng) -> Durability {
    match rng.below(5) {
        0 | 1 => Durability::Sync,
        2 | 3 => Durability::Os,
        _ => Durability::Periodic(PERIOD),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_exhaustive_workload_comes_once() {
        let rank = |n: u64| {
            let case = workload(5, n).case;
            // A short workload's seed is its rank; a random one has other settings.
            (case.settings[0].max_log_files == 2 && case.seed < exhaustive()).then_some(case.seed)
        };
        let seen: BTreeSet<_> = (0..all_exhaustive_before()).filter_map(rank).collect();
        assert_eq!(seen.len() as u64, exhaustive());
    }
}
