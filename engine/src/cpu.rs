//! How many cores merges, and graphs that no writer waits for, may take.
//!
//! Owns the account of their threads' processor time. Invariants: each stretch of a thread's
//! work is charged once; after n seconds of work, n divided by the cores has passed, but for
//! what a thread does between two questions and the slack of [`Rate`]; nobody naps with a
//! lock of this module held, or longer than a nap of `rate` without looking at whether the
//! work is still wanted; without a limit nothing is measured. Must not know: what the work is.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::env::{Clock, Env};
use crate::options::Options;
use crate::rate::{Rate, sleep_until};
use crate::sync::counter::AtomicU64;
use crate::sync::{Mutex, Ordering};

/// What a thread does, at least, between two looks: one at its processor time is a system
/// call, and questions come with every row.
const LOOK: Duration = Duration::from_millis(2);

/// What was known of a thread at the last look.
#[derive(Clone, Copy, Default)]
struct Looked {
    /// Whether it does work that may be charged.
    began: bool,
    /// Whether it was asked: what is never asked is not limited, and costs nobody else.
    asked: bool,
    at: Duration,
    /// When it was asked, with a look.
    question: Duration,
    /// Its processor time.
    busy: Duration,
}

impl Looked {
    fn now(self, clock: &dyn Clock) -> Self {
        Self {
            at: clock.now(),
            busy: clock.thread_time(),
            ..self
        }
    }
}

std::thread_local! {
    /// Of the calling thread, which works for one database at a time.
    static LOOKED: Cell<Looked> = const {
        Cell::new(Looked {
            began: false,
            asked: false,
            at: Duration::ZERO,
            question: Duration::ZERO,
            busy: Duration::ZERO,
        })
    };
}

/// What all background work of a database may take together.
pub(crate) struct CpuLimit {
    env: Arc<dyn Env>,
    /// In nanoseconds of work.
    rate: Option<Mutex<Rate>>,
    waited_nanos: AtomicU64,
}

impl CpuLimit {
    pub(crate) fn new(options: &Options) -> Self {
        let now = options.env.clock().now();
        // Validated: at most some thousand cores.
        let nanos = options.background_cpu.map(|cores| (cores * 1e9) as u64);
        Self {
            env: Arc::clone(&options.env),
            rate: nanos.map(|nanos| Mutex::new(Rate::new(nanos, now))),
            waited_nanos: AtomicU64::new(0),
        }
    }

    /// How long threads have waited, all together.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited_nanos.load(Ordering::Relaxed))
    }

    /// What the calling thread does is charged from here on, once it is asked, until this
    /// is dropped.
    pub(crate) fn begin(&self) -> Working<'_> {
        let before = LOOKED.get();
        if self.rate.is_some() {
            self.charge();
            let fresh = Looked {
                began: true,
                ..Looked::default()
            };
            LOOKED.set(fresh.now(self.env.clock()));
        }
        Working {
            limit: self,
            before,
        }
    }

    /// Asked all the time by every thread that works: charges what it did, and waits while
    /// all together did too much, unless it is over.
    pub(crate) fn ask(&self, is_over: &dyn Fn() -> bool) {
        if self.rate.is_none() {
            return;
        }
        let clock = self.env.clock();
        let looked = LOOKED.get();
        let now = clock.now();
        // Not since what it did was charged: that may be all the time, for other reasons.
        if looked.asked && now.saturating_sub(looked.question) < LOOK {
            return;
        }
        LOOKED.set(Looked {
            asked: looked.began,
            question: now,
            ..looked
        });
        let due = self.charge();
        if due > now {
            sleep_until(due, clock, is_over);
            self.skip();
            let waited = clock.now().saturating_sub(now).as_nanos();
            let waited = u64::try_from(waited).unwrap_or(u64::MAX);
            self.waited_nanos.fetch_add(waited, Ordering::Relaxed);
        }
    }

    /// As [`CpuLimit::ask`], where somebody waits: what was done is not charged.
    pub(crate) fn forgive(&self) {
        let clock = self.env.clock();
        let due = |looked: Looked| clock.now().saturating_sub(looked.at) >= LOOK;
        if self.rate.is_some() && due(LOOKED.get()) {
            self.skip();
        }
    }

    /// Sleeps for another reason, which is no work whatever the clock knows of it.
    pub(crate) fn aside(&self, sleep: impl FnOnce()) {
        self.charge();
        sleep();
        self.skip();
    }

    /// Charges what the calling thread did since the last look; when all that was done has
    /// been paid for.
    fn charge(&self) -> Duration {
        let looked = LOOKED.get();
        let Some(rate) = self.rate.as_ref().filter(|_| looked.asked) else {
            return Duration::ZERO;
        };
        let next = looked.now(self.env.clock());
        LOOKED.set(next);
        let work = next.busy.saturating_sub(looked.busy);
        let nanos = u64::try_from(work.as_nanos()).unwrap_or(u64::MAX);
        // It took its time already.
        rate.lock().after(nanos, next.at.saturating_sub(work))
    }

    /// Leaves out what the calling thread did since the last look.
    fn skip(&self) {
        let looked = LOOKED.get();
        if self.rate.is_some() && looked.began {
            LOOKED.set(looked.now(self.env.clock()));
        }
    }
}

/// A thread's work.
pub(crate) struct Working<'a> {
    limit: &'a CpuLimit,
    before: Looked,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.limit.charge();
        LOOKED.set(self.before);
        self.limit.skip();
    }
}

#[cfg(test)]
mod tests {
    use super::CpuLimit;
    use crate::env::{Clock, Entropy, Env, Storage};
    use crate::options::Options;
    use crate::sync::Ordering;
    use crate::sync::counter::AtomicU64;
    use std::io;
    use std::sync::Arc;
    use std::time::Duration;

    /// Of a millisecond.
    const NANOS: u64 = 1_000_000;

    /// A clock on which work and naps take what the test says.
    #[derive(Debug, Default)]
    struct Fake {
        now: AtomicU64,
        busy: AtomicU64,
    }

    impl Fake {
        fn work(&self, millis: u64) {
            self.wait(millis);
            self.busy.fetch_add(millis * NANOS, Ordering::Relaxed);
        }
        fn wait(&self, millis: u64) {
            self.now.fetch_add(millis * NANOS, Ordering::Relaxed);
        }
        fn millis(&self) -> u64 {
            self.now.load(Ordering::Relaxed) / NANOS
        }
    }

    impl Clock for Fake {
        fn now(&self) -> Duration {
            Duration::from_nanos(self.now.load(Ordering::Relaxed))
        }
        fn sleep(&self, duration: Duration) {
            assert!(duration <= Duration::from_millis(20), "nobody looks");
            let nanos = duration.as_nanos() as u64;
            self.now.fetch_add(nanos, Ordering::Relaxed);
        }
        fn thread_time(&self) -> Duration {
            Duration::from_nanos(self.busy.load(Ordering::Relaxed))
        }
    }

    impl Entropy for Fake {
        fn file_id(&self) -> io::Result<[u8; 16]> {
            Ok([0; 16])
        }
    }

    impl Env for Fake {
        fn storage(&self) -> &dyn Storage {
            unreachable!("no file is touched")
        }
        fn clock(&self) -> &dyn Clock {
            self
        }
        fn entropy(&self) -> &dyn Entropy {
            self
        }
    }

    fn limited(cores: Option<f64>) -> (Arc<Fake>, CpuLimit) {
        let fake = Arc::new(Fake::default());
        fake.wait(5_000);
        let env: Arc<dyn Env> = Arc::<Fake>::clone(&fake);
        let options = Options::new().background_cpu(cores).env(env);
        (fake, CpuLimit::new(&options))
    }

    const WANTED: &dyn Fn() -> bool = &|| false;

    /// One thread that works whenever it may: n seconds of work take n by the cores.
    #[test]
    fn work_takes_no_more_than_its_cores() {
        for (cores, takes) in [(0.25, 40_000), (0.5, 20_000), (0.9, 11_111), (4.0, 10_000)] {
            let (fake, limit) = limited(Some(cores));
            let working = limit.begin();
            limit.ask(WANTED);
            let began = fake.millis();
            for _ in 0..2_000 {
                fake.work(5);
                limit.ask(WANTED);
            }
            drop(working);
            let took = fake.millis() - began;
            assert!(took.abs_diff(takes) <= 800, "{cores}: {took} of {takes}");
            let waited = limit.waited().as_millis() as u64;
            assert!(waited.abs_diff(took - 10_000) <= 1, "{cores}: {waited}");
        }
        let (fake, limit) = limited(None);
        fake.work(10_000);
        limit.ask(WANTED);
        assert_eq!((fake.millis(), limit.waited()), (15_000, Duration::ZERO));
    }

    /// What is waited for elsewhere, on a lock or the disk, is no work.
    #[test]
    fn who_waits_does_not_work() {
        let (fake, limit) = limited(Some(0.5));
        let _working = limit.begin();
        limit.ask(WANTED);
        for _ in 0..100 {
            fake.work(5);
            fake.wait(5);
            limit.ask(WANTED);
        }
        assert_eq!(limit.waited(), Duration::ZERO);
        // On a clock that cannot tell, a sleep that is said to be one is none either.
        limit.aside(|| fake.work(60_000));
        limit.ask(WANTED);
        assert!(limit.waited() < Duration::from_millis(20));
    }

    /// Two threads share the limit; each is charged what it did, its last stretch as well.
    #[test]
    fn all_threads_share_the_limit() {
        let (fake, limit) = limited(Some(1.0));
        let limit = &limit;
        let _working = limit.begin();
        limit.ask(WANTED);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                let _working = limit.begin();
                limit.ask(WANTED);
                // At the same time as the first thread: on this clock, time is that one's.
                fake.busy.fetch_add(3_000 * NANOS, Ordering::Relaxed);
            });
            other.join().unwrap();
        });
        let before = fake.millis();
        fake.wait(3);
        limit.ask(WANTED);
        // The clock is one for both threads: the first is charged that work as well.
        let waited = fake.millis() - before;
        assert!((5_500..6_100).contains(&waited), "{waited}");
    }

    /// Work that is interrupted by other waits all the time is limited as well.
    #[test]
    fn who_is_charged_often_is_asked_all_the_same() {
        let (fake, limit) = limited(Some(0.5));
        let _working = limit.begin();
        limit.ask(WANTED);
        let began = fake.millis();
        for _ in 0..2_000 {
            fake.work(1);
            limit.aside(|| ());
            limit.ask(WANTED);
        }
        let took = fake.millis() - began;
        assert!((3_200..4_400).contains(&took), "{took}");
    }

    #[test]
    fn a_nap_ends_with_what_it_is_for() {
        let (fake, limit) = limited(Some(0.01));
        let _working = limit.begin();
        limit.ask(WANTED);
        fake.work(10_000);
        let until = fake.millis() + 500;
        limit.ask(&|| fake.millis() >= until);
        assert!((until..until + 40).contains(&fake.millis()));
        // What was not paid for is not forgotten.
        fake.work(5);
        let again = fake.millis() + 500;
        limit.ask(&|| fake.millis() >= again);
        assert!(fake.millis() >= again);
    }

    /// What writers wait for goes on at once, and nobody pays for it; nor for what was never
    /// limited.
    #[test]
    fn what_is_forgiven_is_not_paid_for() {
        let (fake, limit) = limited(Some(0.01));
        let working = limit.begin();
        limit.ask(WANTED);
        for _ in 0..100 {
            fake.work(100);
            limit.forgive();
        }
        fake.work(2);
        limit.ask(WANTED);
        drop(working);
        let unlimited = limit.begin();
        fake.work(10_000);
        drop(unlimited);
        let before = fake.millis();
        let _working = limit.begin();
        fake.wait(10);
        limit.ask(WANTED);
        assert!(fake.millis() - before < 400, "{}", fake.millis() - before);
    }
}
