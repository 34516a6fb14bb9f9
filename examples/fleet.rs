//! Two nodes that share one limit and one cache through a Redis, which is killed and restarted under load:
//! `cargo run --example fleet`.
//!
//! Starts its own `redis-server` (which must be installed) on a free port, and two processes of itself that share
//! only that server. Prints events as they happen. Ends with an error if any request failed: every response is 200
//! or, beyond the limit, 429.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "an example shows what happens, and how long it took"
)]

#[path = "fleet/node.rs"]
mod node;
#[path = "fleet/redis.rs"]
mod redis;
#[path = "fleet/story.rs"]
mod story;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let told = match (arguments.next().as_deref(), arguments.next()) {
        (Some("--node"), Some(url)) => node::serve(&url).await,
        (None, _) => story::tell().await,
        _ => Err("usage: fleet".into()),
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
