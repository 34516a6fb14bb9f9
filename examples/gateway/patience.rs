//! How long a connection may take over a request's head.
//!
//! hyper arms a timer for every head it waits for, and drops it when the head is there. This one stays where it is between
//! requests, and is only set forward, which takes no lock: at 140 000 requests a second that is felt.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;

type Kept = Arc<Mutex<Pin<Box<tokio::time::Sleep>>>>;

/// The timer of one connection, which waits for one thing at a time.
#[derive(Clone)]
pub(crate) struct Patience(Kept);

impl Patience {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Box::pin(tokio::time::sleep(Duration::ZERO)))))
    }

    fn set(&self, deadline: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut().reset(deadline.into());
    }
}

impl Timer for Patience {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.set(deadline);
        Box::pin(Wait(self.0.clone()))
    }

    fn now(&self) -> Instant {
        TokioTimer::new().now()
    }

    fn reset(&self, _sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        self.set(deadline);
    }
}

struct Wait(Kept);

impl Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx)
    }
}
