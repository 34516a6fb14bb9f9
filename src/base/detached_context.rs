//! Carries a request's context into detached tasks.
//!
//! A cache fetches in a detached task, so that a client that disconnects cancels nothing. The work still belongs to
//! the request that caused it: its queries and log lines are attributed to that request. The timing layer polls each
//! request inside a [`LogSlot`]; [`carry`] captures the slot's scope (and, with the feature `tracing`, the current
//! span) and polls a future inside it, on any task.
//!
//! The scope is created by the first piece of work that needs it: other requests allocate none.

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

/// Scope of work, opaque here: a request without a log, or its log. The types belong to the timing room.
pub(crate) type RequestScope = Arc<dyn ScopeOwner>;

/// Owner of work.
pub(crate) trait ScopeOwner: Any + Send + Sync {
    /// Returns the request's log: a new one, or itself if it is one.
    fn open(self: Arc<Self>) -> RequestScope;

    /// Receives the notes of detached work.
    fn noted(&self, _notes: Notes) {}
}

thread_local! {
    static CURRENT: Current = const { Current { scope: Cell::new(None), marks: Cell::new(Marks::NONE) } };
}

/// Slot of the current thread.
struct Current {
    scope: Cell<Option<RequestScope>>,
    marks: Cell<Marks>,
}

impl Current {
    #[inline]
    fn swap(&self, slot: &mut LogSlot) {
        slot.scope = self.scope.replace(slot.scope.take());
        slot.marks = self.marks.replace(slot.marks);
    }
}

/// Slot for a request's log; empty for work that belongs to no request.
#[derive(Default)]
pub(crate) struct LogSlot {
    scope: Option<RequestScope>,
    marks: Marks,
}

/// Notes on the current work, and the gates around it: few bytes, swapped as one.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    notes: Notes,
    /// Number of the innermost gate; 0 for none.
    inside: u16,
    /// Number of the gate that was layered around itself: its inner layers pass requests through.
    repeated: u16,
}

impl Marks {
    const NONE: Self = Self { notes: Notes::NONE, inside: 0, repeated: 0 };
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

/// Outcome of a cache.
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

/// Writes a note about the current request; later notes overwrite earlier ones.
#[inline]
pub(crate) fn note(write: impl FnOnce(&mut Notes)) {
    let _ = CURRENT.try_with(|current| {
        let mut marks = current.marks.get();
        write(&mut marks.notes);
        current.marks.set(marks);
    });
}

/// Returns whether the current request was answered without its own call of the service behind the cache; false
/// outside of requests.
pub(crate) fn answered_from_cache() -> bool {
    let note = CURRENT.try_with(|current| current.marks.get().notes.cache).ok().flatten();
    is_inside() && matches!(note, Some(CacheNote::Hit | CacheNote::Stale | CacheNote::Collapsed))
}

impl LogSlot {
    /// Creates the slot of a request that belongs to no gate.
    pub(crate) fn new(scope: RequestScope) -> Self {
        Self { scope: Some(scope), marks: Marks::NONE }
    }

    /// Creates the slot of a gate that measures nothing.
    pub(crate) fn unmeasured() -> Self {
        Self { scope: current(), marks: Marks::NONE }
    }

    /// Notes that the request is inside the gate.
    pub(crate) fn inside(mut self, gate: u16) -> Self {
        self.marks.inside = gate;
        self
    }

    /// Whether it holds anything.
    pub(crate) fn is_used(&self) -> bool {
        self.scope.is_some() || self.marks.inside != 0
    }

    /// Creates the slot of a request that the gate has already begun, further out.
    pub(crate) fn repeated(gate: u16) -> Self {
        Self { scope: current(), marks: Marks { inside: gate, repeated: gate, ..Marks::NONE } }
    }

    pub(crate) fn scope(&self) -> Option<&RequestScope> {
        self.scope.as_ref()
    }

    pub(crate) const fn notes(&self) -> Notes {
        self.marks.notes
    }

    /// Runs `work` inside this slot. The outer slot is stored here meanwhile: entering and leaving are one swap each.
    #[inline(always)]
    pub(crate) fn enter<R>(&mut self, work: impl FnOnce() -> R) -> R {
        // A thread that is ending has no current slot any more: the work runs without one.
        let entered = CURRENT.try_with(|current| current.swap(self)).is_ok();
        let _leave = entered.then(|| RestoreSlot(self));
        work()
    }
}

/// Swaps the slots back on drop, also after a panic.
struct RestoreSlot<'a>(&'a mut LogSlot);

impl Drop for RestoreSlot<'_> {
    fn drop(&mut self) {
        let _ = CURRENT.try_with(|current| current.swap(self.0));
    }
}

/// Returns whether this code runs within a request.
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

/// Returns whether the innermost gate around this code is that one.
#[inline]
pub(crate) fn is_inside_gate(gate: u16) -> bool {
    gate != 0 && CURRENT.try_with(|current| current.marks.get().inside == gate).unwrap_or(false)
}

/// Returns whether this code runs in the inner one of two equal gates.
#[inline]
pub(crate) fn is_repeated(gate: u16) -> bool {
    gate != 0 && CURRENT.try_with(|current| current.marks.get().repeated == gate).unwrap_or(false)
}

/// Returns the log of the current request, creating it if necessary.
pub(crate) fn current() -> Option<RequestScope> {
    let opened = CURRENT.try_with(|current| {
        let log = current.scope.take().map(ScopeOwner::open);
        current.scope.set(log.clone());
        log
    });
    opened.ok().flatten()
}

/// Runs `future` in the current scope and span.
pub(crate) fn carry<F: Future + Send>(future: F) -> impl Future<Output = F::Output> + Send {
    in_span(Carried::new(future))
}

/// Runs a fetch in the current scope, and in a span of its own within the current one.
pub(crate) fn carry_fetch<F: Future + Send>(fetch: F) -> impl Future<Output = F::Output> + Send {
    in_fetch_span(Carried::new(fetch))
}

pin_project! {
    /// Future polled inside a slot.
    struct Carried<F> {
        slot: LogSlot,
        #[pin]
        future: F,
    }
}

impl<F> Carried<F> {
    fn new(future: F) -> Self {
        let marks = CURRENT.try_with(|current| current.marks.get()).unwrap_or_default();
        let marks = Marks { notes: Notes::NONE, ..marks };
        Self { slot: LogSlot { scope: current(), marks }, future }
    }
}

impl<F: Future> Future for Carried<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let polled = this.slot.enter(|| this.future.poll(cx));
        if this.slot.marks.notes != Notes::NONE {
            this.slot.scope.iter().for_each(|scope| scope.noted(this.slot.marks.notes));
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

/// The span follows from the request's, which may end before it.
#[cfg(feature = "tracing")]
fn in_fetch_span<F: Future + Send>(future: F) -> impl Future<Output = F::Output> + Send {
    use tracing::Instrument;
    let request = tracing::Span::current();
    let fetch = tracing::debug_span!(target: "tollgate::fetch", "fetch");
    if fetch.is_disabled() {
        return future.instrument(request);
    }
    fetch.follows_from(&request);
    future.instrument(fetch)
}

#[cfg(not(feature = "tracing"))]
fn in_fetch_span<F: Future + Send>(future: F) -> F {
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
    async fn a_spawned_task_finds_the_scope_of_its_request() {
        let task = slot(7).enter(|| tokio::spawn(carry(async { found() })));
        assert_eq!(task.await.expect("the task ended"), Some(7));
        assert!(carry(async { current() }).await.is_none());
    }

    #[test]
    fn a_slot_opens_once_on_first_use() {
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
