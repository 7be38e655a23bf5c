//! What the writer refuses, so that no reader ever meets it.

use std::borrow::Cow;
use std::io;

use esker_segment::{Metric, Row, RowSource, SegmentError, SeqNo, write_segment};

use crate::support::{Rows, many, params, small};

fn refusal(rows: &impl RowSource, metric: Metric) -> String {
    let error = write_segment(rows, &params(metric, 3), None, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, SegmentError::Invalid(_)), "{error:?}");
    error.to_string()
}

#[test]
fn rows_that_no_segment_can_hold() {
    let with = |change: fn(&mut Rows)| {
        let mut rows = small(Metric::Cosine);
        change(&mut rows);
        refusal(&rows, Metric::Cosine)
    };
    assert_eq!(with(|r| r.rows.clear()), "a segment cannot have 0 rows");
    assert_eq!(
        with(|r| r.rows[2].key = b"fig".to_vec()),
        "row 2: a key that another row has"
    );
    assert_eq!(
        with(|r| r.order = None),
        "row 1: a key that is not in key order"
    );
    assert_eq!(
        with(|r| r.order = Some(vec![1, 4, 3, 0])),
        "a key order of another number of rows"
    );
    let error = with(|r| r.order = Some(vec![1, 4, 3, 0, 0]));
    assert_eq!(error, "row 0: a key that another row has");
    let error = with(|r| r.rows[4].key = Vec::new());
    assert_eq!(error, "row 4: a key of 0 bytes; keys have 1 to 65535");
    let error = with(|r| r.rows[2].key = vec![b'z'; 65_536]);
    assert_eq!(error, "row 2: a key of 65536 bytes; keys have 1 to 65535");
    let error = with(|r| r.rows[3].vector = vec![1.0]);
    assert_eq!(
        error,
        "row 3: the vector has 1 components; give it exactly 3"
    );
    let error = with(|r| r.rows[3].vector[1] = f32::NAN);
    assert_eq!(
        error,
        "row 3: component 1 is NaN; every component must be a finite number"
    );
    let error = with(|r| r.rows[0].vector = vec![0.0; 3]);
    assert_eq!(
        error,
        "row 0: a zero vector has no cosine; leave it out or use another metric"
    );
}

/// Delegates, but lies about the lengths of payloads.
struct Liar(Rows, u64);

impl RowSource for Liar {
    fn rows(&self) -> u32 {
        self.0.rows()
    }
    fn key_order(&self) -> Option<&[u32]> {
        self.0.key_order()
    }
    fn vector(&self, row: Row) -> Result<Cow<'_, [f32]>, SegmentError> {
        self.0.vector(row)
    }
    fn key(&self, row: Row) -> Result<Cow<'_, [u8]>, SegmentError> {
        self.0.key(row)
    }
    fn seqno(&self, row: Row) -> Result<SeqNo, SegmentError> {
        self.0.seqno(row)
    }
    fn payload(&self, row: Row) -> Result<Option<Cow<'_, [u8]>>, SegmentError> {
        self.0.payload(row)
    }
    fn payload_len(&self, _: Row) -> Result<Option<u64>, SegmentError> {
        Ok(Some(self.1))
    }
}

#[test]
fn a_source_that_contradicts_itself() {
    let liar = |len| refusal(&Liar(small(Metric::L2), len), Metric::L2);
    assert_eq!(liar(8), "row 0: a payload that changed its length");
    assert_eq!(liar(u64::MAX / 2), "payloads of more than 2^63 bytes");
}

/// Takes so many bytes, then fails.
struct Full(usize);

impl io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(bytes.len())
            .ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_io_error_wherever_it_strikes() {
    let rows = many(2000, 3);
    let mut file = Vec::new();
    write_segment(&rows, &params(Metric::L2, 3), None, &mut file).unwrap();
    for room in (0..file.len()).step_by(1999) {
        let error =
            write_segment(&rows, &params(Metric::L2, 3), None, &mut Full(room)).unwrap_err();
        assert!(matches!(error, SegmentError::Io(e) if e.kind() == io::ErrorKind::StorageFull));
    }
    assert!(write_segment(&rows, &params(Metric::L2, 3), None, &mut Full(file.len())).is_ok());
}
