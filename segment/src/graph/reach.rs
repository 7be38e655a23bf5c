//! That a walk can get to every row.
//!
//! Owns the search for rows that no path from the start point reaches, and the
//! edges that mend it. Invariants: afterwards every row is reachable, or there is
//! an error; the degree bound holds; an edge that some row needs to be reached
//! is never given up for another. Must not know: files.

use std::collections::VecDeque;

use crate::error::SegmentError;
use crate::graph::Check;
use crate::graph::adjacency::{Adjacency, NO_ROW};
use crate::graph::build::FromRow;
use crate::graph::vectors::BuildVectors;
use crate::graph::walk::{Walk, WalkScratch, walk};

/// Rows looked at for a place to hang an unreachable row.
const CANDIDATES: usize = 64;
/// Rows expanded on the way there at most: a graph of rows on a line may have
/// paths as long as it has rows.
const MOST_EXPANDED: u64 = 256;

/// A tree of paths from the start point.
struct Tree {
    /// For each row the one before it on its path; [`NO_ROW`] if none leads there.
    parents: Vec<u32>,
    /// Reached rows, those nearer to the start point first.
    order: Vec<u32>,
}

/// Adds edges until every row is reachable; the number of edges.
pub(crate) fn connect(
    vectors: &BuildVectors,
    graph: &mut Adjacency,
    check: Check<'_>,
) -> Result<u32, SegmentError> {
    let rows = graph.rows();
    let mut tree = Tree {
        parents: vec![NO_ROW; rows as usize],
        order: Vec::with_capacity(rows as usize),
    };
    let tree_bytes = 2 * rows as usize * size_of::<u32>();
    let _held = vectors.meter().map(|meter| meter.hold(tree_bytes));
    tree.reach(graph, graph.start(), graph.start());
    let mut scratch = WalkScratch::default();
    let mut added = 0;
    for row in 0..rows {
        if tree.is_reached(row) {
            continue;
        }
        check()?;
        // Its own neighbours are near, and most of them are reached.
        let own = graph.neighbors(row).iter().copied();
        let mut host = own
            .filter(|host| tree.is_reached(*host) && tree.place_at(graph, *host).is_some())
            .min_by(|a, b| {
                vectors
                    .between(row, *a)
                    .total_cmp(&vectors.between(row, *b))
            });
        if host.is_none() {
            let space = FromRow::exact(vectors, graph, row);
            let start = graph.start();
            let go_on = |_, walked: &Walk| Ok(walked.visited < MOST_EXPANDED);
            let Ok(_) = walk(&space, start, CANDIDATES, &mut scratch, go_on);
            let near = scratch.pool.iter().map(|(_, row)| row);
            // The rows reached last are leaves of the tree and need none of their edges.
            host = near
                .chain(tree.order.iter().rev().copied())
                .find(|host| tree.place_at(graph, *host).is_some());
        }
        let Some(host) = host else { break };
        tree.hang(graph, host, row);
        added += 1;
    }
    if tree.order.len() != rows as usize {
        return Err(SegmentError::invalid(
            "a graph that cannot be connected with this degree",
        ));
    }
    Ok(added)
}

impl Tree {
    fn is_reached(&self, row: u32) -> bool {
        self.parents.get(row as usize) != Some(&NO_ROW)
    }

    /// Follows edges from a row that is reached from `parent`.
    fn reach(&mut self, graph: &Adjacency, parent: u32, row: u32) {
        let mut queue = VecDeque::new();
        self.enter(parent, row, &mut queue);
        while let Some(row) = queue.pop_front() {
            for &next in graph.neighbors(row) {
                self.enter(row, next, &mut queue);
            }
        }
    }

    fn enter(&mut self, parent: u32, row: u32, queue: &mut VecDeque<u32>) {
        if let Some(place) = self.parents.get_mut(row as usize)
            && *place == NO_ROW
        {
            *place = parent;
            self.order.push(row);
            queue.push_back(row);
        }
    }

    /// Where a row can take another edge: behind its last, or in place of one
    /// that the tree does not need.
    fn place_at(&self, graph: &Adjacency, host: u32) -> Option<usize> {
        let list = graph.neighbors(host);
        if list.len() < graph.stride() {
            return Some(list.len());
        }
        let spare = |to: &u32| self.parents.get(*to as usize) != Some(&host);
        list.iter().rposition(spare)
    }

    fn hang(&mut self, graph: &mut Adjacency, host: u32, row: u32) {
        let Some(at) = self.place_at(graph, host) else {
            return;
        };
        let mut list = graph.neighbors(host).to_vec();
        match list.get_mut(at) {
            Some(place) => *place = row,
            None => list.push(row),
        }
        graph.set(host, &list);
        self.reach(graph, host, row);
    }
}

#[cfg(test)]
mod tests {
    use super::connect;
    use crate::graph::adjacency::Adjacency;
    use crate::graph::vectors::BuildVectors;
    use crate::metric::Metric;

    fn line(rows: u32) -> BuildVectors<'static> {
        let rows: Vec<_> = (0..rows).map(|row| vec![row as f32]).collect();
        BuildVectors::of(Metric::L2, 1, &rows).unwrap()
    }

    fn reachable(graph: &Adjacency) -> usize {
        let mut seen = vec![false; graph.rows() as usize];
        let mut queue = vec![graph.start()];
        while let Some(row) = queue.pop() {
            if !std::mem::replace(&mut seen[row as usize], true) {
                queue.extend(graph.neighbors(row));
            }
        }
        seen.iter().filter(|seen| **seen).count()
    }

    #[test]
    fn islands_are_connected_within_the_degree() {
        for degree in 1..5 {
            // Rings of five rows that know nothing of each other.
            let mut graph = Adjacency::new(40, degree, 17).unwrap();
            for row in 0..40 {
                let ring = row / 5 * 5;
                let list: Vec<u32> = (1..=degree as u32).map(|n| ring + (row + n) % 5).collect();
                graph.set(row, &list);
            }
            let added = connect(&line(40), &mut graph, &|| Ok(())).unwrap();
            assert!(added >= 7, "{added}");
            assert_eq!(reachable(&graph), 40, "degree {degree}");
        }
    }

    #[test]
    fn a_connected_graph_is_left_alone() {
        let mut graph = Adjacency::new(40, 2, 0).unwrap();
        (0..40).for_each(|row| graph.set(row, &[(row + 1) % 40]));
        assert_eq!(connect(&line(40), &mut graph, &|| Ok(())).unwrap(), 0);
    }

    #[test]
    fn no_edges_at_all_become_a_path() {
        let mut graph = Adjacency::new(9, 1, 4).unwrap();
        assert_eq!(connect(&line(9), &mut graph, &|| Ok(())).unwrap(), 8);
        assert_eq!(reachable(&graph), 9);
    }
}
