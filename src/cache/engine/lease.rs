//! [`Lease`] of a name in a store that processes share, and its [`LeaseState`].

use std::time::Duration;

/// Lease of a name, for which the other processes wait: `N` is a key, or the name of a value in a byte store.
///
/// ```
/// use std::time::Duration;
/// use tollgate::cache::{ByteStore, Lease, LeaseState};
/// use tollgate::testing::MemoryBytes;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
/// let (server, ttl) = (MemoryBytes::new(), Duration::from_secs(3));
/// let (mine, other) = (Lease::new("lease:7f".to_owned(), 1, ttl), Lease::new("lease:7f".to_owned(), 2, ttl));
/// assert_eq!(server.claim(mine.clone()).await?, LeaseState::Granted);
/// assert_eq!(server.claim(other.clone()).await?, LeaseState::Held);
/// server.release(mine, None).await?;
/// assert_eq!(server.claim(other).await?, LeaseState::Granted);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease<N> {
    /// Name of the lease.
    pub name: N,
    /// Tells the holders apart. A lease is released only with its own token, and granted to its holder again.
    pub token: u64,
    /// Time after which it ends, if it is not released before.
    pub ttl: Duration,
}

impl<N> Lease<N> {
    /// Creates a lease to ask for.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::cache::Lease;
    ///
    /// assert_eq!(Lease::new("lease:7f", 1, Duration::from_secs(3)).token, 1);
    /// ```
    #[must_use]
    pub const fn new(name: N, token: u64, ttl: Duration) -> Self {
        Self { name, token, ttl }
    }
}

/// Value, or the state of its lease.
///
/// ```
/// use tollgate::cache::{GetOrClaim, LeaseState};
///
/// let missing: GetOrClaim<u8> = GetOrClaim::Missing(Some(LeaseState::Granted));
/// assert_ne!(missing, GetOrClaim::Found(7));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "stores of users return exactly these two")]
pub enum GetOrClaim<T> {
    /// The value. The lease was not asked for.
    Found(T),
    /// There is no value. The state of the lease; `None` if it was not asked for.
    Missing(Option<LeaseState>),
}

impl<T> From<Option<T>> for GetOrClaim<T> {
    fn from(found: Option<T>) -> Self {
        found.map_or(Self::Missing(None), Self::Found)
    }
}

/// State of a [`Lease`] for the process that asks.
///
/// ```
/// use tollgate::cache::LeaseState;
///
/// assert_ne!(LeaseState::Granted, LeaseState::Held);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseState {
    /// This process fetches.
    Granted,
    /// Another process fetches.
    Held,
    /// The last holder found that there is nothing to share.
    Uncacheable,
}
