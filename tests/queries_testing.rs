//! Assertions on queries, as a user's test makes them.
#![expect(clippy::expect_used, reason = "a test may fail")]

#[path = "support/harvested.rs"]
mod harvested;

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use harvested::Shop;
use tollgate::testing::queries;
use tollgate::timing::timed_query;

async fn refused(work: impl Future<Output = ()>) -> String {
    let panic = AssertUnwindSafe(work).catch_unwind().await.expect_err("the assertion fails");
    panic.downcast_ref::<String>().expect("a message").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn around_a_request_over_sqlx() {
    harvested::install();
    let pool = harvested::sqlite().await;
    let shop = Shop::open(&pool).await;
    let joined = queries(shop.ask("/joined")).await.at_most(4).no_n_plus_one().no_duplicates();
    assert_eq!((joined.count(), joined.groups().len()), (4, 1));
    let many = refused(async { drop(queries(shop.ask("/loop")).await.at_most(3)) }).await;
    assert!(many.starts_with("at most 3 queries were expected, and 11 were made:\n"), "{many}");
    assert!(many.contains("    10 × SELECT title FROM books WHERE author = ?   (together "), "{many}");
    assert!(many.contains("1 × SELECT id FROM authors") && many.contains(", 10 rows"), "{many}");
    let looped = refused(async { drop(queries(shop.ask("/loop")).await.no_n_plus_one()) }).await;
    assert!(looped.contains("N+1") && looped.contains("10 × SELECT title"), "{looped}");
    assert!(!looped.contains("FROM authors"), "the offending groups alone: {looped}");
    assert_eq!(shop.queries("/loop"), 22, "the service's own layer counts as ever");
}

#[tokio::test]
async fn around_any_work() {
    let twice = async || {
        for _ in 0..2 {
            timed_query("SELECT name FROM users WHERE id = $1", async {}).key(&7).await;
        }
        "done"
    };
    assert_eq!(queries(twice()).await.at_most(2).no_n_plus_one().into_inner(), "done");
    let said = refused(async { drop(queries(twice()).await.no_duplicates()) }).await;
    assert!(
        said.contains("2 × SELECT name FROM users WHERE id = ?") && said.contains("2 with the same parameters"),
        "{said}"
    );
    assert!(said.contains("queries_testing.rs:"), "the place in the program: {said}");
}
