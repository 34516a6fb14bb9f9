//! Carries a request's context into detached tasks.
//!
//! A cache fetches in a detached task, so that a client that leaves cancels nothing. That work still belongs to the
//! request that caused it: its queries are counted there and its log lines stand under that request's span. The
//! timing layer polls each request inside a [`LogSlot`]; [`carry`] takes the slot's scope (and, with the feature
//! `tracing`, the current span) along and polls a future inside it, wherever that future is polled.
//!
//! A slot is opened by the first piece of work that asks for its scope: a request that asks for none allocates none.

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

/// What work belongs to, opaque here: a request that nobody has asked for its log, or that log. The timing room knows
/// the types.
pub(crate) type RequestScope = Arc<dyn ScopeOwner>;

/// Something that work can belong to.
pub(crate) trait ScopeOwner: Any + Send + Sync {
    /// The request's log: a new one, or itself where it is one.
    fn open(self: Arc<Self>) -> RequestScope;

    /// Hears what detached work has noted.
    fn noted(&self, _notes: Notes) {}
}

thread_local! {
    static CURRENT: Current = const { Current { scope: Cell::new(None), notes: Cell::new(Notes::NONE) } };
}

/// The slot that this thread works in now.
struct Current {
    scope: Cell<Option<RequestScope>>,
    notes: Cell<Notes>,
}

impl Current {
    fn swap(&self, slot: &mut LogSlot) {
        self.scope.swap(Cell::from_mut(&mut slot.scope));
        self.notes.swap(Cell::from_mut(&mut slot.notes));
    }
}

/// A request's place for its log; empty for work that belongs to no request.
#[derive(Default)]
pub(crate) struct LogSlot {
    scope: Option<RequestScope>,
    notes: Notes,
}

/// Results of other layers for this request, read by timing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    pub(crate) cache: Option<CacheNote>,
    pub(crate) limit: Option<LimitNote>,
}

impl Notes {
    const NONE: Self = Self { cache: None, limit: None };
}

/// How a cache answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheNote {
    Hit,
    Stale,
    Revalidated,
    Miss,
    Collapsed,
    Pass,
}

impl CacheNote {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Miss => "miss",
            Self::Collapsed => "collapsed",
            Self::Pass => "pass",
        }
    }
}

/// Decision of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitNote {
    Allowed,
    Refused,
}

impl LimitNote {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
        }
    }
}

/// Notes something about the request that this code runs in; the last word stands.
#[inline]
pub(crate) fn note(write: impl FnOnce(&mut Notes)) {
    let _ = CURRENT.try_with(|current| {
        let mut notes = current.notes.get();
        write(&mut notes);
        current.notes.set(notes);
    });
}

/// Whether the request that this code runs in was answered without a call of its own to the service behind the cache;
/// false outside of any request.
pub(crate) fn answered_from_cache() -> bool {
    let note = CURRENT.try_with(|current| current.notes.get().cache).ok().flatten();
    is_inside() && matches!(note, Some(CacheNote::Hit | CacheNote::Stale | CacheNote::Collapsed))
}

impl LogSlot {
    pub(crate) fn new(scope: RequestScope) -> Self {
        Self { scope: Some(scope), notes: Notes::NONE }
    }

    pub(crate) fn scope(&self) -> Option<&RequestScope> {
        self.scope.as_ref()
    }

    pub(crate) const fn notes(&self) -> Notes {
        self.notes
    }

    /// Runs `work` inside this slot. Meanwhile the outer slot is kept here: entering is one swap, and so is leaving.
    #[inline(always)]
    pub(crate) fn enter<R>(&mut self, work: impl FnOnce() -> R) -> R {
        // A thread that is ending has no current slot any more: the work runs outside.
        let entered = CURRENT.try_with(|current| current.swap(self)).is_ok();
        let _leave = entered.then(|| Leave(self));
        work()
    }
}

/// Swaps the slots back, also when the work panics.
struct Leave<'a>(&'a mut LogSlot);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let _ = CURRENT.try_with(|current| current.swap(self.0));
    }
}

/// Whether this code runs in a request.
#[inline]
pub(crate) fn is_inside() -> bool {
    let inside = CURRENT.try_with(|current| {
        let scope = current.scope.take();
        let inside = scope.is_some();
        current.scope.set(scope);
        inside
    });
    inside.unwrap_or(false)
}

/// The log of the request that this code runs in, opened where it was not.
pub(crate) fn current() -> Option<RequestScope> {
    let opened = CURRENT.try_with(|current| {
        let log = current.scope.take().map(ScopeOwner::open);
        current.scope.set(log.clone());
        log
    });
    opened.ok().flatten()
}

/// Makes `future` run in the scope and span that are current now.
pub(crate) fn carry<F: Future + Send>(future: F) -> impl Future<Output = F::Output> + Send {
    in_span(Carried { slot: LogSlot { scope: current(), notes: Notes::NONE }, future })
}

pin_project! {
    /// A future polled inside a slot.
    struct Carried<F> {
        slot: LogSlot,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Carried<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let polled = this.slot.enter(|| this.future.poll(cx));
        if this.slot.notes != Notes::NONE {
            this.slot.scope.iter().for_each(|scope| scope.noted(this.slot.notes));
        }
        polled
    }
}

#[cfg(feature = "tracing")]
fn in_span<F: Future + Send>(future: F) -> impl Future<Output = F::Output> + Send {
    use tracing::Instrument;
    future.in_current_span()
}

#[cfg(not(feature = "tracing"))]
fn in_span<F: Future + Send>(future: F) -> F {
    future
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Request(usize);
    struct Log(usize);

    impl ScopeOwner for Request {
        fn open(self: Arc<Self>) -> RequestScope {
            Arc::new(Log(self.0))
        }
    }

    impl ScopeOwner for Log {
        fn open(self: Arc<Self>) -> RequestScope {
            self
        }
    }

    fn slot(name: usize) -> LogSlot {
        LogSlot::new(Arc::new(Request(name)))
    }

    fn log(scope: &RequestScope) -> Option<usize> {
        (&**scope as &dyn Any).downcast_ref::<Log>().map(|log| log.0)
    }

    fn found() -> Option<usize> {
        current().as_ref().and_then(log)
    }

    #[tokio::test]
    async fn a_spawned_task_finds_the_scope_of_its_cause() {
        let task = slot(7).enter(|| tokio::spawn(carry(async { found() })));
        assert_eq!(task.await.expect("the task ended"), Some(7));
        assert!(carry(async { current() }).await.is_none());
    }

    #[test]
    fn a_slot_opens_once_and_only_when_asked() {
        let mut request = slot(1);
        request.enter(|| ());
        assert_eq!(request.scope().and_then(log), None);
        let (first, second) = request.enter(|| (current(), current()));
        assert!(Arc::ptr_eq(&first.expect("a scope"), &second.expect("the same")));
        assert_eq!(request.scope().and_then(log), Some(1));
    }

    #[test]
    fn notes_stay_with_their_slot() {
        let mut outer = slot(1);
        outer.enter(|| {
            note(|notes| notes.limit = Some(LimitNote::Allowed));
            let mut inner = slot(2);
            inner.enter(|| note(|notes| notes.cache = Some(CacheNote::Hit)));
            assert_eq!(inner.notes().cache, Some(CacheNote::Hit));
        });
        let notes = outer.notes();
        assert_eq!((notes.limit, notes.cache), (Some(LimitNote::Allowed), None));
        note(|notes| notes.limit = None);
    }

    #[test]
    fn slots_nest_and_survive_a_panic() {
        let mut outer = slot(1);
        outer.enter(|| {
            let broken = std::panic::catch_unwind(|| slot(2).enter(|| panic!("a handler's bug")));
            assert!(broken.is_err());
            assert_eq!(found(), Some(1));
        });
        assert_eq!(found(), None);
    }
}
