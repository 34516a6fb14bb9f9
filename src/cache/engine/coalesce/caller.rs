//! [`Caller`]: what coalescing has to know of a fetch; [`follow`] and [`go_alone`]: what becomes of those who do not lead.

use std::future::Future;
use std::sync::Arc;

use super::deadlines::{FetchDeadlines, PassedDeadline};
use super::slow_start::SlowStart;
use super::table::{Follower, Leader, Role};
use crate::cache::http::reason::Reason;

/// Why a fetch does not answer a follower.
pub(crate) enum NotShared {
    /// The fetch is outdated: the follower shares a new one.
    Outdated,
    /// The follower coalesces by another key from now on.
    OtherKey,
    /// It is not for this follower, which fetches at once.
    NotShareable(Reason),
    /// The fetch failed, or its body takes longer than usual.
    Failed(Reason),
    /// The follower has waited as long as it may.
    WaitedTooLong,
}

/// A caller that missed: a request, or a load of a typed value.
pub(crate) trait Caller: Send + Sized {
    /// Outcome that a leader publishes.
    type Progress: Clone + Send;
    type Output: Send;

    /// Joins the fetch under way for the caller's key, or begins one.
    fn join(&self) -> Role<Self::Progress>;

    /// Uses what another caller's fetch has published.
    fn share(
        self,
        progress: Self::Progress,
        deadlines: &mut FetchDeadlines,
    ) -> impl Future<Output = Result<Self::Output, (Self, NotShared)>> + Send;

    /// Returns the stale answer in place of a fetch that failed or is late, if allowed.
    fn stale(&self, reason: Reason) -> Option<Self::Output>;

    /// Looks up once more, after a wait.
    fn look_up(self) -> impl Future<Output = Result<Self::Output, Self>> + Send;

    /// Fetches for itself and its followers.
    fn lead(
        self,
        leader: Leader<Self::Progress>,
        deadlines: FetchDeadlines,
    ) -> impl Future<Output = Self::Output> + Send;

    /// Fetches for itself only.
    fn fetch_alone(self, reason: Reason, deadlines: FetchDeadlines) -> impl Future<Output = Self::Output> + Send;

    /// Returns the answer after the hard timeout.
    fn time_out(self) -> Self::Output;
}

/// Follows a fetch, or leads the next one.
pub(crate) async fn follow<C: Caller>(
    mut caller: C,
    mut follower: Follower<C::Progress>,
    mut deadlines: FetchDeadlines,
) -> C::Output {
    loop {
        let why = match deadlines.following(follower.wait_for_progress()).await {
            Ok(Some(progress)) => match caller.share(progress, &mut deadlines).await {
                Ok(answer) => return answer,
                Err((back, why)) => {
                    caller = back;
                    why
                }
            },
            // Dropped without progress: an error or a panic.
            Ok(None) => NotShared::Failed(Reason::FetchFailed),
            Err(PassedDeadline::Wait) => NotShared::WaitedTooLong,
            Err(PassedDeadline::Hard) => return caller.time_out(),
            Err(PassedDeadline::Soft) => match caller.stale(Reason::SoftTimeout) {
                Some(answer) => return answer,
                None => continue,
            },
        };
        let failed = match why {
            NotShared::NotShareable(reason) => return caller.fetch_alone(reason, deadlines).await,
            NotShared::Failed(reason) => Some((reason, follower.slow_start())),
            NotShared::WaitedTooLong => Some((Reason::WaitedTooLong, follower.give_up())),
            NotShared::OtherKey => None,
            NotShared::Outdated => {
                follower.remove();
                None
            }
        };
        if let Some((reason, gate)) = failed {
            return match caller.stale(reason) {
                Some(answer) => answer,
                None => go_alone(caller, gate, reason, deadlines).await,
            };
        }
        follower = match caller.join() {
            Role::Lead(leader) => return caller.lead(leader, deadlines).await,
            Role::Wait(next) => next,
            Role::Alone(gate) => return go_alone(caller, gate, Reason::WaitedTooLong, deadlines).await,
        };
    }
}

/// Passes the slow start, looks up once more, and fetches without sharing.
pub(crate) async fn go_alone<C: Caller>(
    caller: C,
    gate: Arc<SlowStart>,
    reason: Reason,
    mut deadlines: FetchDeadlines,
) -> C::Output {
    let Ok(permit) = deadlines.slow_start(&gate).await else { return caller.time_out() };
    let answer = match caller.look_up().await {
        Ok(answer) => answer,
        Err(caller) => caller.fetch_alone(reason, deadlines).await,
    };
    drop(permit);
    answer
}
