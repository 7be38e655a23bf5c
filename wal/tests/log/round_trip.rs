//! Logs of any shape come back as they were written, and damage to them never
//! shows anything else than a prefix.

use std::convert::Infallible;

use esker_wal::{Expect, HEADER_LEN, LogWriter, ReplayEnd, ReplayError, replay};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{MemFile, Outcome, Written, append_group, header, recover};

#[derive(Clone, Debug)]
struct Member {
    kind: u8,
    gap: u64,
    count: u32,
    payload: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Group {
    members: Vec<Member>,
    sync: bool,
}

fn member() -> impl Strategy<Value = Member> {
    let payload = prop_oneof![
        8 => vec(any::<u8>(), 0..40),
        1 => vec(any::<u8>(), 0..5000),
        // Longer than the read buffer.
        1 => (any::<u8>(), 200_000_usize..400_000).prop_map(|(byte, len)| vec![byte; len]),
    ];
    (any::<u8>(), 0..3_u64, 0..5_u32, payload).prop_map(|(kind, gap, count, payload)| Member {
        kind,
        gap,
        count,
        payload,
    })
}

fn groups() -> impl Strategy<Value = Vec<Group>> {
    let group =
        (vec(member(), 1..4), any::<bool>()).prop_map(|(members, sync)| Group { members, sync });
    vec(group, 0..8)
}

/// Writes the groups; returns the file, the frames and the writer's idea of the end.
fn write(groups: &[Group], zeros: usize) -> (MemFile, Vec<Written>, esker_wal::LogEnd) {
    let file = MemFile::holding(vec![0; zeros]);
    let mut writer = LogWriter::create(&file, &header()).unwrap();
    let mut frames = Vec::new();
    let mut seqno = 1;
    for group in groups {
        let members: Vec<_> = group
            .members
            .iter()
            .map(|member| {
                let first = seqno + member.gap;
                seqno = first + u64::from(member.count);
                (member.kind, first, member.count, &member.payload[..])
            })
            .collect();
        frames.extend(append_group(&mut writer, &members));
        if group.sync {
            writer.note_synced(writer.end().offset);
        }
    }
    let end = writer.end();
    (file, frames, end)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_comes_back(groups in groups(), zeros in 0..1_000_000_usize) {
        let (file, frames, end) = write(&groups, zeros);
        for expect in [Expect::Newest, Expect::Ends(end)] {
            let recovered = recover(&file, expect);
            prop_assert_eq!(&recovered.0, &frames);
            prop_assert_eq!(&recovered.1, &Outcome::End(ReplayEnd::Clean(end)));
        }
        // One frame and a read buffer, whatever the log's length.
        let largest = frames.iter().map(|f| f.payload.len() + 72).max().unwrap_or(0);
        prop_assert!(file.largest_read() <= largest.max(256 << 10));
    }

    /// Any ranges overwritten with anything: the frames that come back are a prefix
    /// of those written, and it is complete up to the first damaged byte.
    #[test]
    fn damage_shows_a_prefix(
        groups in groups(),
        patches in vec((any::<prop::sample::Index>(), vec(any::<u8>(), 1..100)), 1..4),
    ) {
        let (file, frames, end) = write(&groups, 0);
        let whole = file.bytes();
        let mut bytes = whole.clone();
        let body = bytes.len() - HEADER_LEN;
        for (at, patch) in &patches {
            if body == 0 { break; }
            let at = HEADER_LEN + at.index(body);
            let len = patch.len().min(bytes.len() - at);
            bytes[at..at + len].copy_from_slice(&patch[..len]);
        }
        let first_damage = bytes.iter().zip(&whole).position(|(a, b)| a != b);
        let intact = frames.iter().zip(frames.iter().skip(1).map(|f| f.offset).chain([end.offset]))
            .take_while(|(_, end)| first_damage.is_none_or(|at| *end <= at as u64)).count();
        let file = MemFile::holding(bytes);
        let (shown, outcome) = recover(&file, Expect::Newest);
        prop_assert_eq!(&shown[..], &frames[..intact]);
        prop_assert!(first_damage.is_some() || outcome == Outcome::End(ReplayEnd::Clean(end)));
        let (shown, outcome) = recover(&file, Expect::Ends(end));
        prop_assert_eq!(&shown[..], &frames[..intact]);
        prop_assert_eq!(first_damage.is_some(), matches!(outcome, Outcome::Corruption(_)));
    }
}

#[test]
fn a_visitor_can_stop_the_replay() {
    let group = |byte| Group {
        members: vec![Member {
            kind: 1,
            gap: 0,
            count: 1,
            payload: vec![byte],
        }],
        sync: false,
    };
    let (file, _, _) = write(&[group(1), group(2), group(3)], 0);
    let mut seen = 0;
    let result = replay(&file, &header(), Expect::Newest, |frame| {
        seen += 1;
        if frame.payload == [2] {
            Err("enough")
        } else {
            Ok(())
        }
    });
    assert!(matches!(result, Err(ReplayError::Visitor("enough"))));
    assert_eq!(seen, 2);
}

#[test]
fn replay_wants_the_header_that_the_file_has() {
    let (file, _, _) = write(&[], 0);
    let mut other = header();
    other.number.0 += 1;
    let result = replay(&file, &other, Expect::Newest, |_| Ok::<_, Infallible>(()));
    assert!(matches!(
        result,
        Err(ReplayError::Log(esker_wal::WalError::Corruption { .. }))
    ));
}

/// Frames around the places where one read ends and the next begins.
#[test]
fn frames_and_witnesses_at_the_edges_of_the_read_buffer() {
    let buffer = 256 << 10;
    let member = |len| Member {
        kind: 1,
        gap: 0,
        count: 1,
        payload: vec![7; len],
    };
    // Both reading frames and looking for witnesses begin behind the file header;
    // the second frame's header lies in front of, across and behind the first edge.
    for slack in (0..=136).step_by(8) {
        let groups = [
            Group {
                members: vec![member(buffer - 64 - slack)],
                sync: true,
            },
            Group {
                members: vec![member(10)],
                sync: false,
            },
        ];
        let (file, frames, end) = write(&groups, 0);
        assert_eq!(frames[1].offset as usize, HEADER_LEN + buffer - slack);
        let clean = Outcome::End(ReplayEnd::Clean(end));
        assert_eq!(recover(&file, Expect::Newest), (frames, clean));

        let mut bytes = file.bytes();
        bytes[HEADER_LEN + 100] ^= 1;
        let (_, outcome) = recover(&MemFile::holding(bytes), Expect::Newest);
        assert_eq!(
            outcome,
            Outcome::Corruption(HEADER_LEN as u64),
            "slack {slack}"
        );
    }
}
