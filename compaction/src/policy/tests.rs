//! Each trigger by itself, and which of two comes first.

use super::*;

const POLICY: Policy = Policy {
    merge_width: 4,
    deletion_ratio: 0.3,
    max_graph_segments: 5,
    max_rows: 100_000,
};

fn graph(generation: u32, sampled_recall: f32) -> GraphState {
    GraphState::Present(GraphDescription {
        generation,
        sampled_recall,
        sampled_rows: 200,
        built_recall: Some(0.98),
    })
}

fn with(id: u64, rows: u64, live_rows: u64, graph: GraphState) -> SegmentDescription {
    SegmentDescription {
        id: SegmentId(id),
        rows,
        live_rows,
        bytes: rows * 100,
        graph,
    }
}

fn segment(id: u64, rows: u64, live_rows: u64) -> SegmentDescription {
    with(id, rows, live_rows, graph(0, 0.98))
}

fn without_graph(id: u64, rows: u64) -> SegmentDescription {
    with(id, rows, rows, GraphState::Missing)
}

fn small(id: u64, rows: u64) -> SegmentDescription {
    with(id, rows, rows, GraphState::Unwanted)
}

fn ids(plan: Option<Plan>) -> Vec<u64> {
    let inputs = plan.map_or(Vec::new(), |plan| plan.inputs);
    inputs.iter().map(|id| id.0).collect()
}

fn chosen(segments: &[SegmentDescription]) -> (Option<Reason>, Vec<u64>) {
    let plan = POLICY.choose(segments, &[]);
    (plan.as_ref().map(|plan| plan.reason), ids(plan))
}

#[test]
fn four_of_a_size_merge_and_three_do_not() {
    let mut segments: Vec<_> = (0..3).map(|i| segment(i, 100, 100)).collect();
    assert_eq!(chosen(&segments), (None, vec![]));
    segments.push(segment(3, 100, 100));
    let due = (Some(Reason::SizeTier), vec![0, 1, 2, 3]);
    assert_eq!(chosen(&segments), due);
    segments.push(segment(4, 5_000, 5_000));
    assert_eq!(chosen(&segments), due, "a large one is left alone");
    segments.push(segment(5, 300, 300));
    let one_more = (Some(Reason::SizeTier), vec![0, 1, 2, 3, 5]);
    assert_eq!(chosen(&segments), one_more, "one no larger joins");
}

/// A merge of the small ones would be merged again at once.
#[test]
fn a_cascade_is_one_merge() {
    let mut segments: Vec<_> = (0..3).map(|i| segment(i, 900, 900)).collect();
    segments.push(segment(3, 1_000, 1_000));
    segments.extend((4..8).map(|i| small(i, 10)));
    assert_eq!(chosen(&segments).1, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn more_than_five_graphs_merge_where_least_is_written_again() {
    let sizes = [20_000, 6_000, 1_500, 420, 100];
    let mut segments: Vec<_> = (0..5)
        .map(|i| segment(i, sizes[i as usize], sizes[i as usize]))
        .collect();
    assert_eq!(chosen(&segments), (None, vec![]));
    segments.push(segment(5, 30, 30));
    // 100/30, 420/130, 1500/550, 6000/2050, 20000/8050: the last writes the least again.
    let all = (Some(Reason::SegmentCount), vec![0, 1, 2, 3, 4, 5]);
    assert_eq!(chosen(&segments), all);
    segments[0] = segment(0, 40_000, 40_000);
    // 40000/8050 is more than 1500/550.
    let few = (Some(Reason::SegmentCount), vec![2, 3, 4, 5]);
    assert_eq!(chosen(&segments), few);
    // Segments that are scanned do not count, but come along.
    segments[5] = small(5, 30);
    assert_eq!(chosen(&segments), (None, vec![]));
    segments.push(with(6, 50, 50, GraphState::Unopened));
    assert_eq!(
        chosen(&segments),
        (Some(Reason::SegmentCount), vec![4, 5, 6])
    );
}

#[test]
fn what_is_full_is_neither_counted_nor_gathered() {
    let mut segments: Vec<_> = (0..9).map(|i| segment(i, 60_000, 60_000)).collect();
    assert_eq!(chosen(&segments), (None, vec![]));
    segments.extend((9..14).map(|i| {
        segment(
            i,
            10_u64.pow(14 - i as u32) / 10,
            10_u64.pow(14 - i as u32) / 10,
        )
    }));
    assert_eq!(chosen(&segments), (None, vec![]));
    segments.push(segment(14, 9, 9));
    let least = (Some(Reason::SegmentCount), vec![12, 13, 14]);
    assert_eq!(chosen(&segments), least, "10 beside 1 and 9");
}

/// Segments of nearly half the limit could otherwise take all places, and the others be
/// written again for every row that comes.
#[test]
fn what_cannot_grow_any_more_is_filled() {
    let mut segments: Vec<_> = (0..5).map(|i| segment(i, 50_000, 50_000)).collect();
    segments.extend([segment(5, 3_000, 3_000), segment(6, 1_000, 1_000)]);
    // 3000/1000 is less than 50000/4000, but what comes of that is full.
    assert_eq!(
        chosen(&segments),
        (Some(Reason::SegmentCount), vec![0, 5, 6])
    );
}

#[test]
fn deletions_rewrite_one_segment() {
    let segments = [segment(0, 100, 71), segment(1, 100, 70)];
    assert_eq!(chosen(&segments), (Some(Reason::Deletions), vec![1]));
    // What nobody wants takes no work.
    let segments = [
        segment(0, 100, 70),
        segment(1, 10, 0),
        small(2, 0),
        small(3, 5),
    ];
    assert_eq!(chosen(&segments), (Some(Reason::Deletions), vec![0]));
    assert_eq!(
        chosen(&segments[1..]),
        (Some(Reason::Deletions), vec![1, 2])
    );
}

/// Who saves writes by a high ratio still wants to find rows.
#[test]
fn a_graph_is_rewritten_once_half_of_it_is_dead() {
    let patient = Policy {
        deletion_ratio: 0.9,
        ..POLICY
    };
    let half = segment(0, 1_000, 500);
    assert_eq!(ids(patient.choose(&[half], &[])), [0]);
    assert_eq!(patient.choose(&[segment(0, 1_000, 501)], &[]), None);
    assert_eq!(
        patient.choose(&[with(0, 1_000, 101, GraphState::Unwanted)], &[]),
        None
    );
}

#[test]
fn a_worn_graph_is_built_anew() {
    let due = (Some(Reason::WornGraph), vec![0]);
    for (worn, graph) in [
        (true, graph(MAX_GENERATION, 0.98)),
        (false, graph(MAX_GENERATION - 1, 0.9602)),
        (true, graph(1, 0.9599)),
        (false, graph(0, 0.5)),
        (false, GraphState::Unopened),
    ] {
        let expected = if worn { due.clone() } else { (None, vec![]) };
        assert_eq!(
            chosen(&[with(0, 1_000, 1_000, graph)]),
            expected,
            "{graph:?}"
        );
    }
    let unknown = GraphDescription {
        generation: 4,
        sampled_recall: 0.1,
        sampled_rows: 200,
        built_recall: None,
    };
    assert!(!unknown.is_worn());
}

#[test]
fn a_segment_gets_its_graph_when_nothing_else_is_due() {
    let mut segments = vec![
        segment(0, 100, 100),
        without_graph(1, 90),
        without_graph(2, 95),
    ];
    assert_eq!(chosen(&segments), (Some(Reason::Graph), vec![1]));
    segments.push(segment(3, 100, 100));
    assert_eq!(
        chosen(&segments).1,
        [0, 1, 2, 3],
        "a merge that takes them in"
    );
    assert_eq!(ids(POLICY.full(&[without_graph(1, 90)])), [1]);
}

/// A load is gathered before graphs are built, but a large graph is not held up by it.
#[test]
fn a_graph_comes_after_a_load_and_before_small_merges() {
    let mut segments = vec![without_graph(1, 1_599)];
    segments.extend((2..6).map(|i| without_graph(i, 100)));
    assert_eq!(
        chosen(&segments),
        (Some(Reason::SizeTier), vec![2, 3, 4, 5])
    );
    segments[0] = without_graph(1, 1_600);
    assert_eq!(chosen(&segments), (Some(Reason::Graph), vec![1]));
}

/// Numbers tell what has waited longer.
#[test]
fn the_oldest_comes_first() {
    let mut segments: Vec<_> = (1..5).map(|i| segment(i, 100, 100)).collect();
    segments.push(segment(9, 5_000, 3_000));
    assert_eq!(chosen(&segments).1, [1, 2, 3, 4]);
    segments[4] = segment(0, 5_000, 3_000);
    assert_eq!(chosen(&segments), (Some(Reason::Deletions), vec![0]));
    segments.push(with(7, 9_000, 9_000, graph(MAX_GENERATION, 0.98)));
    assert_eq!(chosen(&segments), (Some(Reason::Deletions), vec![0]));
}

#[test]
fn what_another_merge_has_is_left_alone() {
    let segments: Vec<_> = (0..6).map(|i| segment(i, 100, 100)).collect();
    let in_use = [SegmentId(4), SegmentId(1)];
    assert_eq!(ids(POLICY.choose(&segments, &in_use)), [0, 2, 3, 5]);
    assert_eq!(POLICY.choose(&segments, &[0, 1, 2].map(SegmentId)), None);
}

#[test]
fn full_leaves_one_clean_segment_alone() {
    assert_eq!(POLICY.full(&[segment(0, 100, 100)]), None);
    assert_eq!(ids(POLICY.full(&[segment(0, 100, 99)])), [0]);
    let two = [segment(0, 100, 100), segment(1, 5, 5)];
    assert_eq!(ids(POLICY.full(&two)), [0, 1]);
    let worn = with(3, 50, 50, graph(MAX_GENERATION, 0.98));
    assert_eq!(ids(POLICY.full(&[worn])), [3]);
    assert_eq!(POLICY.full(&[]), None);
}

/// Where all do not fit into one, those that do become one and the others are clean.
#[test]
fn full_goes_as_far_as_it_can() {
    let segments = [
        segment(0, 60_000, 60_000),
        segment(1, 90_000, 70_000),
        segment(2, 10, 10),
    ];
    assert_eq!(ids(POLICY.full(&segments)), [0, 2]);
    assert_eq!(ids(POLICY.full(&segments[..2])), [1]);
}
