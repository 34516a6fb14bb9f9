//! [`Missed`]: treatment of times at which no process ran a job.

/// Treatment of times at which a job was due and no process ran it: all were down, or it was still running.
///
/// ```
/// use tollgate::Missed;
///
/// assert_eq!(Missed::default(), Missed::Skip);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missed {
    /// They are left out, except one of the last minute.
    #[default]
    Skip,
    /// One run makes up for all of them.
    Once,
    /// Each is made up for, one after the other; at most the last hundred.
    All,
}
