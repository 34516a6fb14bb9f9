//! What goes along when work leaves the request's task.
//!
//! A cache fetches in a detached task, so that a client that leaves cancels nothing. That work still belongs to the
//! request that caused it: its queries are counted there and its log lines stand under that request's span. The
//! timing layer polls each request inside a [`Slot`]; [`carry`] takes the slot's scope (and, with the feature
//! `tracing`, the current span) along and polls a future inside it, wherever that future is polled.
//!
//! A slot is opened by the first piece of work that asks for its scope: a request that asks for none allocates none.

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

/// The request's own log, opaque here: the timing room knows its type.
pub(crate) type Scope = Arc<dyn Any + Send + Sync>;

/// Where a request's log is opened.
pub(crate) trait Home: Any + Send + Sync {
    /// A new log for a request that matched the route at `place`.
    fn open(self: Arc<Self>, place: usize) -> Scope;
}

thread_local! {
    static CURRENT: Cell<Slot> = const { Cell::new(Slot::Empty) };
}

/// A request's place for its log.
#[derive(Clone, Default)]
pub(crate) enum Slot {
    /// Work that belongs to no request.
    #[default]
    Empty,
    /// A request that nobody has asked for its log.
    Closed { home: Arc<dyn Home>, place: usize },
    /// A request with a log.
    Open(Scope),
}

impl Slot {
    /// Runs `work` inside this slot.
    pub(crate) fn enter<R>(&mut self, work: impl FnOnce() -> R) -> R {
        // A thread that is ending has no current slot any more: the work runs outside.
        let outer = CURRENT.try_with(|current| current.replace(mem::take(self))).ok();
        let _leave = outer.map(|outer| Leave { slot: self, outer });
        work()
    }

    fn opened(self) -> Self {
        match self {
            Self::Closed { home, place } => Self::Open(home.open(place)),
            other => other,
        }
    }
}

/// Puts both slots back, also when the work panics.
struct Leave<'a> {
    slot: &'a mut Slot,
    outer: Slot,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let outer = mem::take(&mut self.outer);
        let _ = CURRENT.try_with(|current| *self.slot = current.replace(outer));
    }
}

/// The scope that this code runs in, opened where it was not.
pub(crate) fn current() -> Option<Scope> {
    let opened = CURRENT.try_with(|current| {
        let slot = current.take().opened();
        current.set(slot.clone());
        slot
    });
    match opened {
        Ok(Slot::Open(scope)) => Some(scope),
        _ => None,
    }
}

/// Makes `future` run in the scope and span that are current now.
#[cfg_attr(not(test), expect(dead_code, reason = "the cache's detached work goes through it"))]
pub(crate) fn carry<F: Future + Send>(future: F) -> impl Future<Output = F::Output> + Send {
    in_span(Carried { slot: current().map_or(Slot::Empty, Slot::Open), future })
}

pin_project! {
    /// A future polled inside a slot.
    struct Carried<F> {
        slot: Slot,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Carried<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.slot.enter(|| this.future.poll(cx))
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

    struct Places;

    impl Home for Places {
        fn open(self: Arc<Self>, place: usize) -> Scope {
            Arc::new(place)
        }
    }

    fn slot(place: usize) -> Slot {
        Slot::Closed { home: Arc::new(Places), place }
    }

    fn found() -> Option<usize> {
        current().and_then(|scope| scope.downcast::<usize>().ok()).map(|place| *place)
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
        assert!(matches!(request, Slot::Closed { .. }));
        let (first, second) = request.enter(|| (current(), current()));
        assert!(Arc::ptr_eq(&first.expect("a scope"), &second.expect("the same")));
        assert!(matches!(request, Slot::Open(_)));
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
