//! Version edits that break one rule each.
//!
//! Owns what no writer makes and a reader must refuse. Invariant: each case is right
//! but for one thing, and the refusal names it.

use std::sync::Arc;

use esker_segment::{CollectionId, FileId, MAX_DIMENSION, Metric, SegmentId, SeqNo};

use super::edit::{
    CollectionMeta, DeletionMeta, Edit, Field, TAG_CREATE_COLLECTION, TAG_FIRST_LOG, TAG_FLUSHED,
};
use super::log::{CommitError, Manifest, replay_manifest};
use super::state::ManifestState;
use crate::dir::Directory;
use crate::env::StdEnv;
use crate::error::Error;
use crate::manifest::Current;

/// A field as it is written, right or wrong.
fn field(tag: u16, reserved: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = tag.to_le_bytes().to_vec();
    bytes.extend(reserved.to_le_bytes());
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
    bytes
}

fn collection(id: u32, name: &str) -> CollectionMeta {
    CollectionMeta {
        id: CollectionId(id),
        name: name.to_owned(),
        dimension: 2,
        metric: Metric::L2,
        codes: esker_segment::CodeKind::default(),
    }
}

/// The body that creates collection 3, named `ab`.
fn created() -> Vec<u8> {
    let mut bytes = Vec::new();
    Edit(vec![Field::CreateCollection(collection(3, "ab"))]).encode(&mut bytes);
    bytes.split_off(8)
}

fn refused(bytes: &[u8], text: &str) {
    let error = Edit::decode(bytes).unwrap_err();
    assert!(error.contains(text), "{error:?} should say {text:?}");
}

#[test]
fn a_field_is_as_long_as_it_has_to_be() {
    let right = field(TAG_FIRST_LOG, 0, &7_u64.to_le_bytes());
    assert_eq!(Edit::decode(&right), Ok(Edit(vec![Field::FirstLog(7)])));
    refused(&field(TAG_FIRST_LOG, 1, &[0; 8]), "reserved bytes");
    for (tag, len) in [(TAG_FIRST_LOG, 8), (TAG_FLUSHED, 12)] {
        refused(&field(tag, 0, &vec![0; len - 1]), "does not fit it");
        refused(&field(tag, 0, &vec![0; len + 1]), "does not fit it");
    }
}

#[test]
fn a_collection_is_one_that_could_be_made() {
    let changed = |at: usize, value: &[u8]| {
        let mut body = created();
        body[at..at + value.len()].copy_from_slice(value);
        field(TAG_CREATE_COLLECTION, 0, &body)
    };
    assert!(Edit::decode(&changed(0, &[])).is_ok());
    refused(&changed(4, &0_u32.to_le_bytes()), "of dimension 0");
    let large = MAX_DIMENSION + 1;
    refused(&changed(4, &large.to_le_bytes()), "of dimension");
    refused(&changed(8, &[99]), "unknown metric 99");
    refused(&changed(9, &[2]), "unknown element type 2");
    refused(&changed(10, &3_u16.to_le_bytes()), "does not fit it");
    refused(&changed(12, &[0xFF]), "not UTF-8");
    for len in 0..created().len() {
        let cut = &created()[..len];
        refused(&field(TAG_CREATE_COLLECTION, 0, cut), "does not fit it");
    }
}

#[test]
fn an_edit_fits_the_state_it_meets() {
    let deletions = DeletionMeta {
        file: 8,
        file_id: FileId([2; 16]),
        offset: 1,
        len: 2,
        hash: 3,
    };
    let mut state = ManifestState::default();
    let fields = vec![
        Field::CreateCollection(collection(0, "a")),
        Field::CreateCollection(collection(1, "b")),
        Field::NextFile(9),
    ];
    state.apply(&Edit(fields)).unwrap();
    let refused = |field: Field, text: &str| {
        let error = state.clone().apply(&Edit(vec![field])).unwrap_err();
        assert!(error.contains(text), "{error:?} should say {text:?}");
    };
    let (there, gone) = (CollectionId(1), CollectionId(2));
    refused(Field::DropCollection(gone), "dropping no collection");
    refused(Field::Flushed(gone, SeqNo(1)), "no collection");
    refused(
        Field::SetDeletions(there, SegmentId(5), deletions),
        "deletions for no segment",
    );
    refused(Field::NextFile(8), "out of order");
    for taken in [collection(1, "c"), collection(7, "a")] {
        refused(Field::CreateCollection(taken), "created twice");
    }
    let last = collection(u32::MAX, "last");
    refused(Field::CreateCollection(last), "exhausted");
}

/// The id of a dropped collection is not given again, its name may be.
#[test]
fn a_dropped_collection_s_name_is_free() {
    let mut state = ManifestState::default();
    for id in [0, 1] {
        let fields = vec![
            Field::CreateCollection(collection(id, "a")),
            Field::DropCollection(CollectionId(id)),
        ];
        state.apply(&Edit(fields)).unwrap();
        assert!(state.collections.is_empty());
        assert_eq!(state.next_collection, id + 1);
    }
}

/// The engine makes no such edit; if it did, the manifest would be as before.
#[test]
fn an_edit_that_does_not_fit_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::new(Arc::new(StdEnv::new()), dir.path().to_owned());
    let mut manifest = Manifest::create(&directory, 1, ManifestState::default()).unwrap();
    let (before, len) = (manifest.state().clone(), manifest.len());
    let half = Edit(vec![
        Field::FirstLog(7),
        Field::DropCollection(CollectionId(9)),
    ]);
    match manifest.commit(&directory, &half, || 2) {
        Err(CommitError::Clean(Error::Invalid(what))) => assert!(what.contains("does not fit")),
        other => panic!("{other:?}"),
    }
    assert_eq!((manifest.state(), manifest.len()), (&before, len));
    let whole = Edit(vec![Field::FirstLog(7)]);
    manifest.commit(&directory, &whole, || 2).unwrap();
    let current = Current::read(directory.storage(), dir.path()).unwrap();
    let replayed = replay_manifest(directory.env(), dir.path(), &current.unwrap()).unwrap();
    assert_eq!(&replayed.state, manifest.state());
    assert_eq!(replayed.state.first_log, 7);
}
