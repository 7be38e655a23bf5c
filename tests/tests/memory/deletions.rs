//! What sets of dead rows take: one of them, and those of segments that lose more.

use esker::{Background, CollectionOptions, Db, GraphOptions, MapMode, Metric, Options, Residency};
use esker_segment::Row;
use esker_segment::deletion::DeletionVector;
use esker_tests::load::delete;
use esker_tests::rng::Rng;

use crate::{alone, check, held, put};

/// Fails unless the figure is within a tenth of what the allocator says.
fn check_one(what: &str, before: i64, vector: &DeletionVector) {
    let held = held() - before;
    let said = vector.heap_bytes() as i64;
    eprintln!("{what:<24} held {held:>9}, said {said:>9}");
    assert!(
        (said - held).abs() * 10 <= held,
        "{what}: {held} bytes are held, it says {said}"
    );
}

/// However its rows lie, and however it came about.
#[test]
fn a_set_of_dead_rows_says_what_it_takes() {
    let _alone = alone();
    let mut rng = Rng::new(5);
    let mut some = |count: usize, below: u64| -> Vec<Row> {
        let mut rows: Vec<_> = (0..count).map(|_| Row(rng.below(below) as u32)).collect();
        rows.sort_unstable();
        rows
    };
    let shapes = [
        ("few of many", some(300, 20_000_000)),
        ("some", some(200_000, 20_000_000)),
        ("many", some(600_000, 2_000_000)),
        ("a run", (1_000_000..1_900_000).map(Row).collect()),
        (
            "every second",
            (0..400_000).map(|row| Row(2 * row)).collect(),
        ),
    ];
    for (what, rows) in &shapes {
        let before = held();
        let vector: DeletionVector = rows.iter().copied().collect();
        check_one(what, before, &vector);

        let before = held();
        let more = vector.with((0..90_000).map(|row| Row(row * 7)));
        check_one(&format!("{what}, more"), before, &more);

        let before = held();
        let both = vector.union(&more);
        check_one(&format!("{what}, both"), before, &both);

        let before = held();
        let since = more.since(&vector);
        check_one(&format!("{what}, since"), before, &since);

        let file = esker_segment::FileId([3; 16]);
        let segment = esker_segment::SegmentId(1);
        let (bytes, at) =
            esker_segment::deletion::encode(file, &[(segment, &more)]).expect("encodes");
        let before = held();
        let read = esker_segment::deletion::decode(&bytes, file, at[0], segment, u32::MAX);
        check_one(&format!("{what}, read"), before, &read.expect("decodes"));
    }
}

const SEGMENTS: u64 = 40;
const ROWS: u64 = 8_000;

fn options() -> Options {
    Options::new()
        .background(Background::Manual)
        .auto_compact(false)
        .graph(GraphOptions::new().min_rows(1 << 20))
        .map_mode(MapMode::Mmap)
        .residency(Residency::Mapped)
}

/// A segment that loses rows after it was opened holds those that it had lost before
/// beside those that it has lost now.
#[test]
fn segments_that_lost_rows_say_what_that_takes() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), options()).expect("opens");
    let shape = CollectionOptions::new(2, Metric::L2);
    let c = db.create_collection("c", shape).expect("made");
    for segment in 0..SEGMENTS {
        put(&db, &c, (segment * ROWS, (segment + 1) * ROWS), 0);
        db.flush().expect("flushed");
    }
    let dead = |rest: u64| -> Vec<u64> { (0..SEGMENTS * ROWS).filter(|n| n % 4 == rest).collect() };
    delete(&db, &c, &dead(1)).expect("deleted");
    db.flush().expect("flushed");
    drop(c);
    db.close().expect("closed");

    let before = held();
    let db = Db::open(dir.path(), options()).expect("opens");
    let c = db.collection("c").expect("there");
    assert_eq!(c.len().expect("counts"), SEGMENTS * ROWS * 3 / 4);
    let once = db.stats().memory;
    check("reopened, rows dead", before, &once);
    delete(&db, &c, &dead(2)).expect("deleted");
    db.flush().expect("flushed");
    let twice = db.stats().memory;
    check("more rows dead", before, &twice);
    let (once, twice) = (once.deletion_vectors, twice.deletion_vectors);
    // As many again in the new ones, and the old ones stay for whoever reads by them.
    assert!(twice > once * 5 / 2, "{twice} after {once}");
}
