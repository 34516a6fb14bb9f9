//! Readers of one body: known and unknown lengths, bounds, errors, stalls, slow readers and readers that leave.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use shuttle::future::{self, yield_now};
use shuttle::rand::Rng;

use crate::base::error::BoxError;
use crate::body_memory::BodyMemory;
use crate::body_pump::BodyPumpStep;
use crate::tee::{ShareState, Tee, TeeProgress};

const CHUNK: usize = 100;

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Whole,
    Fails,
    /// Ends one chunk before its promised length.
    Short,
    /// Stops; the idle deadline passes.
    Stalls,
}

/// A body whose chunks arrive one by one.
struct Chunks {
    left: usize,
    next: u8,
    ending: Ending,
    waited: bool,
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.waited = !self.waited;
        if self.waited {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match (self.left, self.ending) {
            (0, Ending::Fails) => Poll::Ready(Some(Err("broken".into()))),
            (0, Ending::Stalls) => Poll::Pending,
            (0, _) => Poll::Ready(None),
            _ => {
                self.left -= 1;
                self.next += 1;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![self.next; CHUNK])))))
            }
        }
    }
}

/// What a reader got, and whether its body ended cleanly.
async fn read(
    mut body: impl Body<Data = Bytes, Error = BoxError> + Unpin,
    slow: bool,
    leaves: usize,
) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    for frame in 0.. {
        if slow {
            yield_now().await;
        }
        if frame == leaves {
            return (all, false);
        }
        match body.frame().await {
            None => return (all, true),
            Some(Err(_)) => return (all, false),
            Some(Ok(frame)) => all.extend_from_slice(frame.data_ref().expect("data")),
        }
    }
    unreachable!("a body ends")
}

fn case() {
    future::block_on(async {
        let mut rng = shuttle::rand::thread_rng();
        let chunks = rng.gen_range(0..4_usize);
        let ending = [Ending::Whole, Ending::Whole, Ending::Fails, Ending::Short, Ending::Stalls][rng.gen_range(0..5)];
        let promised = rng.gen_bool(0.5).then_some(((chunks + usize::from(ending == Ending::Short)) * CHUNK) as u64);
        let max_entry = if rng.gen_bool(0.3) { 150 } else { 10_000 };
        let memory = BodyMemory::new(if rng.gen_bool(0.2) { 1_300 } else { 100_000 });
        let whole: Vec<u8> = (1..=chunks as u8).flat_map(|chunk| vec![chunk; CHUNK]).collect();
        let Some(tee) = Tee::new(promised, &memory) else { return };
        let leader_leaves = rng.gen_bool(0.2);
        let leader = {
            let (body, slow) = (tee.leader(), rng.gen_bool(0.3));
            future::spawn(read(body, slow, if leader_leaves { 1 } else { usize::MAX }))
        };
        let followers: Vec<_> = (0..2)
            .map(|_| {
                let (tee, slow) = (tee.clone(), rng.gen_bool(0.5));
                future::spawn(async move {
                    match tee.until_shareable().await {
                        ShareState::Ready => Ok(read(tee.follower(None), slow, usize::MAX).await),
                        other => Err(other),
                    }
                })
            })
            .collect();
        let pump = {
            let (tee, memory) = (tee.clone(), memory.clone());
            future::spawn(async move {
                pump(&tee, &memory, max_entry, Chunks { left: chunks, next: 0, ending, waited: false }).await
            })
        };
        let step = pump.await.expect("no panic");
        // What was not shared is the leader's client's alone, and a stalled body stalls for it.
        let is_stuck = ending == Ending::Stalls && matches!(step, BodyPumpStep::TooLarge | BodyPumpStep::OutOfMemory);
        let leader_got = match is_stuck {
            true => {
                leader.abort();
                drop(leader.await);
                Default::default()
            }
            false => leader.await.expect("no panic"),
        };
        let is_whole = ending == Ending::Whole || (ending == Ending::Short && promised.is_none());
        if !leader_leaves && ending != Ending::Stalls {
            assert_eq!(leader_got.0, whole, "the leader's client gets all that came, in order: {ending:?} {step:?}");
            assert_eq!(leader_got.1, ending != Ending::Fails, "and its end as it was");
        }
        for follower in followers {
            match follower.await.expect("no panic") {
                Ok((bytes, clean)) => {
                    assert!(whole.starts_with(&bytes), "bytes in order, and no others");
                    // Whoever has the promised length has the whole, whatever follows.
                    let is_end = is_whole || promised == Some(bytes.len() as u64);
                    assert_eq!(clean, is_end && bytes == whole, "a clean end is the end: {ending:?} {promised:?}");
                    assert!(clean || ending != Ending::Whole || step != BodyPumpStep::Complete, "{step:?}");
                }
                Err(state) => assert!(step != BodyPumpStep::Complete || !is_whole, "{state:?} of {ending:?}, {step:?}"),
            }
        }
        drop(tee);
        assert_eq!(memory.used(), 0, "memory is left");
    });
}

/// Reads the body as the crate's pump does; a stall ends at the idle deadline.
async fn pump(tee: &Arc<Tee>, memory: &Arc<BodyMemory>, max_entry: u64, body: Chunks) -> BodyPumpStep {
    let ending = body.ending;
    let mut body: Option<crate::base::body::Stream> = Some(Box::pin(body));
    let mut polls = 0;
    let step = std::future::poll_fn(|cx| {
        let step = tee.poll_body(&mut body, max_entry, &mut false, cx);
        polls += 1;
        if step.is_pending() && ending == Ending::Stalls && polls > 10 {
            tee.set_progress(TeeProgress::Stalled);
            tee.set_progress(TeeProgress::Idle);
            return Poll::Ready(BodyPumpStep::Abandoned);
        }
        if step.is_pending() {
            cx.waker().wake_by_ref();
        }
        step
    })
    .await;
    if step == BodyPumpStep::Complete {
        let (stored, length) = tee.stored_body(memory);
        assert_eq!(stored.bytes.len() as u64, length);
    }
    tee.abort();
    step
}

#[test]
fn whatever_the_order_readers_get_the_body_in_order_and_only_whole_ones_end_cleanly() {
    crate::explore(case);
}
