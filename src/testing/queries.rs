//! [`queries`]: asserts the number of queries of a request.

use std::fmt::Write;

use crate::timing::{FindingKind, Observed, QueryShare, Repeats, observe};

/// Runs `work`, usually one request, and counts its queries. These are those measured with
/// [`timed_query`](crate::timing::timed_query) and related functions, and those of sqlx if a
/// [`harvest`](https://docs.rs/tollgate/latest/tollgate/timing/) is installed. No timing layer is required; existing
/// ones count as usual.
///
/// Queries outside a request's context (a bare `tokio::spawn`) are not counted. SQLite may report the end of a query
/// late if its last row was not awaited, as with `fetch_one`; it is counted if the work lasts long enough.
///
/// ```
/// use tollgate::testing::queries;
/// use tollgate::timing::timed_query;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # async fn page() -> &'static str {
/// #     timed_query("SELECT id FROM authors", async {}).await;
/// #     timed_query("SELECT title FROM books WHERE author IN ($1, $2)", async {}).await;
/// #     "two books"
/// # }
/// let answer = queries(page()).await.at_most(3).no_n_plus_one().no_duplicates().into_inner();
/// assert_eq!(answer, "two books");
/// # }
/// ```
///
/// The message of a failed assertion shows the groups:
///
/// ```text
/// at max 3 queries query_noun expected, and 11 query_noun made:
///     10 × SELECT title FROM books WHERE author = ?   (together 1.2 ms, 10 rows, at src/books.rs:17:9)
///      1 × SELECT id FROM authors   (together 0.1 ms, 10 rows)
/// ```
pub async fn queries<F: Future>(work: F) -> Queries<F::Output> {
    let (output, observed) = observe(work, Repeats::new()).await;
    Queries { output, observed }
}

/// Queries of some work, and its result. Returned by [`queries`].
///
/// ```
/// use tollgate::testing::{Queries, queries};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let made: Queries<()> = queries(async {}).await;
/// assert_eq!(made.count(), 0);
/// # }
/// ```
#[must_use = "nothing is asserted yet"]
pub struct Queries<T> {
    output: T,
    observed: Observed,
}

impl<T> Queries<T> {
    /// Asserts that at most `max` queries were made.
    ///
    /// # Panics
    /// If there were more; the message lists them.
    ///
    /// # Examples
    /// ```
    /// use tollgate::testing::queries;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// queries(async {}).await.at_most(0);
    /// # }
    /// ```
    #[track_caller]
    #[expect(clippy::panic, reason = "documented: an assertion of a test")]
    pub fn at_most(self, max: u64) -> Self {
        let made = self.count();
        if made > max {
            panic!(
                "at most {max} {} expected, and {made} {} made:\n{}",
                query_noun(max),
                verb(made),
                self.format_groups(|_| true)
            );
        }
        self
    }

    /// Asserts that no query was made five times or more with different parameters (N+1).
    ///
    /// # Panics
    /// If one was; the message lists it.
    ///
    /// # Examples
    /// ```
    /// use tollgate::testing::queries;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// queries(async {}).await.no_n_plus_one();
    /// # }
    /// ```
    #[track_caller]
    pub fn no_n_plus_one(self) -> Self {
        self.none(FindingKind::NPlusOne, "N+1 queries in a loop; fetch all rows with one query")
    }

    /// Asserts that no query was repeated: the same query with the same key, or the same text without parameters.
    ///
    /// # Panics
    /// If one was; the message lists it.
    ///
    /// # Examples
    /// ```
    /// use tollgate::testing::queries;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// queries(async {}).await.no_duplicates();
    /// # }
    /// ```
    #[track_caller]
    pub fn no_duplicates(self) -> Self {
        self.none(FindingKind::DuplicateQueries, "duplicate queries; reuse the first result")
    }

    /// Asserts that no statement wrote rows five times or more.
    ///
    /// # Panics
    /// If one did; the message lists it.
    ///
    /// # Examples
    /// ```
    /// use tollgate::testing::queries;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// queries(async {}).await.no_unbatched_writes();
    /// # }
    /// ```
    #[track_caller]
    pub fn no_unbatched_writes(self) -> Self {
        self.none(FindingKind::UnbatchedWrites, "unbatched writes in a loop; write all rows with one statement")
    }

    #[track_caller]
    #[expect(clippy::panic, reason = "documented: an assertion of a test")]
    fn none(self, kind: FindingKind, why: &str) -> Self {
        let found = self.observed.found(kind);
        if !found.is_empty() {
            panic!("{why}:\n{}", self.format_groups(|group| found.contains(&group.name)));
        }
        self
    }

    /// Returns the number of queries. `BEGIN`, `COMMIT` and their like are none.
    ///
    /// ```
    /// use tollgate::testing::queries;
    /// use tollgate::timing::timed_query;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let made = queries(async { timed_query("SELECT 1", async {}).await }).await;
    /// assert_eq!(made.count(), 1);
    /// # }
    /// ```
    #[must_use]
    pub fn count(&self) -> u64 {
        self.observed.count()
    }

    /// Returns the queries by fingerprint or name, ordered by total duration.
    ///
    /// ```
    /// use tollgate::testing::queries;
    /// use tollgate::timing::timed_query;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let made = queries(async { timed_query("SELECT 1", async {}).await }).await;
    /// assert_eq!(made.groups().len(), 1);
    /// # }
    /// ```
    #[must_use]
    pub fn groups(&self) -> Vec<QueryShare> {
        self.observed.queries()
    }

    /// Returns the result of the work.
    ///
    /// ```
    /// use tollgate::testing::queries;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// assert_eq!(queries(async { 42 }).await.into_inner(), 42);
    /// # }
    /// ```
    pub fn into_inner(self) -> T {
        self.output
    }

    fn format_groups(&self, wanted: impl Fn(&QueryShare) -> bool) -> String {
        let mut text = String::new();
        for group in self.groups().into_iter().filter(wanted) {
            let total = group.total.as_secs_f64() * 1e3;
            let _ = write!(text, "{:>6} × {}   (together {total:.1} ms", group.count, group.name);
            if group.rows > 0 {
                let _ = write!(text, ", {} rows", group.rows);
            }
            if group.duplicates > 0 {
                let _ = write!(text, ", {} with the same parameters", group.duplicates + 1);
            }
            if let Some(at) = group.at {
                let _ = write!(text, ", at {at}");
            }
            text.push_str(")\n");
        }
        text
    }
}

impl<T> std::fmt::Debug for Queries<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queries").field("groups", &self.groups()).finish_non_exhaustive()
    }
}

const fn query_noun(n: u64) -> &'static str {
    if n == 1 { "query was" } else { "queries were" }
}

const fn verb(n: u64) -> &'static str {
    if n == 1 { "was" } else { "were" }
}
