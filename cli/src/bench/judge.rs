//! Who is right: the queries, and how far their true neighbours are.
//!
//! Owns the verdict on answers. Invariants: distances are computed in `f64` from
//! the vectors of the files, never taken from the engine; nothing of the base
//! file stays in memory (a row that is judged is read again), so what the judge
//! holds is the queries and one number for each, all of it from before the load.
//! Must not know: how answers are found.

use std::fs::File;
use std::path::Path;

use super::dataset;
use super::load::Load;
use crate::failure::Failure;
use crate::recall::{distance, tie_bound, true_hits};
use crate::vecs::Vecs;

/// Rows that are compared with all queries at a time.
const CHUNK: u64 = 256;

/// The queries of a data set and what is needed to judge their answers.
pub(super) struct Judge<'a> {
    load: &'a Load,
    base: Vecs<File>,
    k: usize,
    /// Components of all queries, one after the other.
    queries: Vec<f32>,
    /// For each query, the farthest that a true neighbour may be.
    bounds: Vec<f64>,
    /// The row that is judged.
    row: Vec<f32>,
}

impl<'a> Judge<'a> {
    /// Reads the first queries of the file, all unless a number is given, and finds
    /// their true neighbours: in the file where it speaks of all rows, else anew.
    pub(super) fn new(
        load: &'a Load,
        dir: &Path,
        k: u64,
        queries: Option<u64>,
    ) -> Result<Self, Failure> {
        let mut judge = Self::without_truth(load, dir, k, queries)?;
        if load.rows < load.file_rows {
            judge.compute_bounds()?;
        } else {
            judge.read_bounds(dir)?;
        }
        Ok(judge)
    }

    /// As [`Judge::new`], before anybody has said what is true.
    pub(super) fn without_truth(
        load: &'a Load,
        dir: &Path,
        k: u64,
        queries: Option<u64>,
    ) -> Result<Self, Failure> {
        if k > load.rows {
            return Err(Failure::Usage(format!(
                "--k {k} is more than the {} rows that there are",
                load.rows
            )));
        }
        Ok(Self {
            base: Vecs::open(&load.base)?,
            load,
            k: usize::try_from(k).unwrap_or(usize::MAX),
            queries: read_queries(load, dir, queries)?,
            bounds: Vec::new(),
            row: Vec::new(),
        })
    }

    /// All queries in order.
    pub(super) fn queries(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.queries.chunks_exact(self.load.dimension as usize)
    }

    /// The share of the true neighbours that the answers name, `k` rows or fewer
    /// for each query.
    pub(super) fn recall(&mut self, answers: &[Vec<u64>]) -> Result<f64, Failure> {
        let mut found = 0;
        for (query, rows) in answers.iter().enumerate() {
            let mut hits = Vec::with_capacity(rows.len());
            for row in rows {
                hits.push((*row, self.distance(query, *row)?));
            }
            let bound = self.bounds.get(query).copied().unwrap_or(f64::NAN);
            found += true_hits(self.k, bound, hits);
        }
        Ok(found as f64 / (self.bounds.len() * self.k) as f64)
    }

    /// How far a row of the base file is from a query.
    fn distance(&mut self, query: usize, row: u64) -> Result<f64, Failure> {
        self.row.clear();
        self.base
            .read_vectors(row, 1, &mut self.row)
            .map_err(|error| Failure::file("reading", &self.load.base, &error))?;
        let query = self.queries().nth(query).unwrap_or_default();
        Ok(distance(self.load.metric, query, &self.row))
    }

    /// Takes the k-th true neighbours from the file.
    fn read_bounds(&mut self, dir: &Path) -> Result<(), Failure> {
        let (path, mut truth) = dataset::truth(dir)?;
        let queries = self.queries().len();
        if u64::from(truth.width()) < self.k as u64 {
            return Err(Failure::failed(format!(
                "{} names {} neighbours of each query, and --k {} needs as many",
                path.display(),
                truth.width(),
                self.k
            )));
        }
        if truth.rows() < queries as u64 {
            return Err(Failure::failed(format!(
                "{} has the neighbours of {} queries, and {queries} are to be asked",
                path.display(),
                truth.rows()
            )));
        }
        let mut neighbours = Vec::new();
        for query in 0..queries {
            neighbours.clear();
            truth
                .read_ids(query as u64, 1, &mut neighbours)
                .map_err(|error| Failure::file("reading", &path, &error))?;
            let Some(kth) = neighbours.get(self.k - 1).map(|row| u64::from(*row)) else {
                continue;
            };
            if kth >= self.load.file_rows {
                return Err(Failure::failed(format!(
                    "{} names row {kth}, and {} has {} rows",
                    path.display(),
                    self.load.base.display(),
                    self.load.file_rows
                )));
            }
            let kth = self.distance(query, kth)?;
            self.bounds.push(tie_bound(kth));
        }
        Ok(())
    }

    /// Compares every query with every row that is loaded.
    fn compute_bounds(&mut self) -> Result<(), Failure> {
        let nearest = self.nearest(self.k)?;
        self.set_truth(&nearest, |_| true);
        Ok(())
    }

    /// For each query its `count` nearest rows, nearest first, with their distances.
    pub(super) fn nearest(&mut self, count: usize) -> Result<Vec<Vec<(f64, u64)>>, Failure> {
        let dimension = self.load.dimension as usize;
        let mut nearest = vec![Vec::with_capacity(count + 1); self.queries().len()];
        for first in (0..self.load.rows).step_by(CHUNK as usize) {
            self.row.clear();
            let rows = CHUNK.min(self.load.rows - first);
            self.base
                .read_vectors(first, rows, &mut self.row)
                .map_err(|error| Failure::file("reading", &self.load.base, &error))?;
            for (query, nearest) in self.queries().zip(&mut nearest) {
                for (row, vector) in (first..).zip(self.row.chunks_exact(dimension)) {
                    let distance = distance(self.load.metric, query, vector);
                    let place = nearest.partition_point(|(other, _)| *other <= distance);
                    if place < count {
                        nearest.truncate(count - 1);
                        nearest.insert(place, (distance, row));
                    }
                }
            }
        }
        // No rows stay in memory, also not those of one chunk.
        self.row = Vec::new();
        Ok(nearest)
    }

    /// Judges from now on by those of the nearest rows that `is_there`; false if too few of
    /// a query's are, so that it would take more of them.
    pub(super) fn set_truth(
        &mut self,
        nearest: &[Vec<(f64, u64)>],
        is_there: impl Fn(u64) -> bool,
    ) -> bool {
        let kth = |rows: &Vec<(f64, u64)>| {
            let mut rows = rows.iter().filter(|(_, row)| is_there(*row));
            rows.nth(self.k - 1)
                .map(|(distance, _)| tie_bound(*distance))
        };
        let bounds: Option<Vec<f64>> = nearest.iter().map(kth).collect();
        let is_enough = bounds.is_some();
        self.bounds = bounds.unwrap_or_default();
        is_enough
    }
}

/// Components of the first queries of the file, all unless a number is given.
pub(super) fn read_queries(
    load: &Load,
    dir: &Path,
    count: Option<u64>,
) -> Result<Vec<f32>, Failure> {
    let path = dataset::vectors(dir, "query")?;
    let mut file = Vecs::open(&path)?;
    if file.width() != load.dimension {
        return Err(Failure::failed(format!(
            "{} has vectors of {} dimensions and {} of {}",
            path.display(),
            file.width(),
            load.base.display(),
            load.dimension
        )));
    }
    let count = count.unwrap_or(file.rows());
    if count > file.rows() {
        return Err(Failure::Usage(format!(
            "--queries {count} is more than the {} of {}",
            file.rows(),
            path.display()
        )));
    }
    let mut queries = Vec::new();
    file.read_vectors(0, count, &mut queries)
        .map_err(|error| Failure::file("reading", &path, &error))?;
    Ok(queries)
}

#[cfg(test)]
mod tests {
    use esker::{Durability, Metric};

    use super::super::repeats::Repeats;
    use super::*;

    const QUERY: [f32; 2] = [1.0, 0.0];
    /// By l2 and by cosine from the query, from near to far; rows 1 and 2 tie by both.
    const ROWS: [[f32; 2]; 5] = [[1.0, 0.1], [1.0, 0.5], [1.0, -0.5], [0.5, 1.0], [-2.0, 0.0]];

    fn vecs(path: &Path, rows: &[[[u8; 4]; 2]]) {
        let rows = rows.iter().map(|row| [2_u32.to_le_bytes(), row[0], row[1]]);
        std::fs::write(path, rows.flatten().flatten().collect::<Vec<u8>>()).unwrap();
    }

    fn recall(metric: Metric, rows: u64, truth: [u32; 2], answers: &[u64]) -> Result<f64, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let load = load(dir.path(), metric, rows, truth);
        Judge::new(&load, dir.path(), 2, None)?.recall(&[answers.to_vec()])
    }

    fn load(dir: &Path, metric: Metric, rows: u64, truth: [u32; 2]) -> Load {
        let file = |name: &str| dir.join(name);
        vecs(
            &file("base.fvecs"),
            &ROWS.map(|row| row.map(f32::to_le_bytes)),
        );
        vecs(&file("query.fvecs"), &[QUERY.map(f32::to_le_bytes)]);
        vecs(&file("groundtruth.ivecs"), &[truth.map(u32::to_le_bytes)]);
        Load {
            base: file("base.fvecs"),
            file_rows: ROWS.len() as u64,
            codes: esker::CodeKind::default(),
            dimension: 2,
            metric,
            mean_length: 1.0,
            repeats: Repeats::default(),
            rows,
            batch: 1,
            threads: 1,
            durability: Durability::Os,
            rate: None,
            held: Vec::new(),
        }
    }

    #[test]
    fn a_row_as_near_as_the_kth_is_true_and_a_farther_one_is_not() {
        for metric in [Metric::L2, Metric::Cosine] {
            // All rows, so the file speaks, and fewer, so it does not.
            for rows in [5, 4] {
                let recall = |answers: &[u64]| recall(metric, rows, [0, 1], answers).unwrap();
                assert_eq!(recall(&[0, 1]), 1.0);
                assert_eq!(recall(&[2, 0]), 1.0, "a tie");
                assert_eq!(recall(&[3, 0]), 0.5);
                assert_eq!(recall(&[3]), 0.0);
                assert_eq!(recall(&[0, 0]), 0.5, "one row twice");
                assert_eq!(recall(&[3, 4, 0]), 0.0, "only k count");
            }
        }
    }

    #[test]
    fn the_largest_inner_product_is_the_nearest() {
        for (rows, truth) in [(5, [2, 1]), (4, [4, 4])] {
            let recall = |answers: &[u64]| recall(Metric::InnerProduct, rows, truth, answers);
            assert_eq!(recall(&[0, 2]).unwrap(), 1.0, "three rows tie");
            assert_eq!(recall(&[3, 1]).unwrap(), 0.5);
        }
    }

    #[test]
    fn of_rows_that_are_gone_none_is_true() {
        let dir = tempfile::tempdir().unwrap();
        let load = load(dir.path(), Metric::L2, 5, [0, 1]);
        let mut judge = Judge::without_truth(&load, dir.path(), 2, None).unwrap();
        let nearest = judge.nearest(4).unwrap();
        let rows: Vec<u64> = nearest[0].iter().map(|(_, row)| *row).collect();
        assert_eq!(rows, [0, 1, 2, 3]);
        assert!(judge.set_truth(&nearest, |row| row != 0 && row != 2));
        assert_eq!(judge.recall(&[vec![1, 3]]).unwrap(), 1.0);
        assert_eq!(judge.recall(&[vec![3, 4]]).unwrap(), 0.5);
        assert!(!judge.set_truth(&nearest, |row| row == 3), "one is not two");
        assert!(judge.set_truth(&nearest, |_| true));
        assert_eq!(judge.recall(&[vec![1, 3]]).unwrap(), 0.5);
    }

    #[test]
    fn the_file_is_asked_only_where_it_speaks_of_all_rows() {
        // It names the farthest, so that all are near enough.
        assert_eq!(recall(Metric::L2, 5, [4, 4], &[3, 4]).unwrap(), 1.0);
        assert_eq!(recall(Metric::L2, 4, [4, 4], &[3, 2]).unwrap(), 0.5);
        assert!(
            recall(Metric::L2, 5, [0, 5], &[]).is_err(),
            "there is no row 5"
        );
        assert!(recall(Metric::L2, 1, [0, 1], &[]).is_err(), "k is 2");
    }
}
