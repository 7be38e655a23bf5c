//! Who is told of flushes, merges and stalls.
//!
//! Owns the callback. Must not know: when it is called.

use std::fmt;
use std::sync::Arc;

use super::Options;
use crate::events::Event;

/// The host's callback.
#[derive(Clone)]
pub(crate) struct EventCallback(Arc<dyn Fn(&Event) + Send + Sync>);

impl EventCallback {
    pub(crate) fn new(tell: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(crate) fn call(&self, event: &Event) {
        (self.0)(event);
    }
}

impl fmt::Debug for EventCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventCallback")
    }
}

impl Options {
    /// Calls `tell` for each flush, merge and stall: one call after the other, in the order
    /// in which things happened, and never while the database holds a lock, so that it may
    /// call any handle of the database. Under [`Background::Threads`](super::Background) a
    /// thread of its own calls it, soon after; work does not wait for it. Under
    /// `Background::Manual` the call in which something happened does, when it is done with
    /// its work. What is left is told before `Db::close` returns, or once `tell` returns
    /// where that is what closes the database.
    ///
    /// While one thread is in `tell`, events of others wait for that thread, under
    /// `Background::Manual` too: whose call caused them may return before. `Db::close`, and
    /// the end of the last handle, wait for `tell`: it must not wait for a thread that closes
    /// the database, nor for a lock that such a thread holds. A `tell` that causes an event
    /// each time is called for ever. A second call of `on_event` replaces the first.
    ///
    /// A panic in `tell` is caught, and the next event is told again. If 1,024 events
    /// wait, others are discarded, and `Event::Missed` in their place says how many: of an
    /// open that flushes more than that, too. One
    /// that holds a handle keeps the database open until somebody calls `Db::close`.
    /// Default: nobody is told.
    ///
    /// ```
    /// use esker::{Event, Options};
    /// let options = Options::new().on_event(|event| {
    ///     if let Event::MergeDone(merge) = event {
    ///         let reason = merge.plan.reason;
    ///         eprintln!("{reason:?}: {} bytes in {:?}", merge.bytes_written, merge.time);
    ///     }
    /// });
    /// # let _ = options;
    /// ```
    #[must_use]
    pub fn on_event(mut self, tell: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.events = Some(EventCallback::new(tell));
        self
    }
}
