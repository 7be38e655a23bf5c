//! What the campaign is made of, and that it notices what it must.

use esker_segment::Bytes;

use super::damage::{Case, Op, Tampered, all};
use super::judge::{Judge, Verdict};
use super::{Kind, Specimen};
use crate::forge;

/// Less would prove less.
#[test]
fn specimens_have_enough_of_every_kind() {
    let (main, tombs) = (Specimen::main(1), Specimen::tombs(1));
    for kind in [Kind::Segment, Kind::Log, Kind::Manifest] {
        let bytes = main.bytes_of(kind);
        assert!((64 << 10..160 << 10).contains(&bytes), "{bytes} {kind:?}");
    }
    let bytes = tombs.bytes_of(Kind::Deletions);
    assert!(
        (64 << 10..80 << 10).contains(&bytes),
        "{bytes} of deletions"
    );
    assert!(main.bytes_of(Kind::Deletions) > 0);
    let logs = main.files.iter().filter(|file| file.kind == Kind::Log);
    assert!(logs.count() >= 3);
}

/// The same cases mean the same for ever.
#[test]
fn a_seed_makes_equal_bytes() {
    let (one, two) = (Specimen::main(7), Specimen::main(7));
    for (a, b) in one.files.iter().zip(&two.files) {
        assert_eq!((&a.name, &a.bytes[..]), (&b.name, &b.bytes[..]));
    }
    let other = Specimen::main(8);
    assert!(one.files[0].bytes[..] != other.files[0].bytes[..]);
}

/// Every bit, every length, every sector, every file.
#[test]
fn every_place_is_a_case() {
    let specimen = Specimen::main(1);
    let series = all(0, &specimen);
    for (n, file) in specimen.files.iter().enumerate() {
        let cases = |op: Op| -> Vec<Case> {
            let of = series.iter().filter(|s| (s.file, s.op) == (n, op));
            of.flat_map(|s| (0..s.len()).map(|i| s.case(i))).collect()
        };
        let places = |op| {
            let mut places: Vec<_> = cases(op).iter().map(|case| case.place).collect();
            places.dedup();
            places
        };
        let len = file.bytes.len() as u64;
        assert_eq!(places(Op::Flip), (0..len * 8).collect::<Vec<_>>());
        assert_eq!(places(Op::Cut), (0..len).collect::<Vec<_>>());
        for op in [Op::Zero, Op::Next, Op::Random, Op::Older(0), Op::Older(3)] {
            let sectors = (0..len.div_ceil(512)).collect::<Vec<_>>();
            assert_eq!(places(op), sectors, "{op:?} of {}", file.name);
        }
        let modes = |op: Op, mode| cases(op).iter().filter(|c| c.mode == mode).count();
        if file.kind == Kind::Segment {
            assert_eq!(modes(Op::Flip, 0) as u64, len * 8);
            assert_eq!(modes(Op::Flip, 1) as u64, len * 8);
        }
        assert_eq!(cases(Op::Missing).len(), 2);
        for case in cases(Op::Missing) {
            let name = case.name(&specimen);
            let found = Case::named(&name, &series, std::slice::from_ref(&specimen));
            assert_eq!(found.map(|found| found.name(&specimen)), Some(name));
        }
    }
}

fn judged(specimen: &Specimen, files: Vec<(usize, Option<Bytes>)>) -> Verdict {
    let verdicts = [0, 1].map(|mode| {
        let tampered = Tampered {
            files: files.clone(),
            at: 0,
        };
        Judge::new(specimen).judge(&tampered, mode, true)
    });
    assert_eq!(verdicts[0], verdicts[1]);
    let [verdict, _] = verdicts;
    verdict
}

/// A component of a vector changed, and every checksum that could tell is right
/// again: only the answers are left to show it.
#[test]
fn an_answer_that_no_checksum_refutes_is_noticed() {
    let specimen = Specimen::main(1);
    let mut files: Vec<_> = specimen
        .files
        .iter()
        .map(|file| (file.name.to_string(), file.bytes.to_vec()))
        .collect();
    let untouched = files.clone();
    forge::directory(&mut files);
    let changed = |files: &[(String, Vec<u8>)]| {
        let changed = files.iter().zip(&untouched).enumerate();
        let changed = changed.filter(|(_, (new, old))| new != old);
        let changed = changed.map(|(n, (new, _))| (n, Some(Bytes::from_vec(new.1.clone()))));
        changed.collect::<Vec<_>>()
    };
    // The forger takes the seal off, and puts right what need not be.
    let verdict = judged(&specimen, changed(&files));
    assert_eq!(verdict, Verdict::Harmless { verified: false });
    let segment = files
        .iter_mut()
        .find(|(name, _)| name.ends_with(".segment"));
    let segment = &mut segment.expect("there is one").1;
    let (_, vectors) = forge::sections(segment).swap_remove(0);
    // Of some rows: one alone may be dead.
    for at in vectors.step_by(160) {
        segment[at + 2] ^= 1;
    }
    forge::directory(&mut files);
    let verdict = judged(&specimen, changed(&files));
    assert!(
        matches!(&verdict, Verdict::Wrong(what) if what.contains("another answer")),
        "{verdict:?}"
    );
}

/// What the judge itself must refuse: a right answer that is not the one expected.
#[test]
fn a_changed_expectation_is_a_wrong_answer() {
    let mut specimen = Specimen::main(1);
    let lock = specimen
        .files
        .iter()
        .position(|file| file.kind == Kind::Lock);
    let lock = lock.expect("there is one");
    let gone = || vec![(lock, None)];
    let sound = judged(&specimen, gone());
    assert_eq!(sound, Verdict::Harmless { verified: false });
    for expected in &mut specimen.expected {
        let (_, answer) = expected.questions.last_mut().expect("has questions");
        let last = answer.len() / 2;
        answer[last] ^= 1;
    }
    let verdict = judged(&specimen, gone());
    assert!(matches!(verdict, Verdict::Wrong(_)), "{verdict:?}");
}
