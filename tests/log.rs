//! What is logged. A binary of its own: `tracing` remembers what other threads' subscribers wanted.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::{World, from};
use tollgate::limit::{Limit, RateLimitLayer};
use tracing_subscriber::layer::SubscriberExt;

#[tokio::test]
async fn a_flood_of_refusals_writes_at_most_ten_lines_a_second() {
    struct Count(Arc<AtomicUsize>);
    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Count {
        fn on_event(&self, _: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let lines = Arc::new(AtomicUsize::new(0));
    let subscriber = tracing_subscriber::registry().with(Count(lines.clone()));
    let _guard = tracing::subscriber::set_default(subscriber);
    let world = World::new(|clock| {
        RateLimitLayer::builder().limit(Limit::per_ip("1/min")).clock(clock).build().expect("a layer")
    });
    assert_eq!(world.admitted(1_000, || from("192.0.2.1", "/")).await, 1);
    assert_eq!(lines.load(Ordering::SeqCst), 10);
    world.advance(1.0);
    world.admitted(3, || from("192.0.2.1", "/")).await;
    assert_eq!(lines.load(Ordering::SeqCst), 13);
    // The subscriber does hear: a request without an address is warned about.
    world.send(http::Request::get("/").body(http_body_util::Empty::new()).expect("a request")).await;
    assert_eq!(lines.load(Ordering::SeqCst), 14);
}
