//! Four processes that share limits with pairs of features, and obey a test step by step.
//!
//! Each pair has a limit on a route of its own, and a client of its own. All processes turn their clocks together.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a part of the tests of pairs, which replies on its output"
)]

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Response;
use http_body_util::Full;
use tokio::io::AsyncBufReadExt;
use tollgate::identity::Key;
use tollgate::limit::{Count, Limit, LimitSubject};
use tollgate::store::postgres::Postgres;
use tollgate::store::redis::{LimitMode, Redis};
use tollgate::{Body, Clock, ManualClock, Override, Tollgate};
use tower::util::BoxCloneService;
use tower::{Layer, ServiceExt};

use crate::support::{Req, answering, from, text};

pub const PROCESSES: usize = 4;
/// Requests of one client that each process sends at once.
pub const BURST: usize = 12;
/// Good requests that each process sends, one after the other.
pub const GOOD: usize = 6;
const ROLE: &str = "TOLLGATE_TEST_PAIRS";
const SECRET: &str = "the same on every node";
/// Time enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(10);
/// Duration of grants, bans and overrides.
const SPAN: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    Count,
    Ban,
    Grant,
    Reset,
    Quota,
}

/// Features of one limit: two, or one of them alone.
pub type Pair = (Shared, Shared);

pub fn has(pair: Pair, feature: Shared) -> bool {
    pair.0 == feature || pair.1 == feature
}

/// Returns all pairs of shared features; expiry is asked of each.
pub fn pairs() -> Vec<Pair> {
    let features = [Shared::Count, Shared::Ban, Shared::Grant, Shared::Reset, Shared::Quota];
    let from = |at: usize| features[at..].iter().map(move |other| (features[at], *other));
    (0..features.len()).flat_map(from).collect()
}

/// Outcomes of requests: admitted, refused, denied.
pub type Outcomes = [usize; 3];

/// The processes of a fleet. They end with it.
pub struct Fleet(Vec<NodeProcess>);

struct NodeProcess {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Fleet {
    /// Starts processes that share the store of this URL, and waits until all are connected. After `leased ` it is that of a
    /// Redis whose nodes buy blocks in advance.
    pub fn start(url: &str) -> Self {
        let start = |index| {
            let mut node = Command::new(std::env::current_exe().expect("this program"));
            node.args(["one_process_of_the_fleet", "--exact", "--nocapture"]).env(ROLE, format!("{index} {url}"));
            let mut child = node.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
            let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
            NodeProcess { child, input, output: BufReader::new(output) }
        };
        let mut fleet = Self((0..PROCESSES).map(start).collect());
        fleet.tell("sync");
        fleet
    }

    /// Lets all processes obey a command at the same time; returns their replies.
    fn ask(&mut self, command: &str) -> Vec<String> {
        self.0.iter_mut().for_each(|node| writeln!(node.input, "{command}").expect("a process that runs"));
        self.0.iter_mut().map(|node| node.reply(command)).collect()
    }

    pub fn tell(&mut self, command: &str) {
        assert!(self.ask(command).iter().all(|reply| reply == "done"), "{command}");
    }

    /// As `ask`; sums the outcomes of all processes for each pair.
    pub fn outcomes(&mut self, command: &str) -> Vec<Outcomes> {
        let mut sums = vec![[0; 3]; pairs().len()];
        for reply in self.ask(command) {
            let numbers: Vec<usize> = reply.split(' ').map(|number| number.parse().expect("a number")).collect();
            for (sum, outcomes) in sums.iter_mut().zip(numbers.chunks(3)) {
                sum.iter_mut().zip(outcomes).for_each(|(sum, number)| *sum += number);
            }
        }
        sums
    }
}

impl NodeProcess {
    fn reply(&mut self, command: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.output.read_line(&mut line).expect("its output") > 0, "a process has ended: {command}");
            // The test harness writes to the same line.
            if let Some((_, reply)) = line.trim_end().split_once("@ ") {
                return reply.to_owned();
            }
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One of the processes.
struct Node {
    index: usize,
    gate: Tollgate,
    hand: ManualClock,
    service: BoxCloneService<Req, Response<Body<Full<Bytes>>>, Infallible>,
}

/// Obeys the commands of [`Fleet`], if this process is one of it.
pub async fn serve() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (index, url) = role.split_once(' ').expect("an index and a URL");
    let node = Node::new(index.parse().expect("an index"), url);
    until("connected", async || {
        node.subject(0).peek().await;
        node.gate.limits().stats().remote.is_some_and(|remote| remote.up)
    })
    .await;
    let mut commands = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Some(command) = commands.next_line().await.expect("commands") {
        let reply = node.obey(&command).await;
        assert_eq!(node.gate.limits().stats().degraded, 0, "every decision is the fleet's");
        println!("\n@ {reply}");
    }
}

impl Node {
    fn new(index: usize, url: &str) -> Self {
        let hand = ManualClock::new();
        let clock = Clock::Manual(hand.clone());
        let mut gate = Tollgate::builder().routes((0..pairs().len()).map(route)).clock(clock.clone()).hook(|_| ());
        for (at, pair) in pairs().into_iter().enumerate() {
            let limit = Limit::per_ip("20/min").named(name(at)).on(route(at));
            let limit = if has(pair, Shared::Count) { limit.count(Count::failures()) } else { limit };
            gate = gate.limit(if has(pair, Shared::Ban) { limit.ban_after(4, SPAN) } else { limit });
        }
        let (mode, url) = url.strip_prefix("leased ").map_or((LimitMode::Exact, url), |url| (LimitMode::Leased, url));
        let gate = match url.starts_with("redis") {
            true => gate.redis(
                Redis::new(url).expect("a URL").secret(SECRET).limit_deadline(DEADLINE).limit_mode(mode).clock(clock),
            ),
            false => gate.postgres(Postgres::new(url).expect("a URL").secret(SECRET).deadline(DEADLINE).clock(clock)),
        };
        let gate = gate.build().expect("a gate");
        let service = BoxCloneService::new(gate.layer().layer(answering(|request: &Req| {
            let status = if request.headers().contains_key("x-good") { 200 } else { 500 };
            Response::builder().status(status).body(Full::from("ok")).expect("a response")
        })));
        Self { index, gate, hand, service }
    }

    async fn obey(&self, command: &str) -> String {
        match command.split_once(' ').unwrap_or((command, "")) {
            ("good", _) => return shown(&join_all((0..pairs().len()).map(|at| self.good(at))).await),
            ("burst", _) => return shown(&join_all((0..pairs().len()).map(|at| self.burst(at))).await),
            ("advance", seconds) => self.hand.advance(Duration::from_secs(seconds.parse().expect("seconds"))),
            ("sync", _) => {
                self.subject(0).peek().await;
                self.gate.overrides().sync().await;
            }
            ("grant", _) => self.grant().await,
            ("override", seconds) => self.override_quotas(seconds.parse().expect("seconds")).await,
            ("wait-for-bans", _) => {
                join_all(of(Shared::Ban).map(|at| self.until_banned(at))).await.into_iter().collect()
            }
            ("reset", _) if self.index == 2 => {
                for at in of(Shared::Reset) {
                    self.subject(at).reset().await.expect("the store is there");
                }
            }
            ("reset", _) => {}
            _ => panic!("unknown command {command}"),
        }
        "done".to_owned()
    }

    fn subject(&self, at: usize) -> LimitSubject {
        self.gate.limits().subject(Key::ip(address(at).parse().expect("an address"))).route(route(at))
    }

    async fn grant(&self) {
        let until = Clock::Manual(self.hand.clone()).wall() + SPAN;
        for at in of(Shared::Grant).filter(|_| self.index == 0) {
            self.subject(at).grant(&name(at), "30/min", until).await.expect("the store is there");
        }
    }

    async fn override_quotas(&self, seconds: u64) {
        for at in of(Shared::Quota).filter(|_| self.index == 1) {
            let asked = Override::quota(&format!("limit {}", name(at)), "10/min");
            let asked = asked.expires_in(Duration::from_secs(seconds));
            let status = self.gate.overrides().apply(asked).await.expect("an override");
            assert!(!status.is_pending, "{status:?}");
        }
    }

    async fn until_banned(&self, at: usize) {
        until("banned", async || self.subject(at).peek().await.denied()).await;
    }

    /// Sends good requests, one after the other, to a limit that counts failures.
    async fn good(&self, at: usize) -> Outcomes {
        let mut outcomes = [0; 3];
        for _ in 0..if has(pairs()[at], Shared::Count) { GOOD } else { 0 } {
            outcomes[self.send(at, true).await] += 1;
        }
        outcomes
    }

    /// Sends failing requests at once.
    async fn burst(&self, at: usize) -> Outcomes {
        let mut outcomes = [0; 3];
        join_all((0..BURST).map(|_| self.send(at, false))).await.into_iter().for_each(|outcome| outcomes[outcome] += 1);
        outcomes
    }

    /// Sends a request; returns the index of its outcome. A refusal is found by its reference.
    async fn send(&self, at: usize, is_good: bool) -> usize {
        let mut request = from(&address(at), &route(at));
        if is_good {
            request.headers_mut().insert("x-good", "yes".parse().expect("a value"));
        }
        let response = self.service.clone().oneshot(request).await.expect("infallible");
        let outcome = match response.status().as_u16() {
            200 | 500 => return 0,
            429 => 1,
            403 => 2,
            other => panic!("{other}"),
        };
        let problem: serde_json::Value = serde_json::from_str(&text(response).await).expect("JSON");
        let refusal = self.gate.limits().refusal(problem["reference"].as_str().expect("a reference"));
        assert_eq!(refusal.expect("found by its reference").route, route(at));
        outcome
    }
}

/// Waits until a condition holds, for 30 s at most.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let holding = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), holding).await.expect(what);
}

/// Returns the places of the pairs with a feature.
fn of(feature: Shared) -> impl Iterator<Item = usize> {
    pairs().into_iter().enumerate().filter(move |(_, pair)| has(*pair, feature)).map(|(at, _)| at)
}

fn name(at: usize) -> String {
    format!("pair-{at}")
}

fn route(at: usize) -> String {
    format!("/pair-{at}")
}

fn address(at: usize) -> String {
    format!("192.0.2.{}", at + 1)
}

fn shown(outcomes: &[Outcomes]) -> String {
    let numbers: Vec<String> = outcomes.iter().flatten().map(usize::to_string).collect();
    numbers.join(" ")
}
