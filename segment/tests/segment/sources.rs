//! One file from every source: small enough that Miri reads it too, so that every
//! borrow of a view, of a cached block and of a copy is followed.

use esker_segment::Metric;

use crate::support::{many, read_everything, small, states, walks_in_place, write_with_graph};

#[test]
fn a_small_file_reads_alike_from_every_source() {
    let all = [Metric::L2, Metric::Cosine, Metric::InnerProduct];
    for metric in &all[..if cfg!(miri) { 1 } else { 3 }] {
        let rows = small(*metric);
        let (file, expected) = write_with_graph(&rows, *metric, 4);
        let probes: Vec<_> = rows.rows.iter().map(|row| row.key.clone()).collect();
        let read = states(&file, &expected).unwrap().map(|segment| {
            let read = read_everything(&segment, &probes).unwrap();
            segment.verify().unwrap();
            assert_eq!(read.rows, rows.rows);
            assert_eq!(read.walked.len(), rows.rows.len());
            read
        });
        assert!(read.iter().all(|other| *other == read[0]));
    }
}

/// Views of one segment from several threads, which verify its blocks meanwhile.
#[test]
fn threads_read_one_segment_from_every_source() {
    let rows = many(if cfg!(miri) { 6 } else { 600 }, 3);
    let (file, expected) = write_with_graph(&rows, Metric::L2, 4);
    let probes: Vec<_> = rows.rows.iter().map(|row| row.key.clone()).collect();
    for segment in states(&file, &expected).unwrap() {
        let read = std::thread::scope(|scope| {
            let reader = || read_everything(&segment, &probes).unwrap();
            let readers = [scope.spawn(reader), scope.spawn(reader)];
            readers.map(|reader| reader.join().unwrap())
        });
        assert_eq!(read[0].rows, rows.rows);
        assert_eq!(read[0], read[1]);
        assert_eq!(segment.rows() as usize, read[0].walked.len());
    }
    // In memory the last block is verified by whoever comes first, on a device by all.
    let [fresh, verified, ..] = states(&file, &expected).unwrap();
    assert!(!walks_in_place(&fresh) && walks_in_place(&verified));
}
