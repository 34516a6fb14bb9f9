//! [`Run`]: one of several equal parts that follow each other is enough.
//!
//! `a = ? OR a = ? OR a = ?` has as many parts as the program had values; so have the arms of a `CASE`, a list of
//! arguments, a batch of statements.

/// Separator of two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Separator {
    Comma,
    Or,
    And,
    When,
    SetOperator,
    Semicolon,
}

/// The part that is being written, and the one before it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    /// Where the part begins.
    start: usize,
    previous: (usize, usize),
    by: Option<Separator>,
}

impl Run {
    /// Begins anew at the end of `out`.
    pub(super) fn restart(&mut self, out: &str) {
        *self = Self { start: out.len(), ..Self::default() };
    }

    /// Ends the part before a separator that is written next.
    pub(super) fn separate(&mut self, out: &mut String, by: Separator) {
        self.close(out);
        self.previous = (self.start.min(out.len()), out.len());
        self.by = Some(by);
    }

    /// Begins the part after the separator.
    pub(super) fn open(&mut self, out: &str) {
        self.start = out.len();
    }

    /// Ends the part; removes it if it repeats the one before. Parts without values are names, which are kept.
    pub(super) fn close(&mut self, out: &mut String) {
        let (from, to) = self.previous;
        let parts = self.by.take().and_then(|_| out.get(from..to).zip(out.get(self.start..)));
        let Some((before, part)) = parts else { return };
        if before.trim_start() == part.trim_start() && part.contains('?') {
            out.truncate(to);
            self.start = from;
        }
    }

    /// Joins the part to the one before, without the separator.
    pub(super) fn rejoin(&mut self) {
        (self.start, self.by) = (self.previous.0, None);
    }
}
