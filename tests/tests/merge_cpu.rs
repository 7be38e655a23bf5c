//! How much of the processor merges and the graphs of flushes may take.
//!
//! On the simulated clock, where work takes no time but what a test says that it takes: a
//! thread is taken to work while the clock moves, unless it naps.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: a broken assumption should stop it where it stands"
)]

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use esker::env::{Clock, Entropy, Env, Storage};
use esker::{
    Background, CancelReason, Collection, CollectionOptions, Db, Event, GraphOptions, MapMode,
    Metric, Options, SearchOptions,
};
use esker_tests::load::{put, uniform};
use esker_tests::sim::{Call, CallKind, SimEnv};

const DIR: &str = "/db";
const DIMENSION: usize = 6;
/// What is done in the middle of each merge and graph.
const WORK: Duration = Duration::from_secs(10);

fn options(cores: Option<f64>) -> Options {
    Options::new()
        .background(Background::Manual)
        .background_merges(2)
        .background_cpu(cores)
        .map_mode(MapMode::Mmap)
        .graph(GraphOptions::new().min_rows(100).max_degree(12))
}

#[derive(Clone)]
struct Live {
    env: SimEnv,
    db: Db,
    ended: Arc<Mutex<Vec<Event>>>,
}

impl Live {
    fn new(options: Options) -> Self {
        let env = SimEnv::new(1);
        let ended = Arc::new(Mutex::new(Vec::new()));
        let events = Arc::clone(&ended);
        let options = options.env(env.env());
        let options = options.on_event(move |event| events.lock().unwrap().push(event.clone()));
        let db = Db::open(DIR, options).expect("opens");
        Self { env, db, ended }
    }

    fn collection(&self, name: &str) -> Collection {
        let options = CollectionOptions::new(DIMENSION as u32, Metric::L2);
        self.db.create_collection(name, options).expect("there")
    }

    fn put(&self, name: &str, keys: std::ops::Range<u64>) {
        let rows = uniform(keys.start, keys.clone().count(), DIMENSION);
        let rows = keys.zip(rows.iter().map(Vec::as_slice));
        put(&self.db, &self.collection(name), rows).expect("written");
    }

    /// Four segments that are too small for graphs, and large enough together.
    fn due(&self, name: &str) {
        for n in 0..4 {
            self.put(name, n * 40..n * 40 + 40);
            self.db.flush().expect("flushed");
        }
    }

    fn now(&self) -> Duration {
        self.env.env().clock().now()
    }

    fn waited(&self) -> Duration {
        self.db.stats().cpu_wait_time
    }

    fn step(&self) -> bool {
        self.db.run_background_step().expect("works")
    }

    /// Works in the middle of the next merge or flush.
    fn works(&self, and: impl FnOnce() + Send + 'static) {
        let env = self.env.clone();
        self.env.before(output_begins, move || {
            env.advance(WORK);
            and();
        });
    }
}

fn output_begins(call: &Call) -> bool {
    call.kind == CallKind::Create && call.path.to_string_lossy().ends_with(".segment.tmp")
}

fn is_near(time: Duration, expected: f64) -> bool {
    (time.as_secs_f64() - expected).abs() < 0.5
}

#[test]
fn a_merge_takes_no_more_of_the_processor_than_it_may() {
    for (cores, takes) in [
        (None, 10.0),
        (Some(2.0), 10.0),
        (Some(0.5), 20.0),
        (Some(0.1), 100.0),
    ] {
        let live = Live::new(options(cores));
        live.due("c");
        let began = live.now();
        live.works(|| ());
        assert!(live.step());
        let took = live.now() - began;
        assert!(is_near(took, takes), "{cores:?}: {took:?}");
        let stats = live.db.stats();
        assert_eq!((stats.merges, stats.merge_time), (1, took));
        assert_eq!(live.waited(), took - WORK, "{cores:?}");
        assert_eq!(live.collection("c").len().expect("counts"), 160);
        // A compaction is limited as well.
        live.put("c", 0..7);
        live.db.flush().expect("flushed");
        let began = live.now();
        live.works(|| ());
        live.db.compact().expect("compacted");
        let took = live.now() - began;
        assert!(is_near(took, takes), "{cores:?}: {took:?}");
    }
}

/// Together they take as long as one after another.
#[test]
fn merges_that_run_at_once_share_the_processor() {
    let live = Live::new(options(Some(0.5)));
    ["a", "b"].iter().for_each(|name| live.due(name));
    let began = live.now();
    let inside = live.clone();
    live.works(move || {
        inside.works(|| ());
        assert!(inside.step());
    });
    assert!(live.step());
    assert_eq!(live.db.stats().merges, 2);
    let took = live.now() - began;
    assert!(is_near(took, 40.0), "{took:?}");
}

/// A pause and a limit of bytes are no work, though the simulated clock cannot tell.
#[test]
fn what_waits_for_something_else_does_not_work() {
    let both = options(Some(0.5)).merge_bytes_per_second(Some(64 << 10));
    let [slow, fast] = [both, options(Some(0.5))].map(|options| {
        let live = Live::new(options);
        live.due("c");
        let began = live.now();
        live.works(|| ());
        assert!(live.step());
        let moved = live.db.stats().bytes_read_merges + live.db.stats().bytes_written_merges;
        (
            live.now() - began,
            live.waited(),
            moved as f64 / f64::from(64 << 10),
        )
    });
    // While it waits for one limit it gets nearer to the other.
    let (least, most) = (20.0, 20.0 + slow.2);
    let took = slow.0.as_secs_f64();
    assert!(
        slow.2 > 0.5 && (least - 0.5..most + 0.5).contains(&took),
        "{slow:?}"
    );
    assert!(slow.1 <= fast.1, "{slow:?} {fast:?}");
}

/// While a merge waits for its share, everything else goes on; and what ends the merge ends
/// the wait, long before its time.
#[test]
fn a_merge_that_waits_holds_nothing_back_and_is_ended_at_once() {
    for close in [false, true] {
        let live = Live::new(options(Some(0.01)));
        ["a", "b"].iter().for_each(|name| live.due(name));
        let (other, env) = (live.clone(), live.env.clone());
        let told = Arc::new(AtomicBool::new(false));
        let tells = Arc::clone(&told);
        let beside = std::thread::spawn(move || {
            let started = |other: &Live| other.db.stats().merges_running > 0;
            while !started(&other) || !tells.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            // The nap takes 1,000 of these seconds.
            let c = other.collection("a");
            other.put("a", 500..520);
            other.db.flush().expect("flushed");
            let hits = c
                .search(&[0.5; DIMENSION], &SearchOptions::new(3))
                .expect("searches")
                .hits;
            assert_eq!((hits.len(), c.len().expect("counts")), (3, 180));
            assert_eq!(other.db.stats().merges_running, 1);
            match close {
                true => other.db.close().expect("closes"),
                false => other.db.cancel_merges(),
            }
        });
        let clock = env.clone();
        env.before(output_begins, move || {
            clock.advance(Duration::from_secs(10_000_000));
            told.store(true, Ordering::Release);
        });
        let before = live.now();
        let worked = live.db.run_background_step();
        beside.join().expect("no panic");
        assert!(!matches!(worked, Ok(true)), "{worked:?}");
        let waited = live.now() - before - Duration::from_secs(10_000_000);
        assert!(waited < Duration::from_secs(100_000_000), "{waited:?}");
        let events = live.ended.lock().unwrap();
        let expected = match close {
            true => CancelReason::Closing,
            false => CancelReason::Asked,
        };
        let ended = |e: &&Event| matches!(e, Event::MergeCancelled(end) if end.reason == expected);
        assert_eq!(events.iter().filter(ended).count(), 1, "{events:#?}");
    }
}

/// A graph that nobody waits for is limited; one that holds writers up, or a caller, is not.
#[test]
fn a_flush_that_somebody_waits_for_is_not_limited() {
    for (full, called) in [(false, false), (true, false), (false, true)] {
        let budget = if full { 256 << 10 } else { 64 << 20 };
        let options = options(Some(0.1)).auto_compact(false).memory_budget(budget);
        let live = Live::new(options.memtable_bytes(120 << 10));
        let mut first = 0;
        // Until writers would be slowed, or for as long as that takes.
        while live.db.stats().memtable_bytes <= (256 << 10) / 16 * 15 {
            live.put("c", first..first + 40);
            first += 40;
        }
        assert_eq!((live.db.stats().flushes, live.db.stats().stalls), (0, 0));
        live.works(|| ());
        let began = live.now();
        match called {
            true => live.db.flush().expect("flushed"),
            false => assert!(live.step()),
        }
        let stats = live.db.stats();
        // Who flushes all flushes a memtable that is too small for a graph, too.
        assert_eq!(
            (stats.flushes, stats.graphs_built),
            (1 + u64::from(called), 1)
        );
        let took = live.now() - began;
        let expected = if full || called { 10.0 } else { 100.0 };
        assert!(is_near(took, expected), "{full} {called}: {took:?}");
        assert_eq!(live.waited(), took - WORK);
        // Nobody pays for it later.
        if full {
            let began = live.now();
            live.db.compact().expect("compacted");
            assert!(is_near(live.now() - began, 0.0));
        }
    }
}

/// A world in which time passes with every look at the clock, and nobody works but the
/// threads that help with graphs.
#[derive(Debug)]
struct Helped {
    world: Arc<dyn Env>,
    millis: AtomicU64,
}

impl Env for Helped {
    fn storage(&self) -> &dyn Storage {
        self.world.storage()
    }
    fn clock(&self) -> &dyn Clock {
        self
    }
    fn entropy(&self) -> &dyn Entropy {
        self.world.entropy()
    }
}

impl Clock for Helped {
    fn now(&self) -> Duration {
        Duration::from_millis(self.millis.fetch_add(3, Ordering::Relaxed))
    }
    fn sleep(&self, duration: Duration) {
        let millis = u64::try_from(duration.as_millis()).unwrap();
        self.millis.fetch_add(millis, Ordering::Relaxed);
    }
    fn thread_time(&self) -> Duration {
        thread_local! {
            static BUSY: Cell<u64> = const { Cell::new(0) };
        }
        if std::thread::current().name() == Some("esker-build") {
            BUSY.set(BUSY.get() + 100);
        } else {
            // So that the others get something to do.
            std::thread::yield_now();
        }
        Duration::from_millis(BUSY.get())
    }
}

#[test]
fn threads_that_help_with_a_graph_are_charged() {
    let world = Helped {
        world: SimEnv::new(1).env(),
        millis: AtomicU64::new(0),
    };
    let options = options(Some(0.01)).auto_compact(false).build_threads(4);
    let db = Db::open(DIR, options.env(Arc::new(world))).expect("opens");
    let of = CollectionOptions::new(DIMENSION as u32, Metric::L2);
    let c = db.create_collection("c", of).expect("made");
    let rows = uniform(1, 3_000, DIMENSION);
    // One thread may be so fast that the others find nothing to do.
    for round in 0..50 {
        let rows = (round..).zip(rows.iter().map(Vec::as_slice));
        put(&db, &c, rows).expect("written");
        db.compact().expect("compacted");
        if db.stats().cpu_wait_time > Duration::ZERO {
            return;
        }
    }
    panic!("nobody waited");
}

#[test]
fn the_limit_has_its_range() {
    let sound = [0.01, 0.5, 1024.0];
    let unsound = [0.0, 0.009, -1.0, 1025.0, f64::INFINITY, f64::NAN];
    for (cores, expected) in sound
        .map(|c| (c, true))
        .into_iter()
        .chain(unsound.map(|c| (c, false)))
    {
        let valid = Options::new().background_cpu(Some(cores)).validate();
        assert_eq!(valid.is_ok(), expected, "{cores}: {valid:?}");
    }
}
