//! A filter over the whole subscriber hides sqlx: the silence is found out, and said once. It has a process of its own,
//! for the subscriber and the state of the harvest are the process's.

#[path = "support/harvested.rs"]
mod harvested;

use std::sync::{Arc, Mutex};

use harvested::Shop;
use tollgate::timing::{HarvestState, TimingLayer, harvest};
use tollgate::{Event, timing};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, reload};

#[tokio::test(flavor = "multi_thread")]
async fn a_global_filter_is_found_out_and_mended() {
    assert_eq!(TimingLayer::new().stats().harvest, HarvestState::Off);
    let (global, handle) = reload::Layer::new(EnvFilter::new("info"));
    let subscriber = tracing_subscriber::registry().with(global).with(harvest());
    tracing::subscriber::set_global_default(subscriber).expect("the only subscriber");

    let warnings = Arc::new(Mutex::new(Vec::new()));
    let sink = warnings.clone();
    let watching = TimingLayer::builder().hook(move |event: &Event<'_>| {
        if let Event::Warning { code, message } = event {
            sink.lock().expect("not poisoned").push(format!("{code}: {message}"));
        }
    });
    let watching = watching.build().expect("a layer");
    let pool = harvested::sqlite().await;
    let shop = Shop::open(&pool).await;
    for _ in 0..99 {
        shop.ask("/one").await;
    }
    assert_eq!(shop.warnings(), Vec::<String>::new(), "not yet");
    shop.ask("/one").await;
    // Said by the layer that saw the hundredth request, though nobody has asked for numbers.
    let said = shop.warnings();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("filter over the whole subscriber") && said[0].contains("with_filter"), "{said:?}");
    assert_eq!(shop.queries("/one"), 0);
    let stats: timing::TimingStats = watching.stats();
    assert_eq!(stats.harvest, HarvestState::NoEvents);
    assert_eq!(serde_json::to_value(&stats).expect("JSON")["harvest"], "no_events");
    assert_eq!((shop.warnings().len(), warnings.lock().expect("not poisoned").len()), (1, 0), "once in a process");

    // The fix that the documentation gives where the global filter has to stay.
    handle.reload(EnvFilter::new("info,sqlx=debug,tollgate=trace")).expect("another filter");
    shop.ask("/one").await;
    assert_eq!((shop.queries("/one"), shop.timing.stats().harvest), (1, HarvestState::Active));
    // Without ours, the span is shown at INFO: a query on SQLite's thread still finds its request.
    handle.reload(EnvFilter::new("info,sqlx=debug")).expect("another filter");
    shop.ask("/one").await;
    assert_eq!(shop.queries("/one"), 2);
}
