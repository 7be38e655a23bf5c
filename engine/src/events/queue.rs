//! Events on their way to the host.
//!
//! Owns who calls the host's callback, and when. Invariants: it is called with no lock
//! held, by one thread at a time, in the order in which things happened; what waits is
//! bounded, and what does not fit is counted in its place; a panic in it ends there; after
//! the last event of a closed database it is let go, so that it may hold a handle.
//! Must not know: what events are about.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Event;
use crate::core::Core;
use crate::options::{Background, EventCallback};
use crate::sync::Mutex;

/// Most events that wait. A callback that is so far behind misses what comes.
const MOST_WAITING: usize = 1024;

pub(crate) struct Events {
    /// Nobody listens, and nothing is kept.
    is_silent: bool,
    state: Mutex<State>,
}

struct State {
    callback: Option<EventCallback>,
    waiting: VecDeque<Event>,
    /// Events discarded after the last that waits.
    missed: u64,
    /// Somebody calls the callback now, and will until nothing waits.
    is_delivering: bool,
    /// Nothing more happens.
    is_over: bool,
}

impl State {
    fn push(&mut self, event: Event) {
        if self.callback.is_none() {
            return;
        }
        // One place more, for what says how many were missed.
        let places = 1 + usize::from(self.missed > 0);
        if self.waiting.len() + places > MOST_WAITING {
            self.missed += 1;
            return;
        }
        self.note_missed();
        self.waiting.push_back(event);
    }

    fn note_missed(&mut self) {
        if self.missed > 0 {
            let missed = std::mem::take(&mut self.missed);
            self.waiting.push_back(Event::Missed(missed));
        }
    }

    fn next(&mut self) -> Option<(EventCallback, Event)> {
        if self.waiting.is_empty() {
            self.note_missed();
        }
        let callback = self.callback.clone()?;
        Some((callback, self.waiting.pop_front()?))
    }
}

impl Events {
    pub(crate) fn new(callback: Option<EventCallback>) -> Self {
        Self {
            is_silent: callback.is_none(),
            state: Mutex::new(State {
                callback,
                waiting: VecDeque::new(),
                missed: 0,
                is_delivering: false,
                is_over: false,
            }),
        }
    }

    /// Whether anybody listens.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.is_silent
    }

    /// Keeps an event for whoever delivers it. Locks may be held.
    pub(crate) fn push(&self, event: impl FnOnce() -> Event) {
        if self.is_wanted() {
            let event = event();
            self.state.lock().push(event);
        }
    }

    /// Tells the host all that waits, unless another call does so now: that one tells
    /// what comes meanwhile, too. No lock may be held.
    pub(crate) fn deliver(&self) {
        if self.is_silent {
            return;
        }
        let mut mine = false;
        loop {
            let mut state = self.state.lock();
            if state.is_delivering && !mine {
                return;
            }
            mine = true;
            let next = state.next();
            state.is_delivering = next.is_some();
            let Some((callback, event)) = next else {
                let over = state.is_over;
                let let_go = state.callback.take_if(|_| over);
                drop(state);
                // What it holds may be a handle, whose end takes locks.
                harmless(|| drop(let_go));
                return;
            };
            drop(state);
            harmless(|| callback.call(&event));
        }
    }

    /// Delivers what is left, and lets the callback go.
    fn end(&self) {
        self.state.lock().is_over = true;
        self.deliver();
    }
}

/// Runs what is the host's: a panic of it must not poison the database.
pub(crate) fn harmless(run: impl FnOnce()) {
    if let Err(what) = catch_unwind(AssertUnwindSafe(run)) {
        // Its end may panic, too.
        std::mem::forget(what);
    }
}

impl Core {
    /// Tells the host of something, soon. Locks may be held.
    pub(crate) fn tell(&self, event: impl FnOnce() -> Event) {
        self.events.push(event);
        if self.events.is_wanted() {
            self.signals.events.notify();
        }
    }

    /// Where the database has no threads, calls of the host tell it what happened in
    /// them, in their end. No lock may be held.
    pub(crate) fn deliver_own_events(&self) {
        if self.options.background == Background::Manual {
            self.events.deliver();
        }
    }

    /// Nothing more happens: the host is told what is left. No lock may be held.
    pub(crate) fn end_events(&self) {
        self.events.end();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::Mutex;
    use std::sync::Arc;

    fn listening() -> (Arc<Events>, Arc<Mutex<Vec<u64>>>) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        let callback = EventCallback::new(move |event| {
            if let Event::Missed(n) = event {
                hears.lock().push(*n);
            }
        });
        (Arc::new(Events::new(Some(callback))), heard)
    }

    #[test]
    fn what_does_not_fit_is_counted_in_its_place() {
        let (events, heard) = listening();
        let most = MOST_WAITING as u64;
        for n in 0..most + 500 {
            events.push(|| Event::Missed(1_000_000 + n));
        }
        assert_eq!(events.state.lock().waiting.len(), MOST_WAITING);
        events.deliver();
        events.push(|| Event::Missed(7));
        events.deliver();
        let heard = heard.lock();
        let first: Vec<u64> = (0..most).map(|n| 1_000_000 + n).collect();
        assert_eq!(heard[..first.len()], first);
        assert_eq!(heard[first.len()..], [500, 7]);
    }

    /// A place that becomes free while more comes: the gap is told before what is after it.
    #[test]
    fn a_gap_comes_before_what_came_after_it() {
        let (events, heard) = listening();
        for n in 0..MOST_WAITING as u64 + 3 {
            events.push(|| Event::Missed(1_000_000 + n));
        }
        for _ in 0..2 {
            assert!(events.state.lock().next().is_some());
        }
        events.push(|| Event::Missed(7));
        events.deliver();
        let heard = heard.lock();
        assert_eq!(heard[heard.len() - 2..], [3, 7]);
        assert_eq!(heard[0], 1_000_002);
    }

    /// What a panic leaves may panic once more when it ends.
    #[test]
    fn a_panic_within_a_panic_ends_there() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("the end of what a panic left");
            }
        }
        let heard = Arc::new(Mutex::new(0));
        let hears = Arc::clone(&heard);
        let events = Events::new(Some(EventCallback::new(move |_| {
            *hears.lock() += 1;
            std::panic::resume_unwind(Box::new(Bomb));
        })));
        for n in 0..2 {
            events.push(|| Event::Missed(n));
            events.deliver();
        }
        assert_eq!(*heard.lock(), 2);
    }

    #[test]
    fn nothing_is_kept_where_nobody_listens() {
        let events = Events::new(None);
        events.push(|| unreachable!("it is not even made"));
        events.deliver();
        assert!(!events.is_wanted());
    }

    /// Whoever closes the database in the callback is told the rest, too, and the callback
    /// is gone then with what it holds.
    #[test]
    fn the_callback_goes_after_the_last_event() {
        let heard = Arc::new(Mutex::new(0));
        let (hears, slot) = (Arc::clone(&heard), Arc::new(Mutex::new(None)));
        let events_in = Arc::clone(&slot);
        let events = Arc::new(Events::new(Some(EventCallback::new(move |_| {
            *hears.lock() += 1;
            let events: Option<Arc<Events>> = events_in.lock().clone();
            events.iter().for_each(|events| events.end());
        }))));
        *slot.lock() = Some(Arc::clone(&events));
        for n in 0..3 {
            events.push(|| Event::Missed(n));
        }
        events.deliver();
        assert_eq!(*heard.lock(), 3);
        assert!(events.state.lock().callback.is_none());
        assert_eq!(Arc::strong_count(&heard), 1);
    }
}
