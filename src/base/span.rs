//! Durations as people write them: `90s`, `15m`, `2h`, `7d`.

use std::time::Duration;

use crate::base::error::Error;

/// Reads a duration: a whole number and `ms`, `s`, `m`, `h` or `d`.
///
/// # Errors
/// If the text has another form, or the duration is zero.
pub(crate) fn parse_span(text: &str) -> Result<Duration, Error> {
    let wrong = || Error::config(format!("invalid duration {text:?}; write it like 500ms, 90s, 15m, 2h or 7d"));
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(millis).filter(|span| *span > 0).map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let read = |text| parse_span(text).expect(text).as_millis();
        assert_eq!(["500ms", "90s", "15m", "2h", "7d"].map(read), [500, 90_000, 900_000, 7_200_000, 604_800_000]);
        for text in ["", "5", "h", "1.5h", "0s", "-1h", "99999999999999999999d", "5µ", "5 m"] {
            assert!(parse_span(text).is_err(), "{text}");
        }
    }
}
