//! What a peer can do between its operating points.
//!
//! Owns the front (the points that no other point of the peer beats in both recall
//! and speed) and the speed at a recall in between, where the logarithm of the speed
//! is taken to be linear in the recall.

use super::input::Point;

/// The points that are worth choosing, by recall from low to high, thus by speed
/// from high to low.
pub(crate) fn front(points: &[Point]) -> Vec<&Point> {
    let mut sorted: Vec<&Point> = points.iter().collect();
    // From the best recall down, of equal recalls the fastest first.
    sorted.sort_by(|a, b| {
        let by_recall = b.recall.total_cmp(&a.recall);
        by_recall.then(b.qps.total_cmp(&a.qps))
    });
    let mut front: Vec<&Point> = Vec::new();
    for point in sorted {
        if front.last().is_none_or(|slower| point.qps > slower.qps) {
            front.push(point);
        }
    }
    front.reverse();
    front
}

/// Queries a second at a recall: between the two points around it; those of the
/// first point where all have more; `None` where none has as much.
pub(crate) fn qps_at(front: &[&Point], recall: f64) -> Option<f64> {
    let above = front.iter().position(|point| point.recall >= recall)?;
    let high = front[above];
    let Some(low) = above.checked_sub(1).map(|below| front[below]) else {
        return Some(high.qps);
    };
    let share = (recall - low.recall) / (high.recall - low.recall);
    Some((low.qps.ln() * (1.0 - share) + high.qps.ln() * share).exp())
}

/// The fastest point that reaches a recall.
pub(crate) fn first_at<'a>(front: &[&'a Point], recall: f64) -> Option<&'a Point> {
    front.iter().copied().find(|point| point.recall >= recall)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(of: &[(f64, f64)]) -> Vec<Point> {
        let point = |(recall, qps): &(f64, f64)| Point {
            recall: *recall,
            qps: *qps,
            p50_us: 1.0,
            p99_us: 2.0,
        };
        of.iter().map(point).collect()
    }

    fn at(of: &[(f64, f64)], recall: f64) -> Option<f64> {
        qps_at(&front(&points(of)), recall)
    }

    #[test]
    fn beaten_points_are_not_on_the_front() {
        let all = points(&[
            (0.9, 100.0),
            (0.8, 90.0),
            (0.9, 110.0),
            (0.95, 50.0),
            (0.99, 60.0),
            (0.7, 300.0),
        ]);
        let front: Vec<_> = front(&all).iter().map(|p| (p.recall, p.qps)).collect();
        assert_eq!(front, [(0.7, 300.0), (0.9, 110.0), (0.99, 60.0)]);
    }

    #[test]
    fn between_two_points_the_speed_is_their_geometric_middle() {
        let of = [(0.9, 1000.0), (1.0, 10.0)];
        assert!((at(&of, 0.95).unwrap() - 100.0).abs() < 1e-9);
        assert!((at(&of, 0.925).unwrap() - 316.227_766).abs() < 1e-3);
        assert!((at(&of, 0.9).unwrap() - 1000.0).abs() < 1e-9);
        assert!((at(&of, 1.0).unwrap() - 10.0).abs() < 1e-9);
    }

    #[test]
    fn only_neighbours_matter_and_beaten_points_do_not() {
        let of = [
            (0.5, 1e6),
            (0.9, 400.0),
            (0.93, 1.0),
            (0.98, 100.0),
            (1.0, 1.0),
        ];
        assert!((at(&of, 0.94).unwrap() - 200.0).abs() < 1e-9);
    }

    #[test]
    fn outside_of_the_points_nothing_is_made_up() {
        let of = [(0.96, 100.0), (0.98, 50.0)];
        assert_eq!(at(&of, 0.95), Some(100.0), "the fastest has even more");
        assert_eq!(at(&of, 0.99), None);
        assert_eq!(at(&[], 0.9), None);
        let all = points(&of);
        let front = front(&all);
        assert_eq!(first_at(&front, 0.97).unwrap().qps, 50.0);
        assert_eq!(first_at(&front, 0.99), None);
    }
}
