//! What is done to files, and the numbering of all of it.
//!
//! Owns the kinds of damage and how many cases each file has of each. Invariants: a
//! case is a function of the specimen, its series and its number; what changes no
//! byte is no case. Must not know: what files mean, what comes of it.

use esker_segment::Bytes;

use super::specimen::{Donor, File, Kind, Specimen};
use crate::rng::{Rng, mix};
use crate::sim::SECTOR;

/// A way to damage a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Op {
    /// One bit is the other.
    Flip,
    /// The file ends early.
    Cut,
    /// A sector is zeroed.
    Zero,
    /// A sector and the next have each other's place.
    Next,
    /// A sector and a drawn one have each other's place.
    Random,
    /// Two files of a kind have each other's sector of this number.
    Sibling,
    /// A sector is a donor's.
    Older(usize),
    /// The file is not there.
    Missing,
    /// The file is a donor's of this kind.
    Whole(usize),
    /// The file is another of this kind; the other is there as well.
    Place,
    /// Two files of a kind have each other's name.
    Exchange,
    /// Bytes follow the end.
    Extend,
}

/// What follows the end of an extended file.
const EXTENSIONS: u64 = 5;

impl Op {
    /// Its name in the names of cases.
    pub(super) fn name(self, donors: &[Donor]) -> String {
        let of = |donor: usize| donors[donor].name;
        match self {
            Self::Flip => "flip".to_owned(),
            Self::Cut => "cut".to_owned(),
            Self::Zero => "zero".to_owned(),
            Self::Next => "next".to_owned(),
            Self::Random => "random".to_owned(),
            Self::Sibling => "sibling".to_owned(),
            Self::Older(donor) => format!("sector-{}", of(donor)),
            Self::Missing => "missing".to_owned(),
            Self::Whole(donor) => format!("file-{}", of(donor)),
            Self::Place => "place".to_owned(),
            Self::Exchange => "exchange".to_owned(),
            Self::Extend => "extend".to_owned(),
        }
    }

    /// What it is in tables.
    pub(super) fn group(self) -> &'static str {
        match self {
            Self::Flip => "bit flipped",
            Self::Cut => "truncated",
            Self::Zero => "sector zeroed",
            Self::Next | Self::Random | Self::Sibling => "sector swapped",
            Self::Older(_) => "sector of another state",
            Self::Missing => "file missing",
            Self::Whole(_) | Self::Place | Self::Exchange => "file swapped",
            Self::Extend => "file extended",
        }
    }
}

/// All cases of one damage to one file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Series {
    /// Number of the specimen.
    pub(super) specimen: usize,
    /// Number of the file in it.
    pub(super) file: usize,
    pub(super) op: Op,
    /// Bits, lengths, sectors or files.
    places: u64,
    /// One place in so many is taken, drawn from them.
    stride: u64,
    /// Whether each place is tried both as a map and by reads, or as one of them.
    both: bool,
}

/// One case of a series, in both ways to read it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) series: Series,
    pub(super) place: u64,
    /// 0 as a map, 1 by reads.
    pub(super) mode: usize,
}

/// Files of a specimen, changed.
pub(super) struct Tampered {
    /// By number; `None` for one that is gone.
    pub(super) files: Vec<(usize, Option<Bytes>)>,
    /// Where the first of them changed, about.
    pub(super) at: usize,
}

/// Everything that is done to a specimen.
pub(super) fn all(number: usize, specimen: &Specimen) -> Vec<Series> {
    let mut all = Vec::new();
    for (file, it) in specimen.files.iter().enumerate() {
        let (len, is_segment) = (it.bytes.len() as u64, it.kind == Kind::Segment);
        let sectors = len.div_ceil(SECTOR as u64);
        let others = specimen.files.iter().filter(|f| f.kind == it.kind).count() as u64 - 1;
        let stride = if is_segment {
            specimen.segment_stride
        } else {
            1
        };
        let mut add = |op, places, stride, both| {
            if places > 0 {
                all.push(Series {
                    specimen: number,
                    file,
                    op,
                    places,
                    stride,
                    both,
                });
            }
        };
        add(Op::Missing, 1, 1, true);
        add(Op::Place, others, 1, true);
        add(Op::Exchange, others, 1, true);
        add(Op::Extend, EXTENSIONS, 1, true);
        for (donor, from) in specimen.donors.iter().enumerate() {
            let files = from.files.iter().filter(|f| f.kind == it.kind);
            add(Op::Whole(donor), files.count() as u64, 1, true);
            add(Op::Older(donor), sectors, 1, true);
        }
        for op in [Op::Zero, Op::Next, Op::Random] {
            add(op, sectors, 1, true);
        }
        add(Op::Sibling, if others > 0 { sectors } else { 0 }, 1, true);
        // Maps and reads are different code for segments alone.
        add(Op::Cut, len, 1, is_segment);
        add(Op::Flip, len * 8, stride, is_segment);
    }
    all
}

impl Series {
    /// The number of its cases.
    pub(super) fn len(&self) -> u64 {
        self.places.div_ceil(self.stride) * if self.both { 2 } else { 1 }
    }

    pub(super) fn case(&self, n: u64) -> Case {
        let (n, mode) = match self.both {
            true => (n / 2, n % 2),
            false => (n, n % 2),
        };
        let drawn = match self.stride {
            1 => n,
            stride => n * stride + mix(n) % stride,
        };
        Case {
            series: *self,
            place: drawn.min(self.places - 1),
            mode: mode as usize,
        }
    }
}

impl Case {
    /// Its name, by which it can be asked for again.
    pub(super) fn name(&self, specimen: &Specimen) -> String {
        let Series { file, op, .. } = self.series;
        format!(
            "{}/{}/{}/{}/{}",
            specimen.name,
            specimen.files[file].name,
            op.name(&specimen.donors),
            self.place,
            ["map", "read"][self.mode]
        )
    }

    /// The case of this name.
    pub(super) fn named(name: &str, series: &[Series], specimens: &[Specimen]) -> Option<Self> {
        let parts: Vec<_> = name.split('/').collect();
        let [specimen, file, op, place, mode] = parts[..] else {
            return None;
        };
        let is_it = |series: &&Series| {
            let of = &specimens[series.specimen];
            of.name == specimen
                && *of.files[series.file].name == *file
                && series.op.name(&of.donors) == op
        };
        let series = *series.iter().find(is_it)?;
        let place = place.parse().ok().filter(|&place| place < series.places)?;
        let mode = ["map", "read"].iter().position(|m| *m == mode)?;
        Some(Self {
            series,
            place,
            mode,
        })
    }

    /// The files as the case has them; `None` if none of them is changed.
    pub(super) fn tampered(&self, specimen: &Specimen, seed: u64) -> Option<Tampered> {
        let Series { file, op, .. } = self.series;
        let place = self.place as usize;
        let own = &specimen.files[file];
        let sector = place * SECTOR;
        let one = |at, bytes| {
            Some(Tampered {
                files: vec![(file, bytes)],
                at,
            })
        };
        let changed = |at, bytes: Vec<u8>| {
            let changed = bytes[..] != own.bytes[..];
            changed
                .then_some(())
                .and_then(|()| one(at, Some(Bytes::from_vec(bytes))))
        };
        match op {
            Op::Flip => one(place / 8, Some(flipped(own, place))),
            Op::Cut => changed(place, own.bytes[..place].to_vec()),
            Op::Zero => changed(sector, with(own, sector, &[0; SECTOR])),
            Op::Next => changed(sector, swapped(own, place, place + 1)),
            Op::Random => {
                let sectors = own.bytes.len().div_ceil(SECTOR) as u64;
                let other = Rng::part(seed, self.place).below(sectors);
                changed(sector, swapped(own, place, other as usize))
            }
            Op::Older(donor) => {
                let theirs = counterpart(specimen, file, &specimen.donors[donor].files)?;
                changed(sector, with(own, sector, piece(&theirs.bytes, sector)))
            }
            Op::Sibling => {
                let other = others(specimen, file).nth(place % (others(specimen, file).count()))?;
                let theirs = &specimen.files[other];
                let own_new = with(own, sector, piece(&theirs.bytes, sector));
                let theirs_new = with(theirs, sector, piece(&own.bytes, sector));
                let same = own_new[..] == own.bytes[..] && theirs_new[..] == theirs.bytes[..];
                let both = [(file, own_new), (other, theirs_new)];
                let files = both.map(|(n, bytes)| (n, Some(Bytes::from_vec(bytes))));
                (!same).then_some(Tampered {
                    files: files.into(),
                    at: sector,
                })
            }
            Op::Missing => one(0, None),
            Op::Whole(donor) => {
                let theirs = specimen.donors[donor]
                    .files
                    .iter()
                    .filter(|f| f.kind == own.kind);
                changed(0, theirs.skip(place).map(|f| f.bytes.to_vec()).next()?)
            }
            Op::Place => {
                let other = others(specimen, file).nth(place)?;
                changed(0, specimen.files[other].bytes.to_vec())
            }
            Op::Exchange => {
                let other = others(specimen, file).nth(place)?;
                let theirs = specimen.files[other].bytes.clone();
                let files = vec![(file, Some(theirs)), (other, Some(own.bytes.clone()))];
                Some(Tampered { files, at: 0 })
            }
            Op::Extend => changed(own.bytes.len(), extended(own, self.place, seed)),
        }
    }
}

/// The other files of its kind, by number.
fn others(specimen: &Specimen, file: usize) -> impl Iterator<Item = usize> + '_ {
    let files = specimen.files.iter().enumerate();
    let kind = specimen.files[file].kind;
    files
        .filter(move |(n, f)| *n != file && f.kind == kind)
        .map(|(n, _)| n)
}

/// The file of the same name elsewhere, else one of its kind.
fn counterpart<'a>(specimen: &Specimen, file: usize, theirs: &'a [File]) -> Option<&'a File> {
    let own = &specimen.files[file];
    let named = theirs.iter().find(|f| f.name == own.name);
    let of_kind: Vec<_> = theirs.iter().filter(|f| f.kind == own.kind).collect();
    let number = others(specimen, file).filter(|&n| n < file).count();
    named.or_else(|| of_kind.get(number % of_kind.len().max(1)).copied())
}

fn flipped(file: &File, bit: usize) -> Bytes {
    let mut bytes = file.bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    Bytes::from_vec(bytes)
}

/// A sector of a file, shorter at its end, empty behind it.
fn piece(bytes: &[u8], at: usize) -> &[u8] {
    let rest = bytes.get(at..).unwrap_or_default();
    &rest[..rest.len().min(SECTOR)]
}

/// The file with other bytes at a place; its length stays.
fn with(file: &File, at: usize, other: &[u8]) -> Vec<u8> {
    let mut bytes = file.bytes.to_vec();
    let rest = bytes.get_mut(at..).unwrap_or_default();
    let len = rest.len().min(other.len());
    rest[..len].copy_from_slice(&other[..len]);
    bytes
}

/// The file with two sectors in each other's place, as far as the shorter goes.
fn swapped(file: &File, one: usize, other: usize) -> Vec<u8> {
    let (one, other) = (one * SECTOR, other * SECTOR);
    let len = piece(&file.bytes, one)
        .len()
        .min(piece(&file.bytes, other).len());
    let half = with(file, one, &piece(&file.bytes, other)[..len]);
    let half = File {
        bytes: Bytes::from_vec(half),
        ..file.clone()
    };
    with(&half, other, &piece(&file.bytes, one)[..len])
}

fn extended(file: &File, how: u64, seed: u64) -> Vec<u8> {
    let mut bytes = file.bytes.to_vec();
    let len = bytes.len();
    match how {
        0 => bytes.push(0),
        1 => bytes.push(0xA5),
        2 => bytes.extend([0; SECTOR]),
        3 => {
            let mut garbage = [0; SECTOR];
            Rng::part(seed, len as u64).fill(&mut garbage);
            bytes.extend(garbage);
        }
        _ => bytes.extend_from_within(len.saturating_sub(SECTOR)..),
    }
    bytes
}
