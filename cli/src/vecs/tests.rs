use std::io::Cursor;

use super::*;

fn fvecs(rows: &[&[f32]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in rows {
        bytes.extend((row.len() as i32).to_le_bytes());
        bytes.extend(row.iter().flat_map(|x| x.to_le_bytes()));
    }
    bytes
}

fn open(bytes: &[u8], element: Element) -> Result<Vecs<Cursor<&[u8]>>, VecsError> {
    Vecs::new(Cursor::new(bytes), element)
}

fn read_all(bytes: &[u8], element: Element) -> Result<Vec<f32>, VecsError> {
    let mut vecs = open(bytes, element)?;
    let mut out = Vec::new();
    vecs.read_vectors(0, vecs.rows(), &mut out)?;
    Ok(out)
}

#[test]
fn rows_come_back_bit_for_bit() {
    let rows: [&[f32]; 3] = [&[1.0, -0.0], &[f32::MIN_POSITIVE, f32::MAX], &[0.1, 2.5]];
    let bytes = fvecs(&rows);
    let mut vecs = open(&bytes, Element::F32).unwrap();
    assert_eq!((vecs.width(), vecs.rows()), (2, 3));
    for (index, row) in rows.iter().enumerate() {
        let mut out = Vec::new();
        vecs.read_vectors(index as u64, 1, &mut out).unwrap();
        let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&out), bits(row));
    }
    let mut out = vec![9.0];
    vecs.read_vectors(1, 2, &mut out).unwrap();
    assert_eq!(out, [9.0, f32::MIN_POSITIVE, f32::MAX, 0.1, 2.5], "appends");
}

#[test]
fn bytes_and_ids_are_read_as_what_they_are() {
    let bytes = [3, 0, 0, 0, 0, 128, 255, 3, 0, 0, 0, 1, 2, 3];
    assert_eq!(
        read_all(&bytes, Element::U8).unwrap(),
        [0.0, 128.0, 255.0, 1.0, 2.0, 3.0]
    );
    let ids = [2i32, 7, i32::MAX].map(i32::to_le_bytes).concat();
    let mut out = Vec::new();
    open(&ids, Element::I32)
        .unwrap()
        .read_ids(0, 1, &mut out)
        .unwrap();
    assert_eq!(out, [7, i32::MAX as u32]);
    let ids = [1i32, 5, 1, -1].map(i32::to_le_bytes).concat();
    let error = open(&ids, Element::I32)
        .unwrap()
        .read_ids(0, 2, &mut out)
        .unwrap_err();
    assert!(
        matches!(error, VecsError::Negative { row: 1, found: -1 }),
        "{error}"
    );
}

#[test]
fn hostile_widths_are_refused_before_anything_is_allocated() {
    for width in [0, -1, i32::MIN, MAX_WIDTH + 1, i32::MAX] {
        let mut bytes = width.to_le_bytes().to_vec();
        bytes.resize(4096, 1);
        for element in [Element::F32, Element::U8, Element::I32] {
            let error = open(&bytes, element).unwrap_err();
            assert!(
                matches!(error, VecsError::Width { row: 0, found } if found == width),
                "{error}"
            );
        }
    }
    // A possible width that the file is too short for.
    let error = open(&MAX_WIDTH.to_le_bytes(), Element::F32).unwrap_err();
    assert!(
        matches!(
            error,
            VecsError::Truncated {
                len: 4,
                row_bytes: 262_144
            }
        ),
        "{error}"
    );
}

#[test]
fn every_truncation_is_an_error_unless_it_ends_at_a_row() {
    let bytes = fvecs(&[&[1.0, 2.0], &[3.0, 4.0], &[5.0, 6.0]]);
    assert!(matches!(open(&[], Element::F32), Err(VecsError::Empty)));
    for len in 1..bytes.len() {
        let whole_rows = len.is_multiple_of(12);
        assert_eq!(
            read_all(&bytes[..len], Element::F32).is_ok(),
            whole_rows,
            "{len} bytes"
        );
    }
}

#[test]
fn a_row_of_another_width_is_named() {
    let mut bytes = fvecs(&[&[1.0, 2.0], &[3.0, 4.0]]);
    bytes[12] = 1;
    let error = read_all(&bytes, Element::F32).unwrap_err();
    assert!(
        matches!(
            error,
            VecsError::Uneven {
                row: 1,
                found: 1,
                first: 2
            }
        ),
        "{error}"
    );
    // Same bytes by total length, but a negative width whose magnitude would fit.
    bytes[12..16].copy_from_slice(&(-2i32).to_le_bytes());
    let error = read_all(&bytes, Element::F32).unwrap_err();
    assert!(
        matches!(
            error,
            VecsError::Uneven {
                row: 1,
                found: -2,
                first: 2
            }
        ),
        "{error}"
    );
}

#[test]
fn every_flipped_bit_of_a_count_is_an_error() {
    let bytes = fvecs(&[&[1.0, 2.0], &[3.0, 4.0]]);
    for row in [0, 12] {
        for bit in 0..32 {
            let mut bytes = bytes.clone();
            bytes[row + bit / 8] ^= 1 << (bit % 8);
            assert!(
                read_all(&bytes, Element::F32).is_err(),
                "bit {bit} at {row}"
            );
        }
    }
}

#[test]
fn reading_beyond_the_end_is_an_error_and_overflow_is_too() {
    let bytes = fvecs(&[&[1.0]]);
    let mut vecs = open(&bytes, Element::F32).unwrap();
    for (first, count) in [(0, 2), (1, 1), (u64::MAX, 1), (1, u64::MAX), (0, u64::MAX)] {
        let error = vecs
            .read_vectors(first, count, &mut Vec::new())
            .unwrap_err();
        assert!(
            matches!(error, VecsError::Beyond { rows: 1, .. }),
            "{error}"
        );
    }
}

#[test]
fn the_name_says_the_kind() {
    assert_eq!(
        Element::of_vectors(Path::new("a/base.fvecs")).unwrap(),
        Element::F32
    );
    assert_eq!(
        Element::of_vectors(Path::new("base.bvecs")).unwrap(),
        Element::U8
    );
    for other in ["base", "base.ivecs", "base.txt", ".fvecs"] {
        assert!(Element::of_vectors(Path::new(other)).is_err(), "{other}");
    }
}

#[test]
fn a_missing_file_is_named_in_the_error() {
    let Err(Failure::Failed(text)) = Vecs::open(Path::new("no/such/base.fvecs")) else {
        panic!("a missing file was opened");
    };
    assert!(text.contains("no/such/base.fvecs"), "{text}");
}
