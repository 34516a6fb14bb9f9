//! Callers of one key: leaders, followers, failures, panics, stalls, deadlines, invalidations and callers that leave.
//!
//! The model knows every fetch by number, and holds each answer to the rules: see [`Model`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shuttle::future::{self, yield_now};
use shuttle::rand::Rng;
use shuttle::sync::Mutex;

use crate::cache::http::key::CacheKey;
use crate::cache::http::reason::Reason;
use crate::caller::{self, Caller, NotShared};
use crate::deadlines::{FetchDeadlines, Time, runtime_now};
use crate::slow_start::FIRST;
use crate::table::{Coalescer, Leader, Role};

const KEY: CacheKey = CacheKey(7);
const WAIT: Duration = Duration::from_secs(3);
const CALLERS: u64 = 12;

/// How a fetch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Publishes its number.
    Shares,
    /// Publishes that it belongs to its caller.
    Private,
    /// Ends without publishing.
    Fails,
    /// Never ends; its caller leaves.
    Hangs,
}

/// What a fetch publishes.
#[derive(Clone, Copy)]
enum Published {
    Fetch(u64),
    Private,
}

/// Who an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    Own(u64),
    Shared(u64),
    Stale,
    TimedOut,
}

/// Slow and obvious: all that has happened, each rule checked against all of it.
#[derive(Default)]
struct Model {
    /// Number and generation of each fetch that has published itself.
    published: Vec<(u64, u64)>,
    /// Callers that fetch without sharing, having passed the slow start in time.
    in_slow_start: usize,
    /// Whether time has passed since the slow start opened.
    time_passed: bool,
}

struct World {
    table: Arc<Coalescer<Published>>,
    time: Arc<Time>,
    /// Invalidations so far: a fetch of an earlier generation is not joined.
    generation: AtomicU64,
    fetches: AtomicU64,
    model: Mutex<Model>,
}

impl World {
    fn is_invalidated(&self, generation: u64) -> bool {
        generation < self.generation.load(Ordering::SeqCst)
    }

    fn model<T>(&self, look: impl FnOnce(&mut Model) -> T) -> T {
        look(&mut self.model.lock().expect("not poisoned"))
    }
}

/// A caller with a script.
struct Scripted {
    world: Arc<World>,
    ending: Ending,
    has_stale: bool,
    /// Generation when it arrived: it must see nothing older.
    arrived_at: u64,
}

impl Scripted {
    /// Runs a fetch of its own to its end.
    async fn fetch(self, leader: Option<Leader<Published>>) -> Got {
        let number = self.world.fetches.fetch_add(1, Ordering::SeqCst);
        // Read after the caller became the leader, as late as the crate may read it.
        let generation = self.world.generation.load(Ordering::SeqCst);
        for _ in 0..shuttle::rand::thread_rng().gen_range(0..3) {
            yield_now().await;
        }
        match (self.ending, &leader) {
            (Ending::Hangs, _) => std::future::pending().await,
            (Ending::Shares, Some(leader)) => {
                self.world.model(|model| model.published.push((number, generation)));
                leader.publish(Published::Fetch(number));
            }
            (Ending::Private, Some(leader)) => leader.publish(Published::Private),
            _ => {}
        }
        yield_now().await;
        Got::Own(number)
    }
}

impl Caller for Scripted {
    type Progress = Published;
    type Output = Got;

    fn join(&self) -> Role<Published> {
        let generation = self.world.generation.load(Ordering::SeqCst);
        self.world.table.join_or_lead(&KEY, generation, |began| self.world.is_invalidated(began))
    }

    async fn share(self, progress: Published, _: &mut FetchDeadlines) -> Result<Got, (Self, NotShared)> {
        match progress {
            Published::Private => Err((self, NotShared::NotShareable(Reason::HitForMiss))),
            Published::Fetch(number) => {
                let published = self.world.model(|model| model.published.clone());
                let (_, generation) = published.iter().find(|(known, _)| *known == number).expect("it was published");
                // The reader's own check, as in the crate: what was invalidated since is not served.
                match *generation < self.arrived_at {
                    true => Err((self, NotShared::Outdated)),
                    false => Ok(Got::Shared(number)),
                }
            }
        }
    }

    fn stale(&self, _: Reason) -> Option<Got> {
        self.has_stale.then_some(Got::Stale)
    }

    async fn look_up(self) -> Result<Got, Self> {
        Err(self)
    }

    fn lead(self, leader: Leader<Published>, _: FetchDeadlines) -> impl Future<Output = Got> + Send {
        self.fetch(Some(leader))
    }

    async fn fetch_alone(self, reason: Reason, _: FetchDeadlines) -> Got {
        let world = self.world.clone();
        let _entered = (reason != Reason::HitForMiss).then(|| Entered::new(&world));
        let number = self.world.fetches.fetch_add(1, Ordering::SeqCst);
        yield_now().await;
        Got::Own(number)
    }

    fn time_out(self) -> Got {
        Got::TimedOut
    }
}

/// A fetch behind the slow start.
struct Entered(Arc<World>);

impl Entered {
    fn new(world: &Arc<World>) -> Self {
        world.model(|model| {
            model.in_slow_start += 1;
            // As long as no time has passed, no more than the first few are let through.
            assert!(model.time_passed || model.in_slow_start <= FIRST, "{} at once", model.in_slow_start);
        });
        Self(world.clone())
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.model(|model| model.in_slow_start -= 1);
    }
}

/// A caller arrives, joins, and gets an answer.
async fn call(world: Arc<World>, ending: Ending, has_stale: bool, hard: Option<Duration>) -> Got {
    let arrived_at = world.generation.load(Ordering::SeqCst);
    let caller = Scripted { world: world.clone(), ending, has_stale, arrived_at };
    let began = runtime_now();
    let deadlines = FetchDeadlines::new(&world.time, None, WAIT, hard);
    let got = match caller.join() {
        Role::Lead(leader) => caller.lead(leader, deadlines).await,
        Role::Wait(follower) => caller::follow(caller, follower, deadlines).await,
        Role::Alone(gate) => caller::go_alone(caller, gate, Reason::WaitedTooLong, deadlines).await,
    };
    match got {
        Got::Shared(number) => {
            let published = world.model(|model| model.published.clone());
            let (_, generation) = published.iter().find(|(known, _)| *known == number).expect("it was published");
            assert!(*generation >= arrived_at, "older than an invalidation before its caller came");
        }
        Got::TimedOut => assert!(hard.is_some_and(|hard| runtime_now() >= began + hard), "no deadline has passed"),
        Got::Stale => assert!(has_stale),
        Got::Own(_) => {}
    }
    got
}

fn case() {
    future::block_on(async {
        let world = Arc::new(World {
            table: Arc::default(),
            time: Arc::default(),
            generation: AtomicU64::new(1),
            fetches: AtomicU64::new(0),
            model: Mutex::default(),
        });
        let mut rng = shuttle::rand::thread_rng();
        let mut callers = Vec::new();
        let mut leaving = Vec::new();
        for _ in 0..CALLERS {
            let endings = [Ending::Shares, Ending::Shares, Ending::Private, Ending::Fails, Ending::Hangs];
            let ending = endings[rng.gen_range(0..endings.len())];
            let hard = rng.gen_bool(0.2).then_some(WAIT / 2);
            let task = future::spawn(call(world.clone(), ending, rng.gen_bool(0.3), hard));
            // A fetch that hangs ends with its client, and some clients leave in any case.
            if ending == Ending::Hangs || rng.gen_bool(0.15) { leaving.push(task) } else { callers.push(task) }
        }
        let clock = {
            let world = world.clone();
            future::spawn(async move {
                for _ in 0..8 {
                    yield_now().await;
                    world.model(|model| model.time_passed = true);
                    world.time.advance(WAIT / 3);
                }
            })
        };
        let writer = {
            let world = world.clone();
            future::spawn(async move {
                for _ in 0..2 {
                    yield_now().await;
                    world.generation.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        for task in callers {
            // Who stays gets an answer: the scheduler reports a deadlock otherwise.
            task.await.expect("no panic");
        }
        clock.await.expect("no panic");
        writer.await.expect("no panic");
        leaving.iter().for_each(|task| task.abort());
        for task in leaving {
            drop(task.await);
        }
        assert_eq!(world.table.count(), 0, "a fetch is left");
        world.time.advance(WAIT * 10);
        assert!(matches!(world.table.join_or_lead(&KEY, 9, |_| false), Role::Lead(_)), "the key is not free");
        assert_eq!(world.model(|model| model.in_slow_start), 0);
    });
}

#[test]
fn whatever_the_order_callers_get_answers_of_their_own_or_shared_ones_that_are_new_enough() {
    crate::explore(case);
}

/// Of those who arrive together exactly one leads, and all get its answer.
#[test]
fn callers_that_arrive_together_share_one_fetch() {
    crate::explore(|| {
        future::block_on(async {
            let table: Arc<Coalescer<u64>> = Arc::default();
            let leaders = Arc::new(AtomicU64::new(0));
            let tasks: Vec<_> = (0..4)
                .map(|number| {
                    let (table, leaders) = (table.clone(), leaders.clone());
                    future::spawn(async move {
                        match table.join_or_lead(&KEY, 0, |_| false) {
                            Role::Lead(leader) => {
                                leaders.fetch_add(1, Ordering::SeqCst);
                                yield_now().await;
                                leader.publish(number);
                                // Published progress outlives the leader.
                                drop(leader);
                                number
                            }
                            Role::Wait(follower) => follower.wait_for_progress().await.expect("it was published"),
                            Role::Alone(_) => panic!("nothing has failed"),
                        }
                    })
                })
                .collect();
            let mut answers = Vec::new();
            for task in tasks {
                answers.push(task.await.expect("no panic"));
            }
            answers.sort_unstable();
            answers.dedup();
            assert_eq!(answers.len() as u64, leaders.load(Ordering::SeqCst), "one answer for each fetch");
            assert_eq!(table.count(), 0);
        });
    });
}
