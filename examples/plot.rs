//! Draws the plots of the documentation: `cargo run --example plot` rewrites `src/docs/budget.svg` and
//! `src/docs/algorithms.svg`, which shows the admissions of each algorithm over time.
//!
//! A client is silent for 50 seconds, then sends ten requests a second without pause. Every algorithm is set to 60 per
//! minute; the curves are the running totals of what it admits.
#![expect(clippy::print_stdout, reason = "an example says what it wrote")]

#[path = "plot/budget.rs"]
mod budget;

use std::fmt::Write;
use std::time::Duration;

use tollgate::Timestamp;
use tollgate::limit::{KeyState, Quota};

const START: u64 = 86_400;
const SECONDS: u64 = 180;
const SILENT: u64 = 50;
const PER_MINUTE: u32 = 60;

fn main() -> std::io::Result<()> {
    for (name, plot) in [("algorithms", draw()), ("budget", budget::draw())] {
        let path = format!("{}/src/docs/{name}.svg", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(&path, plot)?;
        println!("wrote {path}");
    }
    Ok(())
}

/// Draws the plot.
#[must_use]
pub fn draw() -> String {
    let quota = Quota::per_minute(PER_MINUTE);
    let curves = [
        ("fixed window (not offered): 120 in 16 seconds", "#b0b0b0", fixed_window()),
        ("bucket of 60: 60 at once, then one a second", "#d98e04", admitted(quota.bucket(60))),
        ("exact window (the default): never more than 60 in any minute", "#0b6e4f", admitted(quota)),
        ("bucket of 6: 6 at once, then one a second", "#2b59c3", admitted(quota.bucket(6))),
    ];
    let (width, height, left, bottom) = (860.0, 440.0, 52.0, 392.0);
    let x = |second: f64| left + (width - left - 16.0) * second / SECONDS as f64;
    let y = |total: f64| bottom - (bottom - 96.0) * total / 200.0;
    let mut svg = String::from("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 860 440\" width=\"860\" ");
    svg.push_str(
        "font-family=\"sans-serif\" font-size=\"13\" role=\"img\" aria-label=\"Requests admitted over time\">",
    );
    let _ = write!(svg, "<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>");
    for total in [0, 60, 120, 180] {
        let at = y(f64::from(total));
        let _ =
            write!(svg, "<path d=\"M{left} {at:.1}H844\" stroke=\"#e4e4e4\"/><text x=\"44\" y=\"{:.1}\" ", at + 4.0);
        let _ = write!(svg, "text-anchor=\"end\">{total}</text>");
    }
    for second in (0..=SECONDS).step_by(30) {
        let at = x(second as f64);
        let _ = write!(svg, "<text x=\"{at:.1}\" y=\"412\" text-anchor=\"middle\">{second} s</text>");
    }
    svg.push_str(
        "<text x=\"448\" y=\"434\" text-anchor=\"middle\">60 per minute; a client silent until second 50, then ",
    );
    svg.push_str("ten requests a second: running total admitted</text>");
    for (i, (name, colour, points)) in curves.iter().enumerate() {
        let mut line = String::new();
        // Only the points at which a line bends.
        let bends = points.iter().enumerate().filter(|(i, point)| {
            let around = i.checked_sub(1).and_then(|before| Some((points.get(before)?, points.get(i + 1)?)));
            around.is_none_or(|(before, after)| point.1 - before.1 != after.1 - point.1)
        });
        for (_, (second, total)) in bends {
            let _ = write!(
                line,
                "{}{:.1} {:.1}",
                if line.is_empty() { "M" } else { "L" },
                x(*second),
                y(f64::from(*total))
            );
        }
        let at = 20.0 + 18.0 * i as f64;
        let _ = write!(svg, "<path d=\"{line}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
        let _ = write!(svg, "<path d=\"M{left} {:.1}h24\" stroke=\"{colour}\" stroke-width=\"3\"/>", at - 4.0);
        let _ = write!(svg, "<text x=\"{}\" y=\"{at}\">{name}</text>", left + 32.0);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Returns the times of the requests, in tenths of a second.
fn requests() -> impl Iterator<Item = u64> {
    SILENT * 10..SECONDS * 10
}

/// Returns the admissions of a quota, as (second, total) after each change.
fn admitted(quota: Quota) -> Vec<(f64, u32)> {
    let (mut state, mut total, mut points) = (KeyState::new(quota), 0, vec![(0.0, 0), (SILENT as f64, 0)]);
    for tenth in requests() {
        let now = Timestamp::ZERO + Duration::from_secs(START) + Duration::from_millis(tenth * 100);
        total += u32::from(state.spend(quota, 1, now).admits());
        points.push((tenth as f64 / 10.0, total));
    }
    points
}

/// Returns the admissions of a counter per calendar minute.
fn fixed_window() -> Vec<(f64, u32)> {
    let (mut minute, mut used, mut total, mut points) = (0, 0, 0, vec![(0.0, 0), (SILENT as f64, 0)]);
    for tenth in requests() {
        if tenth / 600 != minute {
            (minute, used) = (tenth / 600, 0);
        }
        if used < PER_MINUTE {
            (used, total) = (used + 1, total + 1);
        }
        points.push((tenth as f64 / 10.0, total));
    }
    points
}
