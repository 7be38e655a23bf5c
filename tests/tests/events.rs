//! What a host is told of flushes, merges and stalls, against what lies on the disk, and
//! what its callback may do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use esker::{
    Background, BuildReason, CancelReason, CancelToken, Collection, CollectionOptions,
    CompactOptions, Db, Error, Event, FlushReport, GraphOptions, GraphOutcome, MergeCounts,
    MergePlan, MergeReason, MergeReport, Metric, Options, Stats,
};
use esker_tests::load::{delete, put, uniform};
use esker_tests::rng::Rng;
use esker_tests::sim::{Call, CallKind, Crash, Fault, OsError, SimEnv};

const DIMENSION: usize = 8;
const DIR: &str = "/db";

/// Everything that was told.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Event>>>);

impl Heard {
    fn hears(&self, options: Options) -> Options {
        let events = Arc::clone(&self.0);
        options.on_event(move |event| {
            let mut events = events.lock().unwrap_or_else(PoisonError::into_inner);
            events.push(event.clone());
        })
    }

    /// What was told since the last time that this was asked.
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn one_flush(&self) -> FlushReport {
        match &self.take()[..] {
            [Event::FlushDone(report)] => report.clone(),
            other => panic!("not one flush: {other:#?}"),
        }
    }

    /// A merge from its begin to its end, and nothing else.
    fn one_merge(&self) -> MergeReport {
        match &self.take()[..] {
            [Event::MergeBegun(plan), Event::MergeDone(report)] => {
                assert_eq!(*plan, report.plan);
                report.clone()
            }
            other => panic!("not one merge: {other:#?}"),
        }
    }
}

fn options() -> Options {
    Options::new()
        .background(Background::Manual)
        .graph(GraphOptions::new().min_rows(100).max_degree(16))
}

/// A database on a machine of its own, whose events are heard.
struct Fixture {
    env: SimEnv,
    heard: Heard,
    db: Db,
    c: Collection,
    rows: Vec<Vec<f32>>,
}

impl Fixture {
    fn new(seed: u64, options: Options) -> Self {
        let (env, heard) = (SimEnv::new(seed), Heard::default());
        let db = Db::open(DIR, heard.hears(options.env(env.env()))).expect("opens");
        let of_rows = CollectionOptions::new(DIMENSION as u32, Metric::L2);
        let c = db.create_collection("c", of_rows).expect("made");
        let rows = uniform(seed, 8_200, DIMENSION);
        Self {
            env,
            heard,
            db,
            c,
            rows,
        }
    }

    fn put(&self, keys: std::ops::Range<usize>) {
        let first = keys.start as u64;
        let rows = (first..).zip(self.rows[keys].iter().map(Vec::as_slice));
        put(&self.db, &self.c, rows).expect("written");
    }

    fn load(&self, keys: std::ops::Range<usize>) {
        self.put(keys);
        self.db.flush().expect("flushed");
    }

    fn work(&self) {
        work(&self.db);
    }

    /// Bytes of each file of a kind.
    fn files(&self, suffix: &str) -> BTreeMap<String, u64> {
        let names = self.env.names(DIR).expect("lists");
        let names = names.into_iter().filter(|name| name.ends_with(suffix));
        let len = |name: &String| {
            let file = self.env.file(Path::new(DIR).join(name)).expect("there");
            file.len() as u64
        };
        names.map(|name| (name.clone(), len(&name))).collect()
    }

    fn segment_bytes(&self, segment: esker::SegmentId) -> u64 {
        let file = self.env.file(segment_path(segment)).expect("there");
        file.len() as u64
    }
}

fn segment_path(segment: esker::SegmentId) -> PathBuf {
    Path::new(DIR).join(format!("{:012}.segment", segment.0))
}

fn work(db: &Db) {
    for _ in 0..1_000 {
        if !db.run_background_step().expect("works") {
            return;
        }
    }
    panic!("background work has no end");
}

fn until_failure(db: &Db) {
    for _ in 0..1_000 {
        match db.run_background_step() {
            Ok(true) => {}
            Ok(false) => panic!("nothing fails: {:#?}", db.stats()),
            Err(_) => return,
        }
    }
    panic!("background work has no end");
}

/// Waits until nobody may read any more; whoever closes goes on to wait for merges then.
fn until_closed(c: &Collection) {
    let begun = Instant::now();
    while !matches!(c.get(0_u64), Err(Error::Closed)) {
        assert!(begun.elapsed() < Duration::from_secs(120), "never closed");
        std::thread::yield_now();
    }
}

/// The output of a merge or flush is about to be made: its graph is not.
fn output_begins(call: &Call) -> bool {
    call.kind == CallKind::Create && call.path.to_string_lossy().ends_with(".segment.tmp")
}

#[test]
fn a_flush_says_what_lies_on_the_disk() {
    let f = Fixture::new(1, options().auto_compact(false));
    f.load(0..250);
    let report = f.heard.one_flush();
    let segment = report.segment.expect("one");
    assert_eq!(
        (&report.collection[..], report.collection_id),
        ("c", f.c.id())
    );
    assert_eq!(
        (report.rows, report.deleted_keys, report.superseded_rows),
        (250, 0, 0)
    );
    assert_eq!(report.bytes_written, f.segment_bytes(segment));
    assert!(!report.while_opening);
    let GraphOutcome::Built(BuildReason::NoGraph, graph) = report.graph else {
        panic!("{:?}", report.graph);
    };
    assert_eq!((graph.new_rows, graph.generation), (250, 0));
    assert_eq!(Some(graph.recall), f.db.stats().least_sampled_recall);
    assert_eq!(
        (graph.recall_built, graph.recall_before),
        (graph.recall, None)
    );

    // Forty of these again, thirty new, twenty gone, and ten that never were.
    f.put(210..280);
    let gone: Vec<u64> = (0..20).chain(5_000..5_010).collect();
    delete(&f.db, &f.c, &gone).expect("deleted");
    f.env.before(output_begins, {
        let env = f.env.clone();
        move || env.advance(Duration::from_secs(3))
    });
    f.db.flush().expect("flushed");
    let report = f.heard.one_flush();
    assert_eq!(
        (report.rows, report.deleted_keys, report.superseded_rows),
        (70, 30, 60)
    );
    let deletions = f.files(".deletions");
    assert_eq!(deletions.len(), 1);
    let of_deletions: u64 = deletions.values().sum();
    let bytes = f.segment_bytes(report.segment.expect("one")) + of_deletions;
    assert_eq!(report.bytes_written, bytes);
    assert_eq!(report.graph, GraphOutcome::Unwanted, "too few rows");
    assert_eq!(report.time, Duration::from_secs(3));

    // Nothing but deletions.
    delete(&f.db, &f.c, &[100, 101, 270]).expect("deleted");
    f.db.flush().expect("flushed");
    let report = f.heard.one_flush();
    assert_eq!(
        (report.segment, report.rows, report.superseded_rows),
        (None, 0, 3)
    );
    let newest = f.files(".deletions").into_iter().next_back().expect("one");
    assert_eq!(report.bytes_written, newest.1);
    let stats = f.db.stats();
    assert_eq!(stats.flush_time, Duration::from_secs(3));
    assert_eq!(stats.write_amplification(), Some(1.0));
}

/// Inputs, bytes, rows and times, with deletions before the merge and while it runs.
#[test]
fn a_merge_says_what_lies_on_the_disk() {
    let f = Fixture::new(2, options());
    (0..4).for_each(|n| f.load(n * 300..n * 300 + 300));
    let gone: Vec<u64> = (0..1_200).step_by(40).collect();
    delete(&f.db, &f.c, &gone).expect("deleted");
    f.db.flush().expect("flushed");
    let flushed = f.heard.take();
    let flushes: Vec<_> = flushed.iter().map(flush_of).collect();
    assert_eq!(flushes[3].graph, GraphOutcome::Left, "a merge was due");
    let before = f.files(".segment");
    let (db, c, env) = (f.db.clone(), f.c.clone(), f.env.clone());
    f.env.before(output_begins, move || {
        env.advance(Duration::from_secs(7));
        delete(&db, &c, &[1, 301, 601]).expect("deleted");
        db.flush().expect("flushed");
    });
    let debt = f.db.stats();
    assert!(debt.merge_debt_bytes > 0);
    assert_eq!(debt.merges_due, 1);
    f.work();
    let events = f.heard.take();
    let [Event::MergeBegun(plan), flush, Event::MergeDone(report)] = &events[..] else {
        panic!("{events:#?}");
    };
    assert_eq!(*plan, report.plan);
    assert_eq!((plan.merge, plan.reason), (1, MergeReason::SizeTier));
    assert_eq!((&plan.collection[..], plan.collection_id), ("c", f.c.id()));
    let inputs = plan
        .inputs
        .iter()
        .map(|i| (Some(i.segment), i.rows, i.live_rows, i.bytes));
    let expected = flushes[..4].iter().zip(before.values());
    let live = |n: usize| 300 - gone.iter().filter(|&&key| key / 300 == n as u64).count() as u64;
    let expected = expected
        .enumerate()
        .map(|(n, (flush, bytes))| (flush.segment, flush.rows, live(n), *bytes));
    assert!(inputs.eq(expected), "{plan:#?}");
    assert_eq!(plan.bytes(), before.values().sum::<u64>());
    let segment = report.segment.expect("one");
    assert_eq!(
        (report.rows, report.rows_dropped, report.rows_superseded),
        (1_170, 30, 3)
    );
    assert_eq!(report.output_bytes, f.segment_bytes(segment));
    let deletions: u64 = f.files(".deletions").values().sum();
    assert_eq!(report.bytes_written, report.output_bytes + deletions);
    assert_eq!(report.bytes_read, plan.bytes());
    assert_eq!(report.time, Duration::from_secs(7));
    assert_eq!(flush_of(flush).superseded_rows, 3);
    assert_eq!(f.c.len().expect("counts"), 1_167);

    let stats = f.db.stats();
    assert_eq!(stats.merge_time, Duration::from_secs(7));
    assert_eq!(stats.bytes_read_merges, report.bytes_read);
    assert_eq!(stats.bytes_written_merges, report.bytes_written);
    let of_flushes: u64 = flushed
        .iter()
        .chain([flush])
        .map(|e| flush_of(e).bytes_written)
        .sum();
    assert_eq!(stats.bytes_written_flushes, of_flushes);
    assert_eq!(
        stats.bytes_written_segments,
        of_flushes + report.bytes_written
    );
    let amplification = 1.0 + report.bytes_written as f64 / of_flushes as f64;
    assert!((stats.write_amplification().expect("flushed") - amplification).abs() < 1e-9);
    let mut by_reason = MergeCounts::default();
    by_reason.size_tier = 1;
    assert_eq!((stats.merges, stats.merges_by_reason), (1, by_reason));
    let due = estimate_error(debt.merge_debt_bytes, report.output_bytes);
    assert!(due < 0.04, "{due}");
    assert_eq!((stats.merge_debt_bytes, stats.merges_due), (0, 0));
}

fn flush_of(event: &Event) -> &FlushReport {
    match event {
        Event::FlushDone(report) => report,
        other => panic!("no flush: {other:#?}"),
    }
}

fn estimate_error(estimate: u64, truth: u64) -> f64 {
    (estimate as f64 - truth as f64).abs() / truth as f64
}

/// Kept or built, why, and what the sample said before and after.
#[test]
fn a_merge_says_what_became_of_the_graph() {
    // So few neighbours that not all are found.
    let poor = GraphOptions::new().min_rows(100).max_degree(6);
    let f = Fixture::new(3, options().auto_compact(false).graph(poor));
    f.load(0..3_000);
    let of_flush = *f.heard.one_flush().graph.graph().expect("one");
    f.load(3_000..3_090);
    assert_eq!(f.heard.one_flush().graph, GraphOutcome::Unwanted);
    f.db.compact().expect("compacted");
    let report = f.heard.one_merge();
    assert_eq!(report.plan.reason, MergeReason::Compact);
    let GraphOutcome::Kept(kept) = report.graph else {
        panic!("{:?}", report.graph);
    };
    assert_eq!((kept.new_rows, kept.generation), (90, 1));
    assert_eq!(kept.recall_before, Some(of_flush.recall));
    assert_eq!(kept.recall_built, of_flush.recall);
    assert_eq!(f.db.stats().least_sampled_recall, Some(kept.recall));
    assert!(kept.recall >= kept.recall_built - 0.05);
    assert!(
        kept.recall != kept.recall_built,
        "else nothing below tells them apart"
    );
    assert_eq!(f.db.stats().graphs_kept, 1);

    // Half as many again are too many, and the sample is that of the larger graph.
    f.load(3_090..4_590);
    f.heard.take();
    f.db.compact().expect("compacted");
    let report = f.heard.one_merge();
    let GraphOutcome::Built(BuildReason::Cost, built) = report.graph else {
        panic!("{:?}", report.graph);
    };
    assert_eq!((built.new_rows, built.generation), (4_590, 0));
    assert_eq!(built.recall_before, Some(kept.recall));
    assert_eq!(built.recall_built, built.recall);
    f.db.close().expect("closes");

    // Of another degree, and where none is to be kept.
    for (graph, why) in [
        (GraphOptions::new().max_degree(24), BuildReason::NoGraph),
        (
            GraphOptions::new().max_degree(24).reuse(false),
            BuildReason::NotReused,
        ),
    ] {
        let options = options().auto_compact(false).graph(graph.min_rows(100));
        let db = Db::open(DIR, f.heard.hears(options.env(f.env.env()))).expect("opens");
        let c = db.collection("c").expect("there");
        c.delete(u64::from(why == BuildReason::NoGraph))
            .expect("deleted");
        db.flush().expect("flushed");
        f.heard.take();
        db.compact().expect("compacted");
        let report = f.heard.one_merge();
        assert!(matches!(report.graph, GraphOutcome::Built(because, _) if because == why));
        db.close().expect("closes");
    }
}

/// Each reason of the policy is told by its name, and counted.
#[test]
fn each_reason_is_named() {
    let f = Fixture::new(4, options().max_graph_segments(1).merge_width(3));
    f.load(0..1_000);
    f.load(1_000..1_120);
    f.work();
    let told = |f: &Fixture, reason| {
        let merges = merges_of(&f.heard.take());
        let reasons: Vec<_> = merges.iter().map(|merge| merge.plan.reason).collect();
        assert_eq!(reasons, [reason]);
        merges.into_iter().next().expect("one")
    };
    told(&f, MergeReason::SegmentCount);
    (0..3).for_each(|n| f.load(2_000 + n * 30..2_030 + n * 30));
    f.work();
    told(&f, MergeReason::SizeTier);
    delete(&f.db, &f.c, &(0..400).collect::<Vec<_>>()).expect("deleted");
    f.db.flush().expect("flushed");
    f.work();
    let merge = told(&f, MergeReason::Deletions);
    assert_eq!((merge.rows, merge.rows_dropped), (720, 400));
    f.db.compact().expect("compacted");
    told(&f, MergeReason::Compact);
    // All of it goes: nothing is written, and nothing left.
    delete(&f.db, &f.c, &(0..3_000).collect::<Vec<_>>()).expect("deleted");
    f.db.flush().expect("flushed");
    f.work();
    let merge = told(&f, MergeReason::Deletions);
    assert_eq!(
        (merge.segment, merge.rows, merge.output_bytes),
        (None, 0, 0)
    );
    assert_eq!(
        (merge.bytes_written, merge.graph),
        (0, GraphOutcome::Unwanted)
    );
    let counts = f.db.stats().merges_by_reason;
    assert_eq!((counts.segment_count, counts.size_tier), (1, 1));
    assert_eq!(
        (counts.deletions, counts.compact, counts.total()),
        (2, 1, 5)
    );

    // What had too few rows for a graph comes to have enough.
    f.load(4_000..4_090);
    f.db.close().expect("closes");
    let graph = GraphOptions::new().min_rows(50).max_degree(16);
    let options = f.heard.hears(options().graph(graph).env(f.env.env()));
    let db = Db::open(DIR, options).expect("opens");
    f.heard.take();
    assert_eq!(db.stats().merges_due, 1);
    work(&db);
    let merge = f.heard.one_merge();
    assert_eq!(merge.plan.reason, MergeReason::MissingGraph);
    assert!(matches!(
        merge.graph,
        GraphOutcome::Built(BuildReason::NoGraph, _)
    ));
    assert_eq!(db.stats().merges_by_reason.missing_graph, 1);
}

fn merges_of(events: &[Event]) -> Vec<MergeReport> {
    let done = events.iter().filter_map(|event| match event {
        Event::MergeDone(report) => Some(report.clone()),
        _ => None,
    });
    done.collect()
}

/// A graph that was kept five times is worn, and built for its generation.
#[test]
fn a_worn_graph_is_named() {
    let f = Fixture::new(5, options().max_graph_segments(64).merge_width(64));
    f.load(0..2_000);
    for round in 0..40 {
        let first = 2_000 + round * 20;
        f.load(first..first + 20);
        f.heard.take();
        f.db.compact().expect("compacted");
        let merge = f.heard.one_merge();
        let graph = *merge.graph.graph().expect("one");
        f.work();
        let worn = merges_of(&f.heard.take());
        if graph.generation < 5 {
            assert!(worn.is_empty(), "{worn:#?}");
            continue;
        }
        assert_eq!(worn[0].plan.reason, MergeReason::WornGraph);
        let GraphOutcome::Built(BuildReason::Generation, built) = worn[0].graph else {
            panic!("{:?}", worn[0].graph);
        };
        assert_eq!(
            (built.generation, built.recall_before),
            (0, Some(graph.recall))
        );
        assert_eq!(f.db.stats().merges_by_reason.worn_graph, 1);
        return;
    }
    panic!("no graph was kept five times");
}

/// A merge of four segments is due.
fn due(seed: u64) -> Fixture {
    let f = Fixture::new(seed, options());
    (0..4).for_each(|n| f.load(n * 300..n * 300 + 300));
    f.heard.take();
    f
}

/// Runs the merge that is due with something done in its middle, and tells how it ended.
fn ends(f: &Fixture, act: impl FnOnce() + Send + 'static) -> (MergePlan, Event) {
    interrupt(f, act);
    ended(f)
}

/// Runs the merge that is due with something done in its middle.
fn interrupt(f: &Fixture, act: impl FnOnce() + Send + 'static) {
    let met = Arc::new(AtomicBool::new(false));
    let meets = Arc::clone(&met);
    f.env.before(output_begins, move || {
        meets.store(true, Ordering::Relaxed);
        act();
    });
    while !met.load(Ordering::Relaxed) {
        let _ = f.db.run_background_step();
    }
    f.env.clear_faults();
}

/// The one merge that was told of.
fn ended(f: &Fixture) -> (MergePlan, Event) {
    match &f.heard.take()[..] {
        [Event::MergeBegun(plan), end] => (plan.clone(), end.clone()),
        other => panic!("not one merge: {other:#?}"),
    }
}

#[test]
fn a_merge_that_is_ended_says_why() {
    let f = due(6);
    let db = f.db.clone();
    let pause = Arc::new(Mutex::new(None));
    let pauses = Arc::clone(&pause);
    let (plan, end) = ends(&f, move || {
        *pauses.lock().expect("no panic") = Some(db.pause_merges());
        db.cancel_merges();
    });
    let Event::MergeCancelled(cancelled) = end else {
        panic!("{end:#?}");
    };
    assert_eq!(
        (&cancelled.plan, cancelled.reason),
        (&plan, CancelReason::Asked)
    );
    assert_eq!(
        (cancelled.bytes_read, cancelled.bytes_written),
        (plan.bytes(), 0)
    );
    assert_eq!(f.db.stats().merges_cancelled, 1);
    assert_eq!(f.db.stats().bytes_read_merges, plan.bytes());
    // What is due is not forgotten because nobody does it.
    assert!(f.db.stats().merge_debt_bytes > 0);
    drop(pause.lock().expect("no panic").take());

    // Dropped when its output was about to be written: it ends then.
    let db = f.db.clone();
    let (again, end) = ends(&f, move || db.drop_collection("c").expect("dropped"));
    let Event::MergeCancelled(dropped) = end else {
        panic!("{end:#?}");
    };
    assert_eq!((again.merge, again.inputs), (plan.merge + 1, plan.inputs));
    assert_eq!(dropped.reason, CancelReason::Dropped);
    assert_eq!(dropped.bytes_written, 0);
    let stats = f.db.stats();
    assert_eq!((stats.merges, stats.merges_cancelled), (0, 2));
    assert_eq!(stats.bytes_written_merges, dropped.bytes_written);
}

#[test]
fn a_compaction_that_is_cancelled_and_a_database_that_closes_end_merges() {
    let f = due(7);
    let token = CancelToken::new();
    let cancels = token.clone();
    f.env.before(output_begins, move || cancels.cancel());
    let compacted = f.db.compact_with(&CompactOptions::new().cancel(&token));
    assert!(matches!(compacted, Err(Error::Busy(_))));
    let events = f.heard.take();
    let [Event::MergeBegun(plan), Event::MergeCancelled(end)] = &events[..] else {
        panic!("{events:#?}");
    };
    assert_eq!(
        (plan.reason, end.reason),
        (MergeReason::Compact, CancelReason::Asked)
    );

    let (db, c) = (f.db.clone(), f.c.clone());
    let closing = Arc::new(Mutex::new(None));
    let closes = Arc::clone(&closing);
    interrupt(&f, move || {
        let close = std::thread::spawn(move || db.close());
        *closes.lock().expect("no panic") = Some(close);
        // The merge is told before anybody else is refused.
        until_closed(&c);
    });
    // Either thread may be the one that tells it.
    let close = closing.lock().expect("no panic").take().expect("begun");
    close.join().expect("no panic").expect("closes");
    let (_, end) = ended(&f);
    assert!(
        matches!(&end, Event::MergeCancelled(end) if end.reason == CancelReason::Closing),
        "{end:#?}"
    );
}

#[test]
fn a_merge_and_a_flush_that_fail_say_so() {
    let f = due(8);
    f.env
        .inject(Fault::when(OsError::Eio, output_begins).once());
    until_failure(&f.db);
    let events = f.heard.take();
    let [Event::MergeBegun(plan), Event::MergeFailed(failure)] = &events[..] else {
        panic!("{events:#?}");
    };
    assert_eq!(*plan, failure.plan);
    assert!(matches!(failure.error, Error::Io { .. }));
    assert_eq!(
        (failure.bytes_read, failure.bytes_written),
        (plan.bytes(), 0)
    );
    // Without room it is not even begun to be written.
    f.env.set_capacity(Some(1));
    until_failure(&f.db);
    let events = f.heard.take();
    let [Event::MergeBegun(_), Event::MergeFailed(failure)] = &events[..] else {
        panic!("{events:#?}");
    };
    assert!(
        matches!(failure.error, Error::Busy(_)),
        "{:?}",
        failure.error
    );
    assert_eq!((failure.bytes_read, failure.bytes_written), (0, 0));
    assert_eq!(f.db.stats().merges_failed, 2);
    f.env.set_capacity(None);
    f.put(2_000..2_020);
    f.env.set_capacity(Some(1));
    assert!(f.db.flush().is_err());
    let events = f.heard.take();
    let [Event::FlushFailed(failure)] = &events[..] else {
        panic!("{events:#?}");
    };
    assert!(matches!(failure.error, Error::Io { .. }));
    f.env.set_capacity(None);
    f.db.flush().expect("flushed");
    assert_eq!(f.heard.one_flush().rows, 20);
}

#[test]
fn a_stall_is_told_from_its_begin_to_its_end() {
    let options = options().memory_budget(256 << 10).memtable_bytes(64 << 10);
    let f = Fixture::new(9, options.block_cache_bytes(0));
    let mut events = Vec::new();
    for n in 0..400 {
        f.put(n * 10..n * 10 + 10);
        events.extend(f.heard.take());
        if events
            .iter()
            .any(|event| matches!(event, Event::StallEnded(_)))
        {
            break;
        }
    }
    let [
        Event::StallBegun(stall),
        flushes @ ..,
        Event::StallEnded(end),
    ] = &events[..]
    else {
        panic!("{events:#?}");
    };
    assert!(!flushes.is_empty());
    flushes
        .iter()
        .for_each(|flush| assert!(flush_of(flush).rows > 0));
    assert_eq!(stall.batch_bytes, end.batch_bytes);
    assert!(stall.used + stall.batch_bytes > stall.limit, "{stall:?}");
    assert!(end.admitted);
    let stats = f.db.stats();
    assert_eq!((stats.stalls, stats.stall_time), (1, end.time));
}

/// Runs something that must not wait for ever.
fn in_time<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(run()));
    let answer = receiver.recv_timeout(Duration::from_secs(120));
    answer.expect("it waits for ever, or panicked")
}

/// A callback calls whatever a handle has, in either mode.
#[test]
fn a_callback_may_call_the_database_back() {
    for background in [Background::Manual, Background::Threads] {
        let (told, calls) = in_time(move || {
            let handle: Arc<OnceLock<(Db, Collection)>> = Arc::default();
            let (told, calls) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
            let (inside, tells, counts) = (handle.clone(), told.clone(), calls.clone());
            let done = Arc::new(AtomicU64::new(0));
            let does = Arc::clone(&done);
            let tell = move |_: &Event| {
                tells.fetch_add(1, Ordering::Relaxed);
                let Some((db, c)) = inside.get() else { return };
                let _ = db.stats();
                // Each of these tells more: somewhere it has to end.
                if counts.fetch_add(1, Ordering::Relaxed) < 6 {
                    c.put(9_999u64, &[0.5; DIMENSION]).expect("written");
                    db.flush().expect("flushed");
                    db.compact().expect("compacted");
                    let _ = db.run_background_step().expect("works");
                    db.verify().expect("verifies");
                    drop(db.pause_merges());
                    does.fetch_add(1, Ordering::Relaxed);
                }
            };
            let dir = tempfile::tempdir().expect("dir");
            let options = options().background(background).on_event(tell);
            let db = Db::open(dir.path(), options).expect("opens");
            let of_rows = CollectionOptions::new(DIMENSION as u32, Metric::L2);
            let c = db.create_collection("c", of_rows).expect("made");
            handle.set((db.clone(), c.clone())).expect("once");
            let rows = uniform(1, 1_200, DIMENSION);
            for n in 0..4 {
                let keys = n * 300..n * 300 + 300;
                let rows = (keys.start as u64..).zip(rows[keys].iter().map(Vec::as_slice));
                put(&db, &c, rows).expect("written");
                db.flush().expect("flushed");
            }
            db.compact().expect("compacted");
            // In threads, events are told beside all this.
            while done.load(Ordering::Relaxed) < 6 {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(c.len().expect("counts"), 1_201);
            db.close().expect("closes");
            (told.load(Ordering::Relaxed), calls.load(Ordering::Relaxed))
        });
        assert!(told >= 12, "{background:?}: {told}");
        assert!(calls >= 6, "{background:?}: {calls}");
    }
}

/// The host's panics end with the call: everything goes on, and the next event is told.
#[test]
fn a_callback_that_panics_harms_nothing() {
    for background in [Background::Manual, Background::Threads] {
        let told = in_time(move || {
            let told = Arc::new(AtomicU64::new(0));
            let tells = Arc::clone(&told);
            let dir = tempfile::tempdir().expect("dir");
            let options = options().background(background).on_event(move |_| {
                tells.fetch_add(1, Ordering::Relaxed);
                // As `panic!` does, without its message among those of tests.
                std::panic::resume_unwind(Box::new("the host's"));
            });
            let db = Db::open(dir.path(), options).expect("opens");
            let of_rows = CollectionOptions::new(DIMENSION as u32, Metric::L2);
            let c = db.create_collection("c", of_rows).expect("made");
            for round in 0..3u64 {
                c.put(round, &[1.0; DIMENSION]).expect("not poisoned");
                db.flush().expect("flushed");
            }
            db.compact().expect("compacted");
            assert_eq!(c.len().expect("counts"), 3);
            assert_eq!(db.stats().background_error, None);
            db.close().expect("closes");
            told.load(Ordering::Relaxed)
        });
        assert_eq!(
            told, 5,
            "{background:?}: three flushes, and both ends of a merge"
        );
    }
}

/// Everything is told before `close` returns, and the callback is let go with the handle
/// that it holds; the callback may itself be who closes, while another does so, too.
#[test]
fn everything_is_told_before_the_end() {
    for (background, closes) in [
        (Background::Manual, false),
        (Background::Manual, true),
        (Background::Threads, false),
        (Background::Threads, true),
    ] {
        in_time(move || {
            let held = Arc::new(());
            let gone: Weak<()> = Arc::downgrade(&held);
            let handle: Arc<OnceLock<Db>> = Arc::default();
            let told = Arc::new(AtomicU64::new(0));
            let (inside, tells) = (Arc::clone(&handle), Arc::clone(&told));
            let dir = tempfile::tempdir().expect("dir");
            let options = options().background(background).on_event(move |event| {
                let _held = &held;
                std::thread::sleep(Duration::from_millis(5));
                if let Some(db) = inside.get().filter(|_| closes) {
                    db.close().expect("closes");
                }
                if matches!(event, Event::FlushDone(_)) {
                    tells.fetch_add(1, Ordering::Relaxed);
                }
            });
            let db = Db::open(dir.path(), options.auto_compact(false)).expect("opens");
            let of_rows = CollectionOptions::new(DIMENSION as u32, Metric::L2);
            let c = db.create_collection("c", of_rows).expect("made");
            handle.set(db.clone()).expect("once");
            drop(handle);
            let mut flushed = 0;
            for round in 0..20u64 {
                if c.put(round, &[1.0; DIMENSION]).is_err() || db.flush().is_err() {
                    break;
                }
                flushed += 1;
            }
            assert!(closes || flushed == 20);
            db.close().expect("closes");
            if !closes {
                assert_eq!(told.load(Ordering::Relaxed), flushed);
            }
            // Where the callback has closed, it may still run: it is let go soon.
            while gone.upgrade().is_some() {
                assert!(
                    closes && background == Background::Threads,
                    "{background:?}"
                );
                std::thread::yield_now();
            }
            assert!(told.load(Ordering::Relaxed) >= flushed.min(1));
        });
    }
}

/// Who closes waits for the callback, which closes, too.
#[test]
fn a_callback_may_close_what_is_being_closed() {
    in_time(|| {
        let handle: Arc<OnceLock<Db>> = Arc::default();
        let inside = Arc::clone(&handle);
        let (sender, told) = mpsc::channel();
        let dir = tempfile::tempdir().expect("dir");
        let options = options()
            .background(Background::Threads)
            .on_event(move |_| {
                sender.send(()).expect("somebody waits");
                // Long enough for the other to be in the middle of it.
                std::thread::sleep(Duration::from_millis(200));
                let db = inside.get().expect("it is open");
                db.close().expect("it is closed already");
            });
        let db = Db::open(dir.path(), options).expect("opens");
        handle.set(db.clone()).expect("once");
        let of_rows = CollectionOptions::new(DIMENSION as u32, Metric::L2);
        let c = db.create_collection("c", of_rows).expect("made");
        c.put(1u64, &[1.0; DIMENSION]).expect("written");
        db.flush().expect("flushed");
        told.recv().expect("told");
        db.close().expect("closes");
    });
}

/// Sums of what events say, of flushes and of merges.
#[derive(Debug, Default, PartialEq)]
struct Sums {
    written_flushes: u64,
    written_merges: u64,
    read_merges: u64,
    flushes: u64,
    merges: MergeCounts,
    cancelled: u64,
    failed: u64,
    flush_time: Duration,
    merge_time: Duration,
    stalls: u64,
}

impl Sums {
    fn add(&mut self, event: &Event) {
        match event {
            Event::FlushDone(report) => {
                self.flushes += 1;
                self.written_flushes += report.bytes_written;
                self.flush_time += report.time;
            }
            Event::FlushFailed(failure) => {
                self.written_flushes += failure.bytes_written;
                self.flush_time += failure.time;
            }
            Event::MergeDone(report) => {
                let merges = &mut self.merges;
                *match report.plan.reason {
                    MergeReason::SizeTier => &mut merges.size_tier,
                    MergeReason::SegmentCount => &mut merges.segment_count,
                    MergeReason::Deletions => &mut merges.deletions,
                    MergeReason::WornGraph => &mut merges.worn_graph,
                    MergeReason::MissingGraph => &mut merges.missing_graph,
                    MergeReason::Compact => &mut merges.compact,
                    other => panic!("{other:?}"),
                } += 1;
                self.merge(report.bytes_read, report.bytes_written, report.time);
            }
            Event::MergeCancelled(end) => {
                self.cancelled += 1;
                self.merge(end.bytes_read, end.bytes_written, end.time);
            }
            Event::MergeFailed(end) => {
                self.failed += 1;
                self.merge(end.bytes_read, end.bytes_written, end.time);
            }
            Event::StallEnded(_) => self.stalls += 1,
            Event::MergeBegun(_) | Event::StallBegun(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn merge(&mut self, read: u64, written: u64, time: Duration) {
        self.read_merges += read;
        self.written_merges += written;
        self.merge_time += time;
    }

    fn of(stats: &Stats) -> Self {
        Self {
            written_flushes: stats.bytes_written_flushes,
            written_merges: stats.bytes_written_merges,
            read_merges: stats.bytes_read_merges,
            flushes: stats.flushes,
            merges: stats.merges_by_reason,
            cancelled: stats.merges_cancelled,
            failed: stats.merges_failed,
            flush_time: stats.flush_time,
            merge_time: stats.merge_time,
            stalls: stats.stalls,
        }
    }
}

/// A drawn life of a database, with failures and merges that are told to end; all that
/// was told of it.
fn drawn(seed: u64) -> (Vec<Event>, Stats) {
    let mut rng = Rng::part(seed, 1);
    let options = options()
        .merge_width(2 + rng.below(3) as usize)
        .max_graph_segments(1 + rng.below(3) as usize)
        .merge_bytes_per_second(rng.chance(1, 2).then_some(1 << 20))
        .memory_budget(1 << 20)
        .memtable_bytes(48 << 10);
    let f = Fixture::new(seed, options);
    let mut pause = None;
    for _ in 0..45 {
        let first = rng.below(3_000) as usize;
        let count = 1 + rng.below(250) as usize;
        match rng.below(9) {
            0..=2 => f.put(first..first + count),
            3 => {
                let keys: Vec<u64> = (first as u64..(first + count) as u64).collect();
                delete(&f.db, &f.c, &keys).expect("deleted");
            }
            4 => drop(f.db.flush()),
            5 => drop(f.db.compact()),
            6 => {
                let fault = Fault::when(OsError::Eio, output_begins);
                f.env.inject(fault.once());
            }
            7 => {
                let db = f.db.clone();
                f.env.before(output_begins, move || db.cancel_merges());
                // What is waited for, and what is flushed, goes on all the same.
                drop(f.db.run_background_step());
            }
            _ if rng.chance(1, 3) => {
                let paused = pause.take();
                pause = paused.is_none().then(|| f.db.pause_merges());
            }
            _ => drop(f.db.run_background_step()),
        }
    }
    drop(pause);
    f.env.clear_faults();
    f.env.clear_hooks();
    while !matches!(f.db.run_background_step(), Ok(false)) {}
    let stats = f.db.stats();
    f.db.close().expect("closes");
    (f.heard.take(), stats)
}

#[test]
fn what_events_say_adds_up_to_the_counters() {
    let mut all = Sums::default();
    for seed in 0..24 {
        let (events, stats) = drawn(seed);
        let mut sums = Sums::default();
        events.iter().for_each(|event| sums.add(event));
        assert_eq!(sums, Sums::of(&stats), "seed {seed}");
        assert_eq!(stats.merges, sums.merges.total());
        assert_eq!((stats.merge_debt_bytes, stats.merges_due), (0, 0));
        let written = stats.bytes_written_flushes + stats.bytes_written_merges;
        assert_eq!(stats.bytes_written_segments, written);
        begins_and_ends(&events);
        events.iter().for_each(|event| all.add(event));
    }
    // Each kind has come up.
    assert!(
        all.merges.size_tier > 0 && all.merges.segment_count > 0,
        "{all:?}"
    );
    assert!(
        all.merges.deletions > 0 && all.merges.compact > 0,
        "{all:?}"
    );
    assert!(all.cancelled > 0, "{all:?}");
    assert!(all.failed > 0 && all.merge_time > Duration::ZERO, "{all:?}");
}

/// Merges come one after another, each with one end.
fn begins_and_ends(events: &[Event]) {
    let mut running: Option<MergePlan> = None;
    let mut last = 0;
    for event in events {
        let plan = match event {
            Event::MergeBegun(plan) => {
                assert_eq!(plan.merge, last + 1);
                last = plan.merge;
                assert_eq!(running.replace(plan.clone()), None);
                continue;
            }
            Event::MergeDone(report) => &report.plan,
            Event::MergeCancelled(end) => &end.plan,
            Event::MergeFailed(end) => &end.plan,
            _ => continue,
        };
        assert_eq!(running.take().as_ref(), Some(plan));
    }
    assert_eq!(running, None);
}

/// With a simulated world, what is told is a function of the seed, times included.
#[test]
fn what_is_told_is_a_function_of_the_seed() {
    for seed in [3, 11] {
        let [one, other] = [drawn(seed).0, drawn(seed).0].map(|events| format!("{events:#?}"));
        assert!(one.len() > 1_000);
        assert_eq!(one, other);
    }
}

/// The merges that are said to be due are those that come, and what they write is near
/// what was said.
#[test]
fn the_debt_is_what_merges_then_write() {
    let (mut merges, mut said, mut written) = (0, 0, 0);
    for seed in 20..36 {
        let mut rng = Rng::part(seed, 1);
        let options = options()
            .merge_width(2 + rng.below(4) as usize)
            .max_graph_segments(1 + rng.below(5) as usize);
        let f = Fixture::new(seed, options);
        let mut first = 0;
        for _ in 0..3 + rng.below(7) {
            let count = [90, 300, 500, 900][rng.below(4) as usize];
            f.load(first..first + count);
            first += count;
        }
        let gone: Vec<u64> = (0..first as u64).filter(|_| rng.chance(1, 4)).collect();
        if rng.chance(1, 2) && !gone.is_empty() {
            delete(&f.db, &f.c, &gone).expect("deleted");
            f.db.flush().expect("flushed");
        }
        let before = f.db.stats();
        assert_eq!(f.db.stats(), before, "to ask changes nothing");
        f.work();
        let after = f.db.stats();
        assert_eq!(after.merges, before.merges_due, "seed {seed}");
        assert_eq!(after.merges_due, 0);
        assert_eq!(before.merge_debt_bytes > 0, after.merges > 0);
        if after.merges > 0 {
            let error = estimate_error(before.merge_debt_bytes, after.bytes_written_merges);
            assert!(error < 0.25, "seed {seed}: {error}");
            said += before.merge_debt_bytes;
            written += after.bytes_written_merges;
        }
        merges += after.merges;
    }
    assert!(merges > 10, "{merges}");
    // Single small files lie about their pages; together they do not.
    let error = estimate_error(said, written);
    assert!(error < 0.06, "{error}");
}

/// Nobody merges, and the debt is there all the same, until somebody compacts.
#[test]
fn compact_pays_all_debts() {
    let f = Fixture::new(40, options().auto_compact(false));
    assert_eq!(f.db.stats().merge_debt_bytes, 0);
    (0..4).for_each(|n| f.load(n * 300..n * 300 + 300));
    let due = f.db.stats();
    assert_eq!(due.merges_due, 1);
    f.db.compact().expect("compacted");
    let report = merges_of(&f.heard.take()).pop().expect("one");
    let error = estimate_error(due.merge_debt_bytes, report.output_bytes);
    assert!(error < 0.04, "{error}");
    assert_eq!(f.db.stats().merge_debt_bytes, 0);
}

/// Rows that exceed the budget are flushed while the log is replayed.
#[test]
fn flushes_of_an_open_are_told_once_it_is_open() {
    let f = Fixture::new(41, options().memory_budget(16 << 20).auto_compact(false));
    f.put(0..4_000);
    let heard = Heard::default();
    f.env.stop();
    let image = f.env.crash_image(Crash::KeepAll);
    let small = options().memory_budget(256 << 10).memtable_bytes(64 << 10);
    let options = heard.hears(small.block_cache_bytes(0).auto_compact(false));
    let db = Db::open(DIR, options.env(image.env())).expect("opens");
    let events = heard.take();
    assert_eq!(events.len(), db.recovery_report().flushed_segments);
    assert!(events.len() > 1);
    let mut bytes = 0;
    for event in &events {
        let report = flush_of(event);
        assert!(report.while_opening && report.rows > 0);
        let path = segment_path(report.segment.expect("one"));
        assert_eq!(
            report.bytes_written,
            image.file(path).expect("there").len() as u64
        );
        bytes += report.bytes_written;
    }
    assert_eq!(db.stats().bytes_written_flushes, bytes);
}

/// What merges segments as they come names none that was not told of before.
#[test]
fn a_merge_begins_after_the_flushes_that_it_merges() {
    #[derive(Default)]
    struct Seen {
        known: Vec<esker::SegmentId>,
        merges: usize,
        unknown: usize,
    }
    let seen = Arc::new(Mutex::new(Seen::default()));
    let sees = Arc::clone(&seen);
    let dir = tempfile::tempdir().expect("a directory");
    let options = options().background(Background::Threads).merge_width(2);
    let options = options.on_event(move |event| {
        let mut seen = sees.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::FlushDone(flush) => seen.known.extend(flush.segment),
            Event::MergeDone(merge) => seen.known.extend(merge.segment),
            Event::MergeBegun(plan) => {
                seen.merges += 1;
                let inputs = plan.inputs.iter();
                let unknown = inputs.filter(|input| !seen.known.contains(&input.segment));
                seen.unknown += unknown.count();
            }
            _ => {}
        }
    });
    let db = Db::open(dir.path(), options).expect("opens");
    let of_rows = CollectionOptions::new(DIMENSION as u32, Metric::L2);
    let c = db.create_collection("c", of_rows).expect("made");
    for key in 0..500u64 {
        c.put(key, &[1.0; DIMENSION]).expect("written");
        db.flush().expect("flushed");
    }
    db.close().expect("closes");
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(seen.merges > 0);
    assert_eq!(seen.unknown, 0, "of {} merges", seen.merges);
}
