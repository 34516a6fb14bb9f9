//! Corrections by hand: what the upstream's own page says, and credits that were bought.

use super::Account;
use crate::base::error::Error;
use crate::upstream::quota::meter::PointInTime;

/// Correction of one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Correction {
    /// This many credits of the window are spent.
    Spent(u64),
    /// This many more may be spent until the window ends.
    Added(u64),
}

impl Account {
    /// Corrects the current window of this name.
    ///
    /// # Errors
    /// If no window of the calendar has this name, or a number exceeds its limit.
    pub(crate) fn correct(&mut self, window: &str, correction: Correction, point: PointInTime) -> Result<(), Error> {
        self.advance(point);
        let names: Vec<_> = self.calendars.iter().map(|calendar| calendar.credits.window()).collect();
        let Some(calendar) = self.calendars.iter_mut().find(|calendar| calendar.credits.window() == window) else {
            return Err(Error::config(format!("unknown window {window:?}; use one of {names:?}")));
        };
        let (Correction::Spent(number) | Correction::Added(number)) = correction;
        let limit = calendar.limit();
        if number > limit {
            return Err(Error::config(format!("{number} exceeds the limit of {limit} credits per {window}")));
        }
        match correction {
            Correction::Spent(spent) => {
                calendar.refund(calendar.spent().saturating_sub(spent));
                calendar.spend(spent.saturating_sub(calendar.spent()));
            }
            Correction::Added(credits) => calendar.refund(credits),
        }
        Ok(())
    }
}
