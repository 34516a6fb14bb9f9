//! Spending of a budget over its window, with and without the policy, by demand.
//!
//! Each curve is the share spent so far. `demand` is the ratio of the spending of entries with unchanged lifetimes to
//! the budget; entries may be served stale, so that nothing is refreshed once the reserve is reached.

use std::fmt::Write;

use tollgate::BudgetPolicy;

const STEPS: u32 = 20_000;
const DEMANDS: [(f64, &str); 4] = [(0.5, "#2b59c3"), (1.0, "#0b6e4f"), (2.0, "#d98e04"), (5.0, "#b3261e")];

/// Draws the plot.
#[must_use]
pub(crate) fn draw() -> String {
    let (width, height, left, right, bottom, top) = (860.0, 440.0, 64.0, 820.0, 372.0, 60.0);
    let x = |share: f64| left + (right - left) * share;
    let y = |share: f64| bottom - (bottom - top) * share;
    let mut svg = String::from("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 860 440\" width=\"860\" ");
    svg.push_str(
        "font-family=\"sans-serif\" font-size=\"13\" role=\"img\" aria-label=\"Budget spent over its window\">",
    );
    let _ = write!(svg, "<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>");
    for percent in [0, 25, 50, 75, 90, 100] {
        let at = y(f64::from(percent) / 100.0);
        let _ = write!(svg, "<path d=\"M{left} {at:.1}H{right}\" stroke=\"#e4e4e4\"/>");
        let _ = write!(svg, "<text x=\"56\" y=\"{:.1}\" text-anchor=\"end\">{percent} %</text>", at + 4.0);
    }
    for percent in [0, 25, 50, 75, 100] {
        let at = x(f64::from(percent) / 100.0);
        let _ = write!(svg, "<text x=\"{at:.1}\" y=\"392\" text-anchor=\"middle\">{percent} %</text>");
    }
    svg.push_str("<text x=\"442\" y=\"414\" text-anchor=\"middle\">of the window is over; spent of the budget</text>");
    svg.push_str("<text x=\"442\" y=\"432\" text-anchor=\"middle\" fill=\"#606060\">");
    svg.push_str(
        "solid: lives stretched, stale entries served on the last tenth; dashed: without, until nothing is left</text>",
    );
    for (i, (demand, colour)) in (0_u32..).zip(DEMANDS) {
        for (effect, dash) in [(false, " stroke-dasharray=\"5 5\" opacity=\"0.6\""), (true, "")] {
            let mut line = String::new();
            for (time, spent) in spend(demand, effect) {
                let _ = write!(line, "{}{:.1} {:.1}", if line.is_empty() { "M" } else { "L" }, x(time), y(spent));
            }
            let _ = write!(svg, "<path d=\"{line}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>");
        }
        let at = left + 24.0 + 190.0 * f64::from(i);
        let _ = write!(svg, "<path d=\"M{at} 28h24\" stroke=\"{colour}\" stroke-width=\"3\"/>");
        let _ = write!(svg, "<text x=\"{}\" y=\"32\">demand {demand}× the budget</text>", at + 32.0);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Returns the spent share at each share of the window, at most two hundred points.
fn spend(demand: f64, thrifty: bool) -> Vec<(f64, f64)> {
    let policy = BudgetPolicy::default();
    let (mut spent, mut points) = (0.0_f64, vec![(0.0, 0.0)]);
    for step in 0..STEPS {
        let over = f64::from(step) / f64::from(STEPS);
        // Compensates rounding, so that an even pace stays even.
        let effect = policy.effect(1.0 - spent + 1e-9, 1.0 - over);
        let pace = match thrifty {
            true if effect.prefer_stale => 0.0,
            true => demand / effect.stretch,
            false => demand,
        };
        spent = (spent + pace / f64::from(STEPS)).min(1.0);
        if (step + 1) % (STEPS / 200) == 0 {
            points.push((f64::from(step + 1) / f64::from(STEPS), spent));
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plot_in_the_documentation_is_the_one_that_is_drawn() {
        assert!(draw() == include_str!("../../src/docs/budget.svg"), "run: cargo run --example plot");
    }

    #[test]
    fn no_demand_spends_it_before_the_end_and_little_demand_is_not_held_back() {
        let end = |demand| spend(demand, true).last().map(|(_, spent)| *spent).expect("a point");
        assert!((end(0.5) - 0.5).abs() < 1e-3 && end(1.0) > 0.99);
        for demand in [2.0, 5.0, 20.0] {
            // The reserve is kept until the remaining share of the window is at most the remaining share of the
            // budget.
            let kept = spend(demand, true).into_iter().all(|(over, spent)| spent <= over.max(0.9) + 0.001);
            assert!(kept && end(demand) > 0.98, "{demand}: {}", end(demand));
        }
        let emptied = spend(5.0, false).into_iter().find(|(_, spent)| *spent >= 1.0).expect("emptied");
        assert!((emptied.0 - 0.2).abs() < 0.01, "without the policy it is spent after a fifth of the window");
    }
}
