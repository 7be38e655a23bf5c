//! `esker bench-churn`: what graphs find that were kept while rows were replaced again
//! and again, beside graphs that are built anew.
//!
//! Owns which rows are there, and the measurement of each generation in two databases that
//! get the same writes. Invariants: which rows go and come depends on the seed alone; both
//! databases are judged by the same exact neighbours among the rows that are there, and an
//! answer that is not there ends the run. Must not know: how merges work, how space comes
//! back.

use std::collections::VecDeque;
use std::path::Path;

use esker::{Collection, Db, GraphOptions, Options};
use serde_json::{Value, json};

use super::cpu;
use super::deletions::deletions;
use super::judge::Judge;
use super::load::Load;
use super::point::{alone, nearest};
use super::random::Random;
use super::report::{print_report, round};
use crate::args::{BenchChurn, check_lists, check_shares};
use crate::failure::Failure;
use crate::scratch::Scratch;

/// Which rows of the file are there.
struct Rows {
    there: Vec<u64>,
    is_there: Vec<bool>,
    /// Those that are not, who comes next first.
    reserve: VecDeque<u64>,
    random: Random,
}

impl Rows {
    /// The first `live` of `all`.
    fn new(live: u64, all: u64, seed: u64) -> Self {
        Self {
            there: (0..live).collect(),
            is_there: (0..all).map(|row| row < live).collect(),
            reserve: (live..all).collect(),
            random: Random::new(seed),
        }
    }

    /// Replaces so many: those that go, and those that come instead.
    fn replace(&mut self, count: usize) -> (Vec<u64>, Vec<u64>) {
        let mut gone = Vec::new();
        for _ in 0..count.min(self.there.len()) {
            let at = self.random.below(self.there.len());
            gone.push(self.there.swap_remove(at));
        }
        let come: Vec<u64> = self.reserve.drain(..gone.len()).collect();
        self.there.extend(&come);
        self.reserve.extend(&gone);
        for (rows, there) in [(&gone, false), (&come, true)] {
            rows.iter()
                .for_each(|row| self.is_there[*row as usize] = there);
        }
        (gone, come)
    }

    fn has(&self, row: u64) -> bool {
        self.is_there.get(row as usize) == Some(&true)
    }
}

/// The true neighbours among rows that change.
struct Truth<'a> {
    judge: Judge<'a>,
    /// Of each query so many that enough of them are there.
    nearest: Vec<Vec<(f64, u64)>>,
}

impl<'a> Truth<'a> {
    fn new(args: &BenchChurn, load: &'a Load) -> Result<Self, Failure> {
        let queries = args.ask.queries;
        let mut judge = Judge::without_truth(load, &args.load.data, args.ask.k, queries)?;
        let most = usize::try_from(args.ask.k).unwrap_or(usize::MAX);
        let nearest = judge.nearest(most.saturating_mul(4))?;
        Ok(Self { judge, nearest })
    }

    /// Looks who is there now.
    fn set(&mut self, rows: &Rows) -> Result<(), Failure> {
        let mut count = self.nearest.first().map_or(1, Vec::len);
        while !self.judge.set_truth(&self.nearest, |row| rows.has(row)) {
            count = count.saturating_mul(2);
            self.nearest = self.judge.nearest(count)?;
        }
        Ok(())
    }
}

/// A database whose rows are replaced.
struct Replaced {
    db: Db,
    collection: Collection,
}

/// What one compaction cost, and what is found after it.
struct Generation {
    recall: f64,
    cpu_s: Option<f64>,
    graph_rows: u64,
    kept: bool,
    sampled_recall: Option<f32>,
}

/// Runs the whole measurement and prints each generation as soon as it is there.
pub(crate) fn churn(args: &BenchChurn) -> Result<(), Failure> {
    check_lists(&[args.l], args.ask.k)?;
    check_shares(&args.delete)?;
    let mut load = Load::plan_of_file(&args.load, args.rows, 1)?;
    let live = (load.rows as f64 * args.live).round() as u64;
    let replaced = (live as f64 * args.share).round() as u64;
    if replaced == 0 || replaced > load.rows - live || live < args.ask.k {
        return Err(Failure::Usage(format!(
            "--live {} of {} rows leaves {} in reserve, and each generation takes {replaced}: at \
             least one, and no more than there are",
            args.live,
            load.rows,
            load.rows - live
        )));
    }
    load.hold_rows()?;
    let mut rows = Rows::new(live, load.rows, args.seed);
    let mut truth = Truth::new(args, &load)?;
    let scratch = Scratch::new()?;
    let create = |name, reuse| create(&load, live, &scratch.path().join(name), reuse);
    let [keeps, builds] = [create("kept", true)?, create("built", false)?];
    for generation in 0..=args.generations {
        let (gone, come) = match generation {
            0 => (Vec::new(), Vec::new()),
            _ => rows.replace(usize::try_from(replaced).unwrap_or(usize::MAX)),
        };
        truth.set(&rows)?;
        let mut measure = |database: &Replaced| {
            load.replace(&database.db, &database.collection, &gone, &come)?;
            measure(args, database, &rows, &mut truth.judge)
        };
        let (kept, built) = (measure(&keeps)?, measure(&builds)?);
        let line = line(args, generation, &kept, &built);
        print_report(&with_sizes(line, &load, live, come.len()), args.json)?;
    }
    keeps.db.close()?;
    builds.db.close()?;
    if args.delete.is_empty() {
        return Ok(());
    }
    deletions(args, &load, live)
}

/// A database with the first `live` rows.
fn create(load: &Load, live: u64, dir: &Path, reuse: bool) -> Result<Replaced, Failure> {
    let options = Options::default()
        .auto_compact(false)
        .graph(GraphOptions::new().reuse(reuse));
    let (db, collection) = load.create_with(dir, options)?;
    load.write(&db, &collection, 0..live)?;
    Ok(Replaced { db, collection })
}

/// Compacts what was written, and asks the queries.
fn measure(
    args: &BenchChurn,
    Replaced { db, collection }: &Replaced,
    rows: &Rows,
    judge: &mut Judge<'_>,
) -> Result<Generation, Failure> {
    db.flush()?;
    let (before, cpu) = (db.stats(), cpu::seconds());
    db.compact()?;
    let cpu_s = cpu::seconds().zip(cpu);
    let after = db.stats();
    let there = collection.len()?;
    if there != rows.there.len() as u64 {
        return Err(Failure::failed(format!(
            "{} rows were put and not deleted, and the collection has {there}",
            rows.there.len()
        )));
    }
    let options = nearest(args.ask.k, args.l);
    let queries: Vec<&[f32]> = judge.queries().collect();
    let mut answers = Vec::new();
    let all = rows.is_there.len() as u64;
    alone(collection, &queries, &options, all, &mut answers)?;
    if !answers.iter().flatten().all(|row| rows.has(*row)) {
        return Err(Failure::failed(
            "a search answered with a row that was deleted",
        ));
    }
    Ok(Generation {
        recall: judge.recall(&answers)?,
        cpu_s: cpu_s.map(|(after, before)| after - before),
        graph_rows: after.graph_rows_built - before.graph_rows_built,
        kept: after.graphs_kept > before.graphs_kept,
        sampled_recall: after.least_sampled_recall,
    })
}

fn line(args: &BenchChurn, generation: u64, kept: &Generation, built: &Generation) -> Value {
    let cpu_ratio = kept.cpu_s.zip(built.cpu_s);
    let cpu_ratio = cpu_ratio.filter(|(_, built)| *built > 0.0);
    let sampled = |of: &Generation| of.sampled_recall.map(|recall| round(f64::from(recall), 4));
    json!({
        "generation": generation,
        "recall": round(kept.recall, 4),
        "recall_rebuild": round(built.recall, 4),
        "loss_points": round(100.0 * (built.recall - kept.recall), 2),
        "kept_graph": kept.kept,
        "cpu_s": kept.cpu_s.map(|s| round(s, 2)),
        "cpu_s_rebuild": built.cpu_s.map(|s| round(s, 2)),
        "cpu_ratio": cpu_ratio.map(|(kept, built)| round(kept / built, 3)),
        "sampled_recall": sampled(kept),
        "sampled_recall_rebuild": sampled(built),
        "graph_rows": kept.graph_rows,
        "graph_rows_rebuild": built.graph_rows,
        "l": args.l,
        "k": args.ask.k,
    })
}

fn with_sizes(mut line: Value, load: &Load, live: u64, replaced: usize) -> Value {
    if let Some(fields) = line.as_object_mut() {
        let sizes = [
            ("live_rows", json!(live)),
            ("replaced", json!(replaced)),
            ("dimension", json!(load.dimension)),
        ];
        fields.extend(sizes.map(|(name, value)| (name.to_owned(), value)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_and_come_back_and_none_is_twice() {
        let mut rows = Rows::new(90, 100, 7);
        let mut come_back = false;
        for _ in 0..50 {
            let before = rows.is_there.clone();
            let (gone, come) = rows.replace(9);
            assert_eq!((gone.len(), come.len()), (9, 9));
            assert!(
                gone.iter()
                    .all(|row| before[*row as usize] && !rows.has(*row))
            );
            assert!(
                come.iter()
                    .all(|row| !before[*row as usize] && rows.has(*row))
            );
            come_back |= come.iter().any(|row| *row < 90);
            let mut there = rows.there.clone();
            there.sort_unstable();
            there.dedup();
            assert_eq!(there.len(), 90);
            assert!(there.iter().all(|row| rows.has(*row)));
            assert_eq!(rows.reserve.len(), 10);
        }
        assert!(come_back);
        let again = |seed| Rows::new(90, 100, seed).replace(9);
        assert_eq!(again(7), again(7));
        assert_ne!(again(7), again(8));
    }
}
