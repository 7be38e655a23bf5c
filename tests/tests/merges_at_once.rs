//! Several merges at once: how many, of what, in which order they commit, and how each of
//! them ends.
//!
//! One merge is in the middle of another, on one thread, or two threads wait for each other
//! at the calls of their merges: never for a time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: a broken assumption should stop it where it stands"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use esker::{
    Background, CancelReason, CancelToken, Collection, CollectionOptions, CompactOptions, Db,
    Error, Event, GraphOptions, MergePlan, Metric, Options, SegmentId, Stats,
};
use esker_tests::load::{delete, put, uniform};
use esker_tests::sim::{Call, CallKind, Crash, SimEnv};

const DIR: &str = "/db";
const DIMENSION: usize = 6;
/// Far longer than anything here takes; what waits so long waits in vain.
const PATIENCE: Duration = Duration::from_secs(60);

fn options(merges: usize) -> Options {
    Options::new()
        .background(Background::Manual)
        .background_merges(merges)
        .graph(GraphOptions::new().min_rows(100).max_degree(12))
}

/// What was told, in its order.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Event>>>);

impl Heard {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// By collection: rows by key.
type Rows = BTreeMap<String, BTreeMap<u64, Vec<f32>>>;

/// A database on a simulated machine.
#[derive(Clone)]
struct Live {
    env: SimEnv,
    db: Db,
    heard: Heard,
    rows: Arc<Mutex<Rows>>,
    written: Arc<AtomicU64>,
}

impl Live {
    fn new(seed: u64, options: Options) -> Self {
        Self::open(&SimEnv::new(seed), options)
    }

    fn open(env: &SimEnv, options: Options) -> Self {
        let heard = Heard::default();
        let events = heard.clone();
        let options = options.env(env.env());
        let options = options.on_event(move |event| events.0.lock().unwrap().push(event.clone()));
        Self {
            env: env.clone(),
            db: Db::open(DIR, options).expect("opens"),
            heard,
            rows: Arc::default(),
            written: Arc::default(),
        }
    }

    fn collection(&self, name: &str) -> Collection {
        let options = CollectionOptions::new(DIMENSION as u32, Metric::L2);
        self.db.create_collection(name, options).expect("there")
    }

    /// Puts rows and makes a segment of them.
    fn flush(&self, name: &str, keys: std::ops::Range<u64>) {
        let salt = self.written.fetch_add(1, Ordering::Relaxed);
        let rows = uniform(salt, keys.clone().count(), DIMENSION);
        let put_rows = keys.clone().zip(rows.iter().map(Vec::as_slice));
        put(&self.db, &self.collection(name), put_rows).expect("written");
        let mut all = self.rows.lock().unwrap();
        let of = all.entry(name.to_owned()).or_default();
        of.extend(keys.zip(rows));
        drop(all);
        self.db.flush().expect("flushed");
    }

    /// Four segments of one size: a merge is due.
    fn due(&self, name: &str, first: u64) {
        (0..4).for_each(|n| self.flush(name, first + n * 40..first + n * 40 + 40));
    }

    fn delete(&self, name: &str, keys: &[u64]) {
        delete(&self.db, &self.collection(name), keys).expect("deleted");
        let mut all = self.rows.lock().unwrap();
        let of = all.get_mut(name).expect("there");
        of.retain(|key, _| !keys.contains(key));
    }

    /// Exactly the rows that were put are there.
    fn check(&self) {
        for (name, rows) in &*self.rows.lock().unwrap() {
            let c = self.collection(name);
            assert_eq!(c.len().expect("counts"), rows.len() as u64, "{name}");
            for (key, row) in rows {
                let found = c.get(*key).expect("reads").map(|record| record.vector);
                assert_eq!(found.as_ref(), Some(row), "{name}/{key}");
            }
        }
        let report = self.db.verify().expect("verifies");
        assert!(report.is_ok(), "{report:?}");
    }

    /// The same once nothing is left to do, and no file that nobody names.
    fn check_idle(&self) {
        self.work();
        self.check();
        let report = self.db.verify().expect("verifies");
        assert_eq!(report.unnamed_files, 0, "{report:?}");
        let stats = self.stats();
        assert_eq!((stats.merges_running, stats.merges_due), (0, 0));
    }

    fn stats(&self) -> Stats {
        self.db.stats()
    }

    fn step(&self) -> bool {
        self.db.run_background_step().expect("works")
    }

    fn work(&self) {
        while self.step() {}
    }

    /// Does something before a call of the next merge's output.
    fn in_a_merge(&self, at: fn(&Call) -> bool, act: impl FnOnce() + Send + 'static) {
        self.env.before(at, act);
    }
}

fn is_output(call: &Call) -> bool {
    call.path.to_string_lossy().ends_with(".segment.tmp")
}

fn output_begins(call: &Call) -> bool {
    call.kind == CallKind::Create && is_output(call)
}

fn output_is_whole(call: &Call) -> bool {
    call.kind == CallKind::Sync && is_output(call)
}

/// The merges of these events: begun, over, and most at once. No segment is an input of two
/// at once, and each end is that of its beginning.
fn merges(events: &[Event]) -> (usize, usize, usize) {
    let mut running = BTreeMap::<u64, MergePlan>::new();
    let (mut begun, mut over, mut most) = (0, 0, 0);
    for event in events {
        let ended = match event {
            Event::MergeBegun(plan) => {
                let of = |plan: &MergePlan| -> Vec<SegmentId> {
                    plan.inputs.iter().map(|input| input.segment).collect()
                };
                let all: Vec<_> = running.values().flat_map(of).collect();
                assert!(of(plan).iter().all(|input| !all.contains(input)));
                begun += 1;
                assert!(running.insert(plan.merge, plan.clone()).is_none());
                most = most.max(running.len());
                continue;
            }
            Event::MergeDone(report) => &report.plan,
            Event::MergeCancelled(end) => &end.plan,
            Event::MergeFailed(end) => &end.plan,
            _ => continue,
        };
        assert_eq!(running.remove(&ended.merge).as_ref(), Some(ended));
        over += 1;
    }
    assert!(running.is_empty(), "{running:?}");
    (begun, over, most)
}

/// Two of one collection run at once where two may, and no third begins.
#[test]
fn no_more_merges_run_than_may() {
    for limit in [1, 2] {
        let live = Live::new(1, options(limit));
        live.due("c", 0);
        let (outer, inner) = (live.clone(), live.clone());
        let deepest = Arc::new(AtomicUsize::new(0));
        let deep = Arc::clone(&deepest);
        live.in_a_merge(output_begins, move || {
            outer.due("c", 1_000);
            let before = outer.stats();
            assert_eq!(before.merges_running, 1);
            outer.in_a_merge(output_begins, move || {
                inner.due("c", 2_000);
                deep.store(inner.stats().merges_running, Ordering::Relaxed);
                assert!(!inner.step(), "a third merge began");
                // Rows of both merges, and of neither.
                inner.delete("c", &[3, 1_003, 2_003]);
                inner.flush("c", 10..12);
            });
            assert_eq!(outer.step(), limit == 2);
            let after = outer.stats();
            assert_eq!(after.merges, (limit - 1) as u64);
            // Without the second merge its hook is left for the first one's next output.
            outer.env.clear_hooks();
            outer.delete("c", &[4, 1_004]);
            outer.db.flush().expect("flushed");
        });
        assert!(live.step());
        live.work();
        let expected = if limit == 2 { 2 } else { 0 };
        assert_eq!(deepest.load(Ordering::Relaxed), expected);
        live.check();
        let stats = live.stats();
        assert_eq!((stats.merges_running, stats.merges_due), (0, 0));
        let (begun, over, most) = merges(&live.heard.take());
        assert_eq!((begun, most), (over, limit));
        assert_eq!(stats.merges as usize, begun);
    }
}

/// Merges of two threads, each of which goes on when it is told to.
struct Gates {
    /// A merge is about to make its output; and what lets it go on.
    arrived: Receiver<Sender<()>>,
}

impl Gates {
    /// Stops the next merges at that call.
    fn new(live: &Live, merges: usize) -> Self {
        let (arrive, arrived) = channel();
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        for _ in 0..merges {
            let (arrive, seen) = (arrive.clone(), Arc::clone(&seen));
            // Each stops once.
            let is_next = move |call: &Call| {
                output_is_whole(call) && seen.lock().unwrap().insert(call.path.clone())
            };
            live.env.before(is_next, move || {
                let (go, wait) = channel();
                let _ = arrive.send(go);
                // An error means that the test gave up.
                let _ = wait.recv_timeout(PATIENCE);
            });
        }
        Self { arrived }
    }

    fn next(&self) -> Sender<()> {
        let next = self.arrived.recv_timeout(PATIENCE);
        next.expect("a merge comes here")
    }
}

/// The merges of two threads are whole before either commits; whichever is first, what was
/// deleted meanwhile stays so. With the database's own threads and with the host's.
#[test]
fn two_merges_commit_in_either_order() {
    for (first, names) in [
        (0, ["c", "c"]),
        (1, ["c", "c"]),
        (0, ["a", "b"]),
        (1, ["a", "b"]),
    ] {
        let live = Live::new(2, options(2));
        live.due(names[0], 0);
        let gates = Gates::new(&live, 1);
        let step = |live: &Live| {
            let live = live.clone();
            std::thread::spawn(move || live.step())
        };
        let one = step(&live);
        let mut go = vec![gates.next()];
        live.due(names[1], 1_000);
        let gates = Gates::new(&live, 1);
        let other = step(&live);
        go.push(gates.next());
        assert_eq!(live.stats().merges_running, 2);
        assert_eq!(live.stats().merges_due, 2);
        live.delete(names[0], &[1, 41, 81]);
        live.delete(names[1], &[1_001, 1_159]);
        live.db.flush().expect("flushed");
        let mut threads = [Some(one), Some(other)];
        for (at, left) in [(first, 1), (1 - first, 0)] {
            go[at].send(()).expect("it waits");
            let thread = threads[at].take().expect("not yet");
            assert!(thread.join().expect("no panic"));
            assert_eq!(live.stats().merges_running, left);
            live.check();
        }
        let stats = live.stats();
        assert_eq!((stats.merges, stats.merges_running), (2, 0));
        let ended: Vec<u64> = live
            .heard
            .take()
            .iter()
            .filter_map(|event| match event {
                Event::MergeDone(report) => Some(report.plan.merge),
                _ => None,
            })
            .collect();
        assert_eq!(ended, if first == 0 { [1, 2] } else { [2, 1] });
        live.check_idle();
    }
}

/// With threads of the database's own: two come to their gates at once, never three, though
/// four collections wait; and the database closes while they run.
#[test]
fn as_many_threads_merge_as_may() {
    let live = Live::new(3, options(2).background(Background::Threads));
    let pause = live.db.pause_merges();
    let names = ["a", "b", "c", "d"];
    names.iter().for_each(|name| live.due(name, 0));
    let gates = Gates::new(&live, 4);
    drop(pause);
    let (one, two) = (gates.next(), gates.next());
    assert_eq!(live.stats().merges_running, 2);
    assert!(gates.arrived.try_recv().is_err());
    one.send(()).expect("it waits");
    let three = gates.next();
    assert_eq!(live.stats().merges_running, 2);
    live.check();
    // It waits for both, and lets no other begin.
    let closes = live.db.clone();
    let closing = std::thread::spawn(move || closes.close());
    let cancelled = || live.db.stats().merges_running;
    assert_eq!(cancelled(), 2);
    two.send(()).expect("it waits");
    three.send(()).expect("it waits");
    // A fourth that begins before the end is not held up.
    drop(gates);
    closing.join().expect("no panic").expect("closes");
    let (begun, over, most) = merges(&live.heard.take());
    assert!(
        begun >= 3 && begun == over && most == 2,
        "{begun} {over} {most}"
    );
    let again = Live::open(&live.env, options(2));
    *again.rows.lock().unwrap() = live.rows.lock().unwrap().clone();
    again.check();
    again.check_idle();
}

/// A compaction has its collection for itself: the merge there gives way, that of another
/// collection goes on beside it.
#[test]
fn a_compaction_waits_for_no_merge_of_another_collection() {
    let live = Live::new(4, options(2));
    ["a", "b"].iter().for_each(|name| live.due(name, 0));
    let inside = live.clone();
    live.in_a_merge(output_begins, move || {
        // On this very thread: it would wait for ever for a merge that it is in.
        let only = CompactOptions::new().collection("b");
        inside.db.compact_with(&only).expect("compacted");
        let stats = inside.stats();
        assert_eq!((stats.merges, stats.merges_running), (1, 1));
        inside.due("b", 1_000);
        assert_eq!(inside.stats().merges_due, 2);
    });
    assert!(live.step());
    live.check();
    let events = live.heard.take();
    assert_eq!(merges(&events), (2, 2, 2));
    let cancelled = |e: &Event| matches!(e, Event::MergeCancelled(_));
    assert!(!events.iter().any(cancelled), "{events:#?}");
}

/// Who pauses merges and then compacts what is not being merged does not wait for the end of
/// his own pause.
#[test]
fn a_paused_merge_leaves_its_place_to_who_compacts_another_collection() {
    for merges_at_once in [1, 2] {
        let live = Live::new(14, options(merges_at_once));
        live.due("a", 0);
        live.flush("b", 0..20);
        live.flush("b", 20..40);
        let inside = live.clone();
        let compacting = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&compacting);
        live.in_a_merge(output_begins, move || {
            let token = CancelToken::new();
            let only = CompactOptions::new().collection("b").cancel(&token);
            let pause = inside.db.pause_merges();
            let (send, done) = channel();
            let waits = std::thread::spawn(move || {
                let compacted = inside.db.compact_with(&only);
                drop(pause);
                let _ = send.send(());
                compacted
            });
            // Else it would never end.
            std::thread::spawn(move || match done.recv_timeout(PATIENCE) {
                Ok(()) => {}
                Err(_) => token.cancel(),
            });
            *slot.lock().unwrap() = Some(waits);
        });
        live.step();
        let waits = compacting.lock().unwrap().take().expect("the hook ran");
        waits.join().expect("no panic").expect("compacted");
        // Where there is another place, nothing is lost.
        let gave_way = |e: &Event| matches!(e, Event::MergeCancelled(end) if end.reason == CancelReason::GaveWay);
        let events = live.heard.take();
        assert_eq!(
            events.iter().any(gave_way),
            merges_at_once == 1,
            "{events:#?}"
        );
        merges(&events);
        live.check_idle();
        assert_eq!(live.stats().segments, 2);
    }
}

/// What small flushes made while a merge was paused does not outrun it; what they made
/// before does.
#[test]
fn what_comes_during_a_pause_outruns_no_merge() {
    for before_the_pause in [false, true] {
        let live = Live::new(15, options(1));
        live.due("c", 0);
        let inside = live.clone();
        live.in_a_merge(output_begins, move || {
            let pause = (!before_the_pause).then(|| inside.db.pause_merges());
            inside.due("c", 1_000);
            let pause = pause.unwrap_or_else(|| inside.db.pause_merges());
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(30));
                drop(pause);
            });
        });
        assert!(live.step());
        let stats = live.stats();
        let graphs = u64::from(!before_the_pause);
        assert_eq!((stats.merges, stats.graphs_built), (1, graphs));
        live.check_idle();
    }
}

/// A flush says how many rows it replaced, also if a merge took them elsewhere meanwhile.
#[test]
fn a_flush_beside_a_merge_counts_each_row_once() {
    let live = Live::new(16, options(1));
    live.due("c", 0);
    live.heard.take();
    let inside = live.clone();
    let (merged, waits_for_merge) = channel::<()>();
    let flushing = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&flushing);
    live.in_a_merge(output_begins, move || {
        let (began, has_begun) = channel();
        inside.in_a_merge(output_begins, move || {
            began.send(()).expect("somebody waits");
            waits_for_merge.recv_timeout(PATIENCE).expect("merged");
        });
        let flushed = std::thread::spawn(move || inside.flush("c", 10..20));
        has_begun.recv_timeout(PATIENCE).expect("the flush began");
        *slot.lock().unwrap() = Some(flushed);
    });
    assert!(live.step());
    assert_eq!(live.stats().merges, 1);
    merged.send(()).expect("somebody waits");
    let flushed = flushing.lock().unwrap().take().expect("the hook ran");
    flushed.join().expect("flushed");
    let events = live.heard.take();
    let superseded = events.iter().find_map(|e| match e {
        Event::FlushDone(flush) => Some(flush.superseded_rows),
        _ => None,
    });
    assert_eq!(superseded, Some(10), "{events:#?}");
    live.check_idle();
}

/// The second merge of a compaction has the room that the first one's inputs took.
#[test]
fn a_compaction_has_the_room_of_what_it_merged() {
    const WIDE: usize = 256;
    const ROWS: u64 = 160;
    let live = Live::new(17, options(1).auto_compact(false));
    let rows = uniform(17, ROWS as usize, WIDE);
    let names = ["a", "b"];
    for name in names {
        let wide = CollectionOptions::new(WIDE as u32, Metric::L2);
        let c = live.db.create_collection(name, wide).expect("made");
        for four in 0..4 {
            let keys = (0..ROWS).filter(|key| key % 4 == four);
            let put_rows = keys.map(|key| (key, rows[key as usize].as_slice()));
            put(&live.db, &c, put_rows).expect("written");
            live.db.flush().expect("flushed");
        }
    }
    let used = live.stats().segment_bytes;
    // One output, and half of what another would take beside both collections' inputs.
    let graph = ROWS * (12 * 4 + WIDE as u64 + 16);
    let free = (16 << 20) + used / 2 + 3 * graph;
    assert!(2 * graph < used / 2);
    let log = live.stats().log_bytes;
    live.env.set_capacity(Some(used + log + free));
    live.db.compact().expect("there is room");
    assert_eq!((live.stats().merges, live.stats().segments), (2, 2));
    live.env.set_capacity(None);
    for name in names {
        let c = live.db.collection(name).expect("there");
        assert_eq!(c.len().expect("counts"), ROWS);
    }
    assert!(live.db.verify().expect("verifies").is_ok());
}

/// What is flushed while a collection is compacted is merged afterwards, in others at once.
#[test]
fn nobody_else_merges_in_a_collection_that_is_compacted() {
    let live = Live::new(10, options(3));
    ["a", "b"].iter().for_each(|name| live.due(name, 0));
    let inside = live.clone();
    live.env.before(output_begins, move || {
        inside.due("a", 1_000);
        inside.work();
        let stats = inside.stats();
        assert_eq!((stats.merges, stats.merges_running), (1, 1));
        assert_eq!(stats.merges_due, 2, "the compaction, and what came since");
    });
    let only = CompactOptions::new().collection("a");
    live.db.compact_with(&only).expect("compacted");
    assert_eq!((live.stats().merges, live.stats().merges_due), (2, 1));
    live.check_idle();
    assert_eq!(live.stats().merges, 3);
    merges(&live.heard.take());
}

/// Both background merges of a collection give way to who compacts it.
#[test]
fn all_merges_of_a_collection_give_way() {
    let live = Live::new(5, options(3));
    live.due("c", 0);
    let (outer, inner) = (live.clone(), live.clone());
    let compacting = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&compacting);
    live.in_a_merge(output_begins, move || {
        outer.due("c", 1_000);
        outer.in_a_merge(output_begins, move || {
            let db = inner.db.clone();
            let waits = std::thread::spawn(move || db.compact());
            *slot.lock().unwrap() = Some(waits);
            // Until the compaction is announced, a merge that is begun is cancelled at once.
            while inner.stats().merges_cancelled == 0 {
                inner.delete("c", &[5]);
                inner.db.flush().expect("flushed");
                if !inner.db.run_background_step().expect("works") {
                    break;
                }
            }
        });
        outer.step();
    });
    live.step();
    let waits = compacting.lock().unwrap().take().expect("the hook ran");
    waits.join().expect("no panic").expect("compacted");
    live.check();
    assert_eq!((live.stats().segments, live.stats().merges_running), (1, 0));
    let events = live.heard.take();
    let gave_way =
        |e: &&Event| matches!(e, Event::MergeCancelled(end) if end.reason == CancelReason::GaveWay);
    assert!(events.iter().filter(gave_way).count() >= 1, "{events:#?}");
    merges(&events);
}

/// `cancel_merges` and a drop end those that it is about, and the others go on.
#[test]
fn merges_are_ended_each_for_its_reason() {
    let live = Live::new(6, options(2));
    ["a", "b"].iter().for_each(|name| live.due(name, 0));
    let (outer, inner) = (live.clone(), live.clone());
    live.in_a_merge(output_begins, move || {
        outer.in_a_merge(output_begins, move || {
            inner.db.drop_collection("a").expect("dropped");
            inner.rows.lock().unwrap().remove("a");
        });
        assert!(outer.step(), "the other goes on");
        assert_eq!(outer.stats().merges, 1);
    });
    live.step();
    let reasons = |events: &[Event]| -> Vec<CancelReason> {
        let ended = events.iter().filter_map(|event| match event {
            Event::MergeCancelled(end) => Some(end.reason),
            _ => None,
        });
        ended.collect()
    };
    let events = live.heard.take();
    assert_eq!(
        (merges(&events), reasons(&events)),
        ((2, 2, 2), vec![CancelReason::Dropped])
    );
    live.check();

    // What was written already is in vain as well.
    live.due("a", 0);
    let inside = live.clone();
    live.in_a_merge(output_is_whole, move || {
        inside.db.drop_collection("a").expect("dropped");
        inside.rows.lock().unwrap().remove("a");
    });
    live.work();
    let events = live.heard.take();
    assert_eq!(reasons(&events), [CancelReason::Dropped]);
    live.check();

    ["a", "b"].iter().for_each(|name| live.due(name, 5_000));
    let (outer, inner) = (live.clone(), live.clone());
    live.in_a_merge(output_begins, move || {
        outer.in_a_merge(output_begins, move || {
            inner.db.cancel_merges();
        });
        outer.step();
    });
    live.step();
    let events = live.heard.take();
    assert_eq!(
        (merges(&events), reasons(&events)),
        ((2, 2, 2), vec![CancelReason::Asked; 2])
    );
    live.check_idle();
}

/// A merge counts what those that run are still to write.
#[test]
fn merges_that_run_at_once_have_room_for_all_outputs() {
    for (free_mib, begins) in [(20, false), (40, true)] {
        let live = Live::new(7, options(2));
        ["a", "b"].iter().for_each(|name| live.due(name, 0));
        let inside = live.clone();
        let met = Arc::new(AtomicUsize::new(0));
        let meets = Arc::clone(&met);
        live.in_a_merge(output_begins, move || {
            meets.fetch_add(1, Ordering::Relaxed);
            // Beside its few rows an output leaves 16 MiB free.
            let used = inside.stats().segment_bytes;
            inside.env.set_capacity(Some(used + (free_mib << 20)));
            let step = inside.db.run_background_step();
            match begins {
                true => assert!(step.expect("there is room")),
                false => assert!(matches!(step, Err(Error::Busy(_))), "{step:?}"),
            }
        });
        assert!(live.step());
        assert_eq!(met.load(Ordering::Relaxed), 1);
        assert_eq!(live.stats().merges, if begins { 2 } else { 1 });
        // Now it is alone.
        live.work();
        assert_eq!(live.stats().merges, 2);
        live.check();
    }
}

/// All share the rate: together they take as long as one after another.
#[test]
fn merges_that_run_at_once_share_their_rate() {
    const RATE: u64 = 64 << 10;
    let live = Live::new(8, options(2).merge_bytes_per_second(Some(RATE)));
    ["a", "b"].iter().for_each(|name| live.due(name, 0));
    let clock = live.env.env();
    let began = clock.clock().now();
    let inside = live.clone();
    live.in_a_merge(output_begins, move || assert!(inside.step()));
    assert!(live.step());
    let took = (clock.clock().now() - began).as_secs_f64();
    let stats = live.stats();
    assert_eq!(stats.merges, 2);
    let moved = (stats.bytes_read_merges + stats.bytes_written_merges) as f64;
    let wanted = moved / RATE as f64;
    assert!(
        (wanted - 0.5..wanted * 1.1 + 0.5).contains(&took),
        "{took} of {wanted}"
    );
}

/// The machine stops at each call of two merges, one in the middle of the other, and comes
/// back with all rows.
#[test]
fn two_merges_are_killed_at_each_call() {
    let base = Live::new(9, options(2).auto_compact(false));
    ["a", "b"].iter().for_each(|name| base.due(name, 0));
    base.delete("a", &[7, 47]);
    base.db.close().expect("closes");
    let rows = base.rows.lock().unwrap().clone();
    let run = |n: Option<u64>| {
        let live = Live::open(&base.env.crash_image(Crash::KeepAll), options(2));
        *live.rows.lock().unwrap() = rows.clone();
        let before = live.env.effects();
        if let Some(n) = n {
            let at = esker_tests::sim::At::Effect(before + n);
            live.env.crash_at(at, esker_tests::sim::Moment::Torn(n));
        }
        let inside = live.clone();
        let both = Arc::new(AtomicUsize::new(0));
        let met = Arc::clone(&both);
        live.in_a_merge(output_begins, move || {
            let again = inside.clone();
            inside.in_a_merge(output_begins, move || {
                met.store(again.stats().merges_running, Ordering::Relaxed);
            });
            let _ = inside.db.run_background_step();
        });
        let _ = live.db.run_background_step();
        let effects = live.env.effects() - before;
        (live, effects, both.load(Ordering::Relaxed))
    };
    let (whole, effects, both) = run(None);
    assert_eq!((both, whole.stats().merges), (2, 2));
    whole.check();
    assert!(effects > 10, "{effects}");
    let mut while_both = 0;
    for n in 1..=effects {
        let (stopped, _, both) = run(Some(n));
        assert!(stopped.env.is_stopped());
        while_both += usize::from(both == 2);
        for crash in [Crash::LoseAllUnsynced, Crash::KeepAll, Crash::Random(n)] {
            let live = Live::open(&stopped.env.crash_image(crash), options(2));
            *live.rows.lock().unwrap() = rows.clone();
            live.check();
            live.check_idle();
            assert_eq!(live.stats().segments, 2);
        }
    }
    assert!(while_both > 5, "{while_both}");
}

#[test]
fn the_number_of_merges_has_its_range() {
    for (merges, sound) in [(0, false), (1, true), (16, true), (17, false)] {
        let valid = Options::new().background_merges(merges).validate();
        assert_eq!(valid.is_ok(), sound, "{merges}: {valid:?}");
    }
}
