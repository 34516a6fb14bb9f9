//! The example of an upstream: the same traffic exhausts a quota, or spends less than a tenth of it.

#[path = "../examples/upstream.rs"]
#[allow(dead_code, unreachable_pub, reason = "an example is a program of its own")]
mod example;

#[tokio::test]
async fn its_story_ends_well() {
    assert!(example::run().await);
}
