//! [`queries`]: how many queries a request makes, as an assertion.

use std::fmt::Write;

use crate::timing::{FindingKind, Observed, QueryShare, Repeats, observe};

/// Runs `work`, usually one request, and counts the queries it makes: those measured with
/// [`timed_query`](crate::timing::timed_query) and its kin, and those of sqlx where a
/// [`harvest`](https://docs.rs/tollgate/latest/tollgate/timing/) is installed. No timing layer is needed; those that
/// are
/// there count as ever.
///
/// What belongs to no request (a bare `tokio::spawn`) is not seen. SQLite may say a moment later that a query has ended
/// whose last row nobody waited for, as with `fetch_one`; it is counted where the work goes on so long.
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
/// Where an assertion fails, its message shows the groups:
///
/// ```text
/// at most 3 queries were expected, and 11 were made:
///     10 × SELECT title FROM books WHERE author = ?   (together 1.2 ms, 10 rows, at src/books.rs:17:9)
///      1 × SELECT id FROM authors   (together 0.1 ms, 10 rows)
/// ```
pub async fn queries<F: Future>(work: F) -> Queries<F::Output> {
    let (output, observed) = observe(work, Repeats::new()).await;
    Queries { output, observed }
}

/// The queries of some work, and its result. Made by [`queries`].
#[must_use = "nothing is asserted yet"]
pub struct Queries<T> {
    output: T,
    observed: Observed,
}

impl<T> Queries<T> {
    /// Asserts that there were no more queries than that.
    ///
    /// # Panics
    /// Where there were more; the message shows them.
    #[track_caller]
    #[expect(clippy::panic, reason = "documented: an assertion of a test")]
    pub fn at_most(self, most: u64) -> Self {
        let made = self.count();
        if made > most {
            panic!("at most {most} {} expected, and {made} {} made:\n{}", were(most), was(made), self.shown(|_| true));
        }
        self
    }

    /// Asserts that no query was made five times or more for different things.
    ///
    /// # Panics
    /// Where one was; the message shows it.
    #[track_caller]
    pub fn no_n_plus_one(self) -> Self {
        self.none(FindingKind::NPlusOne, "a loop makes one query for each row (N+1); ask once for all of them")
    }

    /// Asserts that nothing was asked twice: the same query with the same key, or the same text without parameters.
    ///
    /// # Panics
    /// Where something was; the message shows it.
    #[track_caller]
    pub fn no_duplicates(self) -> Self {
        self.none(FindingKind::DuplicateQueries, "the same thing is asked more than once; keep the first answer")
    }

    #[track_caller]
    #[expect(clippy::panic, reason = "documented: an assertion of a test")]
    fn none(self, kind: FindingKind, why: &str) -> Self {
        let found = self.observed.found(kind);
        if !found.is_empty() {
            panic!("{why}:\n{}", self.shown(|group| found.contains(&group.name)));
        }
        self
    }

    /// How many queries there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.groups().iter().map(|group| group.count).sum()
    }

    /// The queries by fingerprint or name, those first that took longest together.
    #[must_use]
    pub fn groups(&self) -> Vec<QueryShare> {
        self.observed.queries()
    }

    /// Returns the result of the work.
    pub fn into_inner(self) -> T {
        self.output
    }

    fn shown(&self, wanted: impl Fn(&QueryShare) -> bool) -> String {
        let mut text = String::new();
        for group in self.groups().into_iter().filter(wanted) {
            let total = group.total.as_secs_f64() * 1e3;
            let _ = write!(text, "{:>6} × {}   (together {total:.1} ms", group.count, group.name);
            if group.rows > 0 {
                let _ = write!(text, ", {} rows", group.rows);
            }
            if group.duplicates > 0 {
                let _ = write!(text, ", {} for the same thing", group.duplicates + 1);
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

const fn were(n: u64) -> &'static str {
    if n == 1 { "query was" } else { "queries were" }
}

const fn was(n: u64) -> &'static str {
    if n == 1 { "was" } else { "were" }
}
