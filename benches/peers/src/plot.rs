//! Two plots, as SVG: bars by table, lines by size. Both scales of time are logarithmic.

use std::fmt::Write as _;

pub struct Bar {
    pub name: &'static str,
    pub value: f64,
}

pub struct Line {
    pub name: &'static str,
    pub points: Vec<(u64, f64)>,
}

const OURS: &str = "#0b6e4f";
const THEIRS: &str = "#b9b9b9";
const WIDTH: f64 = 860.0;

/// Where this many nanoseconds lie on a scale of six decades.
fn along(nanos: f64, from: f64, width: f64) -> f64 {
    (nanos.max(from) / from).log10() / 5.0 * width
}

fn plain(name: &str) -> String {
    name.replace("**", "")
}

fn open(height: f64, label: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         font-family=\"sans-serif\" font-size=\"12\" role=\"img\" aria-label=\"{label}\"><rect width=\"{WIDTH}\" height=\"{height:.0}\" fill=\"white\"/>"
    )
}

/// What is added to the bare service, table by table.
pub fn bars(tables: &[(&'static str, Vec<Bar>)]) -> String {
    let rows: usize = tables.iter().map(|(_, bars)| bars.len()).sum();
    let height = 44.0 + rows as f64 * 17.0 + tables.len() as f64 * 26.0;
    let mut svg = open(height, "Nanoseconds added to the bare service, by table");
    let (left, width) = (290.0, WIDTH - 370.0);
    for decade in 1..=6 {
        let nanos = 10_f64.powi(decade);
        let x = left + along(nanos, 10.0, width);
        let label = ["10 ns", "100 ns", "1 µs", "10 µs", "100 µs", "1 ms"][decade as usize - 1];
        let _ = write!(
            svg,
            "<path d=\"M{x:.1} 20V{height:.0}\" stroke=\"#e8e8e8\"/><text x=\"{x:.1}\" y=\"14\" text-anchor=\"middle\" fill=\"#777\">{label}</text>"
        );
    }
    let mut y = 36.0;
    for (title, bars) in tables {
        let _ = write!(svg, "<text x=\"8\" y=\"{y:.0}\" font-weight=\"bold\">{title}</text>");
        y += 8.0;
        for bar in bars {
            let (long, ours) = (along(bar.value, 10.0, width).max(1.0), bar.name.starts_with("**"));
            let colour = if ours { OURS } else { THEIRS };
            let value = if bar.value < 10_000.0 {
                format!("{:.0} ns", bar.value)
            } else {
                format!("{:.1} µs", bar.value / 1_000.0)
            };
            let _ = write!(
                svg,
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text><rect x=\"{left}\" y=\"{y:.0}\" width=\"{long:.1}\" height=\"12\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{:.0}\" fill=\"#444\">{value}</text>",
                left - 8.0,
                y + 10.0,
                plain(bar.name),
                left + long + 5.0,
                y + 10.0
            );
            y += 17.0;
        }
        y += 18.0;
    }
    svg.push_str("</svg>\n");
    svg
}

/// What a decision or a hit costs, by how much is held.
pub fn lines(lines: &[Line]) -> String {
    let (height, left, bottom) = (420.0, 60.0, 380.0);
    let mut svg = open(height, "Nanoseconds by keys or entries held");
    let x = |size: u64| left + ((size as f64).log10() - 3.0) / 4.0 * (WIDTH - left - 250.0);
    let y = |nanos: f64| bottom - (nanos.max(10.0).log10() - 1.0) / 2.0 * (bottom - 30.0);
    for nanos in [10.0, 30.0, 100.0, 300.0, 1_000.0] {
        let at = y(nanos);
        let _ = write!(
            svg,
            "<path d=\"M{left} {at:.1}H{:.0}\" stroke=\"#e8e8e8\"/><text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#777\">{nanos} ns</text>",
            x(10_000_000),
            left - 6.0,
            at + 4.0
        );
    }
    for (decade, label) in (3..=7).zip(["1 k", "10 k", "100 k", "1 M", "10 M"]) {
        let at = x(10_u64.pow(decade));
        let _ = write!(
            svg,
            "<text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#777\">{label}</text>",
            bottom + 18.0
        );
    }
    let colours = ["#0b6e4f", "#2b59c3", "#b0b0b0", "#d98e04"];
    for (line, colour) in lines.iter().zip(colours) {
        let path: Vec<String> =
            line.points.iter().map(|(size, nanos)| format!("{:.1} {:.1}", x(*size), y(*nanos))).collect();
        let _ = write!(svg, "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", path.join("L"));
        if let Some((size, nanos)) = line.points.last() {
            let _ = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
                x(*size) + 8.0,
                y(*nanos) + 4.0,
                plain(line.name)
            );
        }
    }
    let _ = write!(
        svg,
        "<text x=\"{left}\" y=\"{:.0}\">keys or entries held; nanoseconds per decision, the clock included, or per hit</text></svg>\n",
        bottom + 36.0
    );
    svg
}
