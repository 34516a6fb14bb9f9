//! The scenario: one limit, one cache, and a Redis that fails and recovers.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::node::LIMIT;
use super::redis::Redis;

type Done<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Node in a process of its own, with a client.
struct Node {
    process: Child,
    address: String,
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Node {
    fn start(url: &str) -> Done<Self> {
        let mut node = Command::new(std::env::current_exe()?);
        let mut process = node.args(["--node", url]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut address = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output).read_line(&mut address)?;
        }
        let client = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self { process, address: address.trim().to_owned(), client })
    }

    async fn get(&self, path: &str) -> Done<(u16, String)> {
        let request = http::Request::get(format!("http://{}{path}", self.address));
        // Both nodes serve one site: a cached response belongs to a host.
        let request = request.header("host", "prices.example").body(Empty::new())?;
        let answer = self.client.request(request).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    async fn stats(&self) -> Done<serde_json::Value> {
        Ok(serde_json::from_str(&self.get("/stats").await?.1)?)
    }

    async fn fetched(&self) -> Done<u64> {
        Ok(self.stats().await?["fetched"].as_u64().unwrap_or_default())
    }

    async fn is_up(&self) -> Done<bool> {
        // A decision and a look-up notice the outage.
        self.get("/prices/probe").await?;
        self.get("/limited").await?;
        Ok(self.stats().await?["up"].as_bool() == Some(true))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

pub(crate) async fn tell() -> Done {
    let mut redis = Redis::start()?;
    println!("A Redis at {}, and two nodes in processes of their own:", redis.url());
    let nodes = Arc::new([Node::start(&redis.url())?, Node::start(&redis.url())?]);
    for node in nodes.iter() {
        println!("  http://{}", node.address);
        joined(node).await?;
    }
    share_a_cache(&nodes).await?;
    share_a_limit(&nodes).await?;
    let failed = lose_redis(&nodes, &mut redis).await?;
    share_a_cache(&nodes).await?;
    match failed {
        0 => {
            println!("\nNo request failed.");
            Ok(())
        }
        failed => Err(format!("{failed} requests failed").into()),
    }
}

async fn joined(node: &Node) -> Done {
    for _ in 0..2_000 {
        if node.is_up().await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err("a node did not find its Redis within ten seconds".into())
}

async fn share_a_cache(nodes: &[Node; 2]) -> Done {
    println!("\nOne cache. Fifty prices, requested from one node and then from the other:");
    let [one, other] = nodes;
    let before = [one.fetched().await?, other.fetched().await?];
    let symbol = |number: u64| format!("/prices/{}-{number}", before[0]);
    for number in 0..50 {
        one.get(&symbol(number)).await?;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    for number in 0..50 {
        other.get(&symbol(number)).await?;
    }
    let fetched = [one.fetched().await? - before[0], other.fetched().await? - before[1]];
    println!("  fetched by the first: {}, by the other: {}", fetched[0], fetched[1]);
    if fetched[0] + fetched[1] > 60 {
        return Err("the nodes do not share a cache".into());
    }
    let price = other.get(&symbol(0)).await?.1;
    other.get("/invalidate").await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let news = one.get(&symbol(0)).await?.1;
    println!("  invalidated on the other; requested from the first: {price:?}, then {news:?}");
    if price == news { Err("an invalidation did not arrive".into()) } else { Ok(()) }
}

async fn share_a_limit(nodes: &[Node; 2]) -> Done {
    println!("\nOne limit of {LIMIT} a minute. Eighty requests to each node:");
    let mut admitted = [0, 0];
    for _ in 0..80 {
        for (node, admitted) in nodes.iter().zip(&mut admitted) {
            *admitted += u32::from(node.get("/limited").await?.0 == 200);
        }
    }
    println!(
        "  admitted by the first: {}, by the other: {}, together {}",
        admitted[0],
        admitted[1],
        admitted[0] + admitted[1]
    );
    // Earlier requests used part of the limit.
    if admitted[0] + admitted[1] > LIMIT { Err("the nodes do not share a limit".into()) } else { Ok(()) }
}

/// Observations of a load.
#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    failed: AtomicU64,
    slowest: AtomicU64,
    over: AtomicBool,
}

async fn lose_redis(nodes: &Arc<[Node; 2]>, redis: &mut Redis) -> Done<u64> {
    println!("\nNow under load, eight clients at each node:");
    let seen = Arc::new(Seen::default());
    let clients: Vec<_> = (0..16).map(|number| tokio::spawn(client(nodes.clone(), number, seen.clone()))).collect();
    let report = async |what: &str| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (answered, failed) = (seen.answered.swap(0, Ordering::Relaxed), seen.failed.load(Ordering::Relaxed));
        let slowest = seen.slowest.swap(0, Ordering::Relaxed) as f64 / 1e3;
        println!("  {what:<28} {answered:>6} responses in a second, the slowest {slowest:>6.1} ms, {failed} failed");
    };
    report("all is well").await;
    for _ in 0..2 {
        redis.kill();
        report("Redis is killed").await;
        report("Redis is away").await;
        redis.restart()?;
        report("Redis is back, and empty").await;
    }
    report("all is well").await;
    seen.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await?;
    }
    for node in nodes.iter() {
        joined(node).await?;
    }
    Ok(seen.failed.load(Ordering::Relaxed))
}

async fn client(nodes: Arc<[Node; 2]>, number: usize, seen: Arc<Seen>) {
    let node = &nodes[number % 2];
    let mut at = number;
    while !seen.over.load(Ordering::Relaxed) {
        at = at.wrapping_mul(31).wrapping_add(7) % 1_000;
        let path = if at.is_multiple_of(10) { "/limited".to_owned() } else { format!("/prices/load-{at}") };
        let since = Instant::now();
        let answer = node.get(&path).await;
        seen.slowest.fetch_max(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        seen.answered.fetch_add(1, Ordering::Relaxed);
        if !matches!(answer, Ok((200 | 429, _))) {
            seen.failed.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
