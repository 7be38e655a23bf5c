//! One version edit and its bytes.
//!
//! Owns the tags. Invariants: an edit is one frame, so it is atomic; tags are
//! never given a second meaning; a tag with [`SAFE_TO_IGNORE`] may be skipped by
//! a release that does not know it, any other unknown tag refuses the open.
//! Must not know: whether an edit fits the state.
#![deny(clippy::indexing_slicing)]

use esker_segment::{CodeKind, CollectionId, FileId, Metric, SegmentId, SeqNo};

use crate::batch::Reader;

/// Kind of a manifest frame.
pub(crate) const EDIT_FRAME: u8 = 2;
/// Set on tags that an older release may skip.
pub(crate) const SAFE_TO_IGNORE: u16 = 0x8000;

pub(crate) const TAG_CREATE_COLLECTION: u16 = 1;
pub(crate) const TAG_DROP_COLLECTION: u16 = 2;
pub(crate) const TAG_ADD_SEGMENT: u16 = 3;
pub(crate) const TAG_REMOVE_SEGMENT: u16 = 4;
pub(crate) const TAG_SET_DELETIONS: u16 = 5;
pub(crate) const TAG_FLUSHED: u16 = 6;
pub(crate) const TAG_FIRST_LOG: u16 = 7;
pub(crate) const TAG_NEXT_FILE: u16 = 8;
pub(crate) const TAG_NEXT_COLLECTION: u16 = 9;
pub(crate) const TAG_LAST_SEQNO: u16 = 10;
pub(crate) const TAG_SEAL: u16 = 11;
pub(crate) const TAG_SET_CODES: u16 = 16 | SAFE_TO_IGNORE;
// 12 is reserved for the host's log position, 13 for retained side logs,
// 14 for quarantined segments, 15 for the database's mode.

const ELEMENT_F32: u8 = 1;
/// Longest name of a collection in bytes.
pub(crate) const MAX_NAME_LEN: usize = 255;

/// What a collection is, as persisted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CollectionMeta {
    pub(crate) id: CollectionId,
    pub(crate) name: String,
    pub(crate) dimension: u32,
    pub(crate) metric: Metric,
    /// How new segments compress their rows; a field of its own in an edit, because
    /// releases before it make none.
    pub(crate) codes: CodeKind,
}

impl CollectionMeta {
    /// The fields that make the collection.
    pub(crate) fn fields(&self) -> impl Iterator<Item = Field> {
        let codes =
            (self.codes != CodeKind::default()).then_some(Field::SetCodes(self.id, self.codes));
        std::iter::once(Field::CreateCollection(self.clone())).chain(codes)
    }
}

/// What the manifest says of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentMeta {
    pub(crate) id: SegmentId,
    pub(crate) file_id: FileId,
    pub(crate) len: u64,
    pub(crate) hash: u64,
    pub(crate) rows: u32,
    pub(crate) min_seqno: SeqNo,
    pub(crate) max_seqno: SeqNo,
}

/// Where a segment's deletion vector lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeletionMeta {
    pub(crate) file: u64,
    pub(crate) file_id: FileId,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) hash: u64,
}

/// Where the newest log ended at a clean close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) log: u64,
    pub(crate) end: u64,
    pub(crate) chain_crc: u32,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    CreateCollection(CollectionMeta),
    DropCollection(CollectionId),
    SetCodes(CollectionId, CodeKind),
    AddSegment(CollectionId, SegmentMeta),
    RemoveSegment(CollectionId, SegmentId),
    SetDeletions(CollectionId, SegmentId, DeletionMeta),
    Flushed(CollectionId, SeqNo),
    FirstLog(u64),
    NextFile(u64),
    NextCollection(u32),
    LastSeqNo(SeqNo),
    Seal(Seal),
}

/// Changes that take effect together, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edit(pub(crate) Vec<Field>);

impl Edit {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        for field in &self.0 {
            body.clear();
            let tag = encode_field(field, &mut body);
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&[0; 2]);
            // A body is at most a few hundred bytes: names are bounded.
            out.extend_from_slice(&(body.len() as u32).to_le_bytes());
            out.extend_from_slice(&body);
        }
    }

    /// Reads an edit back, or says what does not fit.
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, String> {
        let mut rest = Reader(payload);
        let mut fields = Vec::new();
        while !rest.0.is_empty() {
            let header = rest.u16().zip(rest.u16()).zip(rest.u32());
            let ((tag, reserved), len) =
                header.ok_or("an edit that ends inside a field's header")?;
            let body = rest
                .take(len as usize)
                .ok_or("an edit that ends inside a field")?;
            if reserved != 0 {
                return Err("an edit field whose reserved bytes are not zero".to_owned());
            }
            if let Some(field) = decode_field(tag, body)? {
                fields.push(field);
            }
        }
        Ok(Self(fields))
    }
}

fn encode_field(field: &Field, out: &mut Vec<u8>) -> u16 {
    match field {
        Field::CreateCollection(meta) => {
            out.extend_from_slice(&meta.id.0.to_le_bytes());
            out.extend_from_slice(&meta.dimension.to_le_bytes());
            out.extend_from_slice(&[meta.metric.tag(), ELEMENT_F32]);
            out.extend_from_slice(&(meta.name.len() as u16).to_le_bytes());
            out.extend_from_slice(meta.name.as_bytes());
            TAG_CREATE_COLLECTION
        }
        Field::SetCodes(id, kind) => {
            out.extend_from_slice(&id.0.to_le_bytes());
            out.push(kind.tag());
            TAG_SET_CODES
        }
        Field::DropCollection(id) => {
            out.extend_from_slice(&id.0.to_le_bytes());
            TAG_DROP_COLLECTION
        }
        Field::AddSegment(collection, meta) => {
            out.extend_from_slice(&collection.0.to_le_bytes());
            out.extend_from_slice(&meta.rows.to_le_bytes());
            out.extend_from_slice(&meta.id.0.to_le_bytes());
            out.extend_from_slice(&meta.file_id.0);
            for value in [meta.len, meta.hash, meta.min_seqno.0, meta.max_seqno.0] {
                out.extend_from_slice(&value.to_le_bytes());
            }
            TAG_ADD_SEGMENT
        }
        Field::RemoveSegment(collection, segment) => {
            out.extend_from_slice(&collection.0.to_le_bytes());
            out.extend_from_slice(&segment.0.to_le_bytes());
            TAG_REMOVE_SEGMENT
        }
        Field::SetDeletions(collection, segment, meta) => {
            out.extend_from_slice(&collection.0.to_le_bytes());
            out.extend_from_slice(&segment.0.to_le_bytes());
            out.extend_from_slice(&meta.file.to_le_bytes());
            out.extend_from_slice(&meta.file_id.0);
            for value in [meta.offset, meta.len, meta.hash] {
                out.extend_from_slice(&value.to_le_bytes());
            }
            TAG_SET_DELETIONS
        }
        Field::Flushed(collection, seqno) => {
            out.extend_from_slice(&collection.0.to_le_bytes());
            out.extend_from_slice(&seqno.0.to_le_bytes());
            TAG_FLUSHED
        }
        Field::FirstLog(number) => {
            out.extend_from_slice(&number.to_le_bytes());
            TAG_FIRST_LOG
        }
        Field::NextFile(number) => {
            out.extend_from_slice(&number.to_le_bytes());
            TAG_NEXT_FILE
        }
        Field::NextCollection(id) => {
            out.extend_from_slice(&id.to_le_bytes());
            TAG_NEXT_COLLECTION
        }
        Field::LastSeqNo(seqno) => {
            out.extend_from_slice(&seqno.0.to_le_bytes());
            TAG_LAST_SEQNO
        }
        Field::Seal(seal) => {
            out.extend_from_slice(&seal.log.to_le_bytes());
            out.extend_from_slice(&seal.end.to_le_bytes());
            out.extend_from_slice(&seal.chain_crc.to_le_bytes());
            TAG_SEAL
        }
    }
}

fn decode_field(tag: u16, body: &[u8]) -> Result<Option<Field>, String> {
    let mut rest = Reader(body);
    let field = match tag {
        TAG_CREATE_COLLECTION => decode_collection(&mut rest)?.map(Field::CreateCollection),
        TAG_DROP_COLLECTION => rest.u32().map(|id| Field::DropCollection(CollectionId(id))),
        TAG_SET_CODES => match rest.u32().zip(rest.array::<1>()) {
            // A later release's kind: this one makes the codes that it knows.
            Some((_, [kind])) if CodeKind::from_tag(kind).is_none() => return Ok(None),
            found => found.and_then(|(id, [kind])| {
                Some(Field::SetCodes(CollectionId(id), CodeKind::from_tag(kind)?))
            }),
        },
        TAG_ADD_SEGMENT => decode_segment(&mut rest),
        TAG_REMOVE_SEGMENT => rest
            .u32()
            .zip(rest.u64())
            .map(|(c, s)| Field::RemoveSegment(CollectionId(c), SegmentId(s))),
        TAG_SET_DELETIONS => decode_deletions(&mut rest),
        TAG_FLUSHED => rest
            .u32()
            .zip(rest.u64())
            .map(|(c, s)| Field::Flushed(CollectionId(c), SeqNo(s))),
        TAG_FIRST_LOG => rest.u64().map(Field::FirstLog),
        TAG_NEXT_FILE => rest.u64().map(Field::NextFile),
        TAG_NEXT_COLLECTION => rest.u32().map(Field::NextCollection),
        TAG_LAST_SEQNO => rest.u64().map(|s| Field::LastSeqNo(SeqNo(s))),
        TAG_SEAL => rest
            .u64()
            .zip(rest.u64())
            .zip(rest.u32())
            .map(|((log, end), chain_crc)| {
                Field::Seal(Seal {
                    log,
                    end,
                    chain_crc,
                })
            }),
        unknown if unknown & SAFE_TO_IGNORE != 0 => return Ok(None),
        unknown => {
            return Err(format!(
                "an edit field {unknown} that this release does not know"
            ));
        }
    };
    match field {
        Some(field) if rest.0.is_empty() => Ok(Some(field)),
        _ => Err(format!(
            "an edit field {tag} of {} bytes, which does not fit it",
            body.len()
        )),
    }
}

fn decode_collection(rest: &mut Reader<'_>) -> Result<Option<CollectionMeta>, String> {
    let Some((((id, dimension), tags), name_len)) = rest
        .u32()
        .zip(rest.u32())
        .zip(rest.array::<2>())
        .zip(rest.u16())
    else {
        return Ok(None);
    };
    let Some(name) = rest.take(usize::from(name_len)) else {
        return Ok(None);
    };
    let [metric, element] = tags;
    let metric = Metric::from_tag(metric).ok_or_else(|| format!("an unknown metric {metric}"))?;
    if element != ELEMENT_F32 {
        return Err(format!("an unknown element type {element}"));
    }
    let name = std::str::from_utf8(name).map_err(|_| "a collection name that is not UTF-8")?;
    if !(1..=MAX_NAME_LEN).contains(&name.len()) {
        return Err(format!("a collection name of {} bytes", name.len()));
    }
    if !(1..=esker_segment::MAX_DIMENSION).contains(&dimension) {
        return Err(format!("a collection of dimension {dimension}"));
    }
    Ok(Some(CollectionMeta {
        id: CollectionId(id),
        name: name.to_owned(),
        dimension,
        metric,
        codes: CodeKind::default(),
    }))
}

fn decode_segment(rest: &mut Reader<'_>) -> Option<Field> {
    let collection = CollectionId(rest.u32()?);
    let rows = rest.u32()?;
    let id = SegmentId(rest.u64()?);
    let file_id = FileId(rest.array()?);
    let (len, hash) = (rest.u64()?, rest.u64()?);
    let (min_seqno, max_seqno) = (SeqNo(rest.u64()?), SeqNo(rest.u64()?));
    let meta = SegmentMeta {
        id,
        file_id,
        len,
        hash,
        rows,
        min_seqno,
        max_seqno,
    };
    Some(Field::AddSegment(collection, meta))
}

fn decode_deletions(rest: &mut Reader<'_>) -> Option<Field> {
    let collection = CollectionId(rest.u32()?);
    let segment = SegmentId(rest.u64()?);
    let file = rest.u64()?;
    let file_id = FileId(rest.array()?);
    let (offset, len, hash) = (rest.u64()?, rest.u64()?, rest.u64()?);
    Some(Field::SetDeletions(
        collection,
        segment,
        DeletionMeta {
            file,
            file_id,
            offset,
            len,
            hash,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Edit {
        let c = CollectionId(3);
        Edit(vec![
            Field::CreateCollection(CollectionMeta {
                id: c,
                name: "gløsses".into(),
                dimension: 384,
                metric: Metric::Cosine,
                codes: CodeKind::default(),
            }),
            Field::AddSegment(
                c,
                SegmentMeta {
                    id: SegmentId(9),
                    file_id: FileId([7; 16]),
                    len: 1 << 40,
                    hash: 5,
                    rows: 12,
                    min_seqno: SeqNo(1),
                    max_seqno: SeqNo(40),
                },
            ),
            Field::SetDeletions(
                c,
                SegmentId(9),
                DeletionMeta {
                    file: 10,
                    file_id: FileId([8; 16]),
                    offset: 64,
                    len: 99,
                    hash: 1,
                },
            ),
            Field::RemoveSegment(c, SegmentId(9)),
            Field::Flushed(c, SeqNo(40)),
            Field::FirstLog(4),
            Field::NextFile(11),
            Field::NextCollection(4),
            Field::LastSeqNo(SeqNo(41)),
            Field::Seal(Seal {
                log: 4,
                end: 128,
                chain_crc: 77,
            }),
            Field::DropCollection(c),
        ])
    }

    #[test]
    fn every_field_reads_back() {
        let mut bytes = Vec::new();
        everything().encode(&mut bytes);
        assert_eq!(Edit::decode(&bytes), Ok(everything()));
    }

    #[test]
    fn a_cut_anywhere_but_between_fields_is_an_error() {
        let mut bytes = Vec::new();
        everything().encode(&mut bytes);
        let whole = everything().0;
        for cut in 0..bytes.len() {
            if let Ok(edit) = Edit::decode(&bytes[..cut]) {
                assert!(whole.starts_with(&edit.0) && edit.0.len() < whole.len());
            }
        }
    }

    #[test]
    fn an_unknown_tag_is_skipped_only_if_it_says_so() {
        let field = |tag: u16| {
            let mut bytes = tag.to_le_bytes().to_vec();
            bytes.extend_from_slice(&[0, 0, 3, 0, 0, 0, 1, 2, 3]);
            Edit::decode(&bytes)
        };
        assert_eq!(field(SAFE_TO_IGNORE | 500), Ok(Edit::default()));
        assert!(field(500).is_err());
    }

    /// What `create_collection` refuses is not read back either.
    #[test]
    fn a_name_has_1_to_255_bytes() {
        let named = |len: usize| {
            let meta = CollectionMeta {
                id: CollectionId(0),
                name: "x".repeat(len),
                dimension: 2,
                metric: Metric::L2,
                codes: CodeKind::default(),
            };
            let mut bytes = Vec::new();
            Edit(vec![Field::CreateCollection(meta)]).encode(&mut bytes);
            Edit::decode(&bytes)
        };
        for len in [1, MAX_NAME_LEN] {
            assert!(named(len).is_ok(), "{len}");
        }
        for len in [0, MAX_NAME_LEN + 1, usize::from(u16::MAX)] {
            assert!(named(len).is_err(), "{len}");
        }
    }

    /// The tags' table in the format's document is the code's.
    #[test]
    fn the_document_lists_the_tags() {
        let document = include_str!("../../../docs/format/manifest.md");
        let tags = [
            (TAG_CREATE_COLLECTION, "create collection"),
            (TAG_DROP_COLLECTION, "drop collection"),
            (TAG_ADD_SEGMENT, "add segment"),
            (TAG_REMOVE_SEGMENT, "remove segment"),
            (TAG_SET_DELETIONS, "set deletions"),
            (TAG_FLUSHED, "flushed"),
            (TAG_FIRST_LOG, "first log"),
            (TAG_NEXT_FILE, "next file"),
            (TAG_NEXT_COLLECTION, "next collection"),
            (TAG_LAST_SEQNO, "last SeqNo"),
            (TAG_SEAL, "seal"),
        ];
        for (tag, name) in tags {
            assert!(
                document.contains(&format!("\n| {tag} | {name} | ")),
                "{tag} {name}"
            );
        }
    }

    /// Bodies have the sizes that the document gives.
    #[test]
    fn fixed_bodies_have_their_documented_sizes() {
        let sizes: Vec<_> = everything()
            .0
            .iter()
            .map(|field| {
                let mut body = Vec::new();
                (encode_field(field, &mut body), body.len())
            })
            .collect();
        let fixed = [
            (2, 4),
            (3, 64),
            (4, 12),
            (5, 60),
            (6, 12),
            (7, 8),
            (8, 8),
            (9, 4),
            (10, 8),
            (11, 20),
        ];
        for (tag, size) in fixed {
            assert!(sizes.contains(&(tag, size)), "tag {tag} of {size} bytes");
        }
    }
}
