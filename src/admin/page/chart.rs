//! Charts of the last sixty minutes, as SVG without style: honest axes from zero, a line for each quarter of an hour, and a mark
//! where something happened.

use std::fmt::Write;
use std::time::Duration;

use super::text::{Escaped, ago, count};
use crate::gate::health::RecentMinutes;
use crate::health::timeline::{Mark, Point};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 112.0;
/// Space for the labels of the axes.
const LEFT: f64 = 66.0;
const BOTTOM: f64 = 20.0;
const TOP: f64 = 14.0;
const STEP: f64 = (WIDTH - LEFT) / 60.0;

/// Series of a stacked chart: class of its colour, and its value in a minute.
pub(super) type Series = (&'static str, fn(&Point) -> u64);

/// Writes the stacked counts of each minute.
pub(super) fn stacked(minutes: &RecentMinutes, label: &str, series: &[Series]) -> String {
    let total = |point: &Point| series.iter().map(|(_, value)| value(point)).sum::<u64>();
    let top = nice(minutes.points.iter().map(total).max().unwrap_or(0));
    let mut svg = frame(label, &count(top), &count(top / 2), &minutes.marks);
    for (at, point) in minutes.points.iter().enumerate() {
        let mut base = TOP + HEIGHT;
        for (class, value) in series {
            let height = HEIGHT * value(point) as f64 / top as f64;
            if height > 0.0 {
                base -= height;
                let x = LEFT + at as f64 * STEP + 1.0;
                let _ = write!(
                    svg,
                    "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{base:.2}\" width=\"{:.1}\" height=\"{height:.2}\"/>",
                    STEP - 2.0
                );
            }
        }
    }
    svg.push_str("</svg>");
    svg
}

/// Writes a line of durations, with that of the target.
pub(super) fn durations(
    minutes: &RecentMinutes,
    label: &str,
    target: Duration,
    value: fn(&Point) -> Duration,
) -> String {
    let millis = |span: Duration| span.as_secs_f64() * 1e3;
    let most = minutes.points.iter().map(value).max().unwrap_or_default().max(target);
    let top = nice(millis(most).ceil() as u64);
    let mut svg = frame(label, &format!("{} ms", count(top)), &format!("{} ms", count(top / 2)), &minutes.marks);
    let y = |span: Duration| TOP + HEIGHT * (1.0 - millis(span) / top as f64);
    let _ = write!(svg, "<line class=\"target\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>", y(target));
    let mut path = String::new();
    let mut is_gap = true;
    for (at, point) in minutes.points.iter().enumerate() {
        if point.counts.requests == 0 {
            is_gap = true;
            continue;
        }
        let x = LEFT + (at as f64 + 0.5) * STEP;
        let _ = write!(path, "{}{x:.1} {:.1}", if is_gap { "M" } else { "L" }, y(value(point)));
        if is_gap {
            // A single minute is a dot.
            let _ = write!(path, "l0.1 0");
        }
        is_gap = false;
    }
    let _ = write!(svg, "<path class=\"line\" d=\"{path}\"/></svg>");
    svg
}

/// Writes axes, labels and marks.
fn frame(label: &str, top: &str, middle: &str, marks: &[(Duration, Mark)]) -> String {
    let (width, height) = (WIDTH, TOP + HEIGHT + BOTTOM);
    let mut svg = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">",
        Escaped(label)
    );
    for (share, text) in [(0.0, top), (0.5, middle), (1.0, "0")] {
        let y = TOP + HEIGHT * share;
        let _ = write!(svg, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y}\" y2=\"{y}\"/>");
        let _ = write!(
            svg,
            "<text class=\"axis\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{text}</text>",
            LEFT - 6.0,
            y + 4.0
        );
    }
    for quarter in 0..=4 {
        let x = LEFT + f64::from(quarter) * 15.0 * STEP;
        let (anchor, text) = match quarter {
            0 => ("start", "60 min ago".to_owned()),
            4 => ("end", "now".to_owned()),
            _ => ("middle", format!("{}", 60 - 15 * quarter)),
        };
        let _ = write!(
            svg,
            "<text class=\"axis\" x=\"{x}\" y=\"{}\" text-anchor=\"{anchor}\">{text}</text>",
            TOP + HEIGHT + 15.0
        );
    }
    for (age, mark) in marks.iter().filter(|(age, _)| age.as_secs() < 3_600) {
        let x = LEFT + (60.0 - age.as_secs_f64() / 60.0) * STEP - STEP / 2.0;
        let x = x.clamp(LEFT, WIDTH - 4.0);
        let _ = write!(
            svg,
            "<path class=\"mark\" d=\"M{x:.1} {0} l4 -8 l-8 0 z\"><title>{1}, {2}</title></path>",
            TOP,
            Escaped(&mark.text),
            ago(*age)
        );
    }
    svg
}

/// Returns the next number that ends an axis well: 2, 4, 10, 20, 40, 100, …
fn nice(most: u64) -> u64 {
    let mut end = 2_u64;
    loop {
        for factor in [1, 2, 5] {
            if most <= end.saturating_mul(factor) {
                return end.saturating_mul(factor);
            }
        }
        end = end.saturating_mul(10);
        if end == u64::MAX {
            return end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_that_have_a_half() {
        let ends = [0, 1, 2, 3, 4, 7, 10, 11, 20, 99, 101, 5_000].map(nice);
        assert_eq!(ends, [2, 2, 2, 4, 4, 10, 10, 20, 20, 100, 200, 10_000]);
        assert_eq!(nice(u64::MAX), u64::MAX);
    }
}
