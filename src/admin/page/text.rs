//! Writes text, numbers and times into HTML.

use std::fmt;
use std::time::{Duration, SystemTime};

pub(super) use crate::health::slo::span;

/// Text with what HTML would interpret escaped, in elements and in quoted attributes.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // Control characters, and those that turn the direction of text, are shown as such.
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\0'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}' => {
                    write!(f, "\\u{{{:x}}}", u32::from(character))?;
                }
                _ => write!(f, "{character}")?,
            }
        }
        Ok(())
    }
}

/// Formats a count with thin spaces between thousands: `12 345`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let first = digits.len() % 3;
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && at % 3 == first {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Formats a share: `97.5 %`, or a dash if it is unknown.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.1}\u{202f}%", share * 100.0))
}

/// Formats a size in bytes: `64 MiB`.
pub(super) fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1_024.0 {
            break;
        }
        (value, unit) = (value / 1_024.0, next);
    }
    match unit {
        "B" => format!("{bytes}\u{202f}B"),
        _ => format!("{value:.1}\u{202f}{unit}"),
    }
}

/// Formats an age: `3 min ago`.
pub(super) fn ago(age: Duration) -> String {
    if age.as_secs() == 0 { "now".to_owned() } else { format!("{} ago", span(age)) }
}

/// Time of day in UTC: `14:03:22`.
pub(super) fn time_of_day(wall: SystemTime) -> String {
    let seconds = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// A state by shape and word, as well as by colour.
pub(super) fn badge(state: &str) -> String {
    let (class, shape) = match state {
        "pass" | "met" | "up" | "on" | "excellent" | "good" | "fresh" | "closed" => ("good", "●"),
        "warn" | "shadow" | "fair" | "pending" | "stale" => ("warn", "▲"),
        "fail" | "missed" | "down" | "poor" | "open" | "invalidated" => ("bad", "■"),
        _ => ("idle", "○"),
    };
    format!("<span class=\"badge {class}\"><span aria-hidden=\"true\">{shape}</span> {}</span>", Escaped(state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_can_become_markup() {
        let shown = Escaped("<img src=x onerror=alert(1)> & \"'\u{202e}\0").to_string();
        assert_eq!(shown, "&lt;img src=x onerror=alert(1)&gt; &amp; &quot;&#39;\\u{202e}\\u{0}");
        assert!(badge("<b>").contains("&lt;b&gt;"));
    }

    #[test]
    fn numbers_have_units_and_groups() {
        assert_eq!([7, 999, 1_000, 1_234_567].map(count), ["7", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]);
        assert_eq!(
            [0, 1_023, 1_024, 64 << 20].map(size),
            ["0\u{202f}B", "1023\u{202f}B", "1.0\u{202f}KiB", "64.0\u{202f}MiB"]
        );
        assert_eq!((percent(None), percent(Some(0.975))), ("–".to_owned(), "97.5\u{202f}%".to_owned()));
        assert_eq!(time_of_day(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 + 3_723)), "01:02:03");
    }
}
