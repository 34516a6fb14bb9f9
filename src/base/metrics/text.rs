//! [`TextPage`]: metrics as text, in Prometheus's format 0.0.4 or as OpenMetrics 1.0.
//!
//! | | Prometheus 0.0.4 | OpenMetrics 1.0 |
//! |---|---|---|
//! | a counter's family | `name_total` | `name`; its sample is `name_total` |
//! | unit | – | `# UNIT`, if the name ends in the unit |
//! | bounds | `le="1"` | `le="1.0"` |
//! | end | – | `# EOF` |
//!
//! Values arrive by room, and a family is one block of the page: each family has a buffer of its own, and the buffers are
//! joined at the end. A family has at most [`MAX_SERIES`] series; the values of further ones are added up in one whose
//! labels are all `other`.

use std::fmt::Write;
use std::time::Duration;

use super::bounds::Bounds;
use super::duration_counts::BucketCounts;
use super::family::{FAMILIES, Family, Kind, Metric};
use super::samples::Samples;

/// Maximum number of series of a family with labels of their own.
pub(crate) const MAX_SERIES: usize = 2_048;
/// Label value of the series beyond.
const OTHER: &str = "other";

/// Format of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextFormat {
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/>
    Prometheus,
    /// <https://prometheus.io/docs/specs/om/open_metrics_spec/>
    OpenMetrics,
}

impl TextFormat {
    /// Chooses by the values of `Accept`: OpenMetrics for a client that names version 1.0.0 or none, unless it prefers
    /// `text/plain`.
    pub(crate) fn accepted<'a>(accept: impl Iterator<Item = &'a str>) -> Self {
        let (mut open, mut plain) = (0_u16, 0_u16);
        for range in accept.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let (mut weight, mut known) = (1_000, true);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match (name.trim(), value.trim().trim_matches('"')) {
                    ("q", value) => weight = weight_of(value),
                    ("version", value) => known = matches!(value, "1.0.0" | "0.0.4"),
                    _ => {}
                }
            }
            if kind.eq_ignore_ascii_case("application/openmetrics-text") && known {
                open = open.max(weight);
            } else if kind.eq_ignore_ascii_case("text/plain") {
                plain = plain.max(weight);
            }
        }
        if open > 0 && open >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// Returns the value of `Content-Type`.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Returns a weight in thousandths (RFC 9110 §12.4.2); 0 if malformed.
fn weight_of(text: &str) -> u16 {
    let weight = text.parse::<f64>().unwrap_or_default();
    (weight.clamp(0.0, 1.0) * 1_000.0) as u16
}

/// Page under construction.
pub(crate) struct TextPage {
    format: TextFormat,
    blocks: Vec<Block>,
    /// Labels of the current series.
    labels: String,
}

/// The samples of one family.
#[derive(Clone, Default)]
struct Block {
    text: String,
    series: usize,
    /// Values beyond [`MAX_SERIES`].
    other: Option<OtherSeries>,
}

/// Sum of the series beyond the bound.
#[derive(Clone)]
enum OtherSeries {
    Value(f64),
    Durations(Bounds, BucketCounts),
}

impl TextPage {
    pub(crate) fn new(format: TextFormat) -> Self {
        Self { format, blocks: vec![Block::default(); FAMILIES.len()], labels: String::with_capacity(256) }
    }

    /// Returns the page: every family that has a value.
    pub(crate) fn finish(mut self) -> String {
        for (at, family) in FAMILIES.iter().enumerate() {
            if let Some(other) = self.blocks[at].other.take() {
                self.write_other(family, other);
            }
        }
        let length: usize = self.blocks.iter().map(|block| block.text.len() + 200).sum();
        let mut page = String::with_capacity(length);
        for (family, block) in FAMILIES.iter().zip(&self.blocks).filter(|(_, block)| !block.text.is_empty()) {
            self.describe(&mut page, family);
            page.push_str(&block.text);
        }
        if self.format == TextFormat::OpenMetrics {
            page.push_str("# EOF\n");
        }
        page
    }

    fn describe(&self, page: &mut String, family: &Family) {
        let name = if self.format == TextFormat::OpenMetrics { family.base_name() } else { family.name };
        // Writing to a `String` cannot fail.
        let _ = writeln!(page, "# HELP {name} {}\n# TYPE {name} {}", family.help, family.kind.as_str());
        if self.format == TextFormat::OpenMetrics && family.is_named_by_unit() {
            let _ = writeln!(page, "# UNIT {name} {}", family.unit);
        }
    }

    fn write_other(&mut self, family: &Family, other: OtherSeries) {
        let labels = vec![OTHER; family.labels.len()];
        self.write_labels(family, &labels);
        match other {
            OtherSeries::Value(value) => self.write_value(family, value),
            OtherSeries::Durations(bounds, counts) => self.write_durations(family, &bounds, &counts),
        }
    }

    /// Writes the labels of the next series; returns whether it may have them.
    fn begin(&mut self, metric: Metric, labels: &[&str]) -> bool {
        let block = &mut self.blocks[metric as usize];
        block.series += 1;
        if block.series > MAX_SERIES {
            return false;
        }
        self.write_labels(metric.family(), labels);
        true
    }

    fn write_labels(&mut self, family: &Family, values: &[&str]) {
        self.labels.clear();
        for (label, value) in family.labels.iter().zip(values).filter(|(_, value)| !value.is_empty()) {
            if !self.labels.is_empty() {
                self.labels.push(',');
            }
            self.labels.push_str(label.name);
            self.labels.push_str("=\"");
            escape(&mut self.labels, value);
            self.labels.push('"');
        }
    }

    fn write_name(&mut self, family: &Family, suffix: &str) -> &mut String {
        let text = &mut self.blocks[family.metric as usize].text;
        text.push_str(family.name);
        text.push_str(suffix);
        if !self.labels.is_empty() {
            text.push('{');
            text.push_str(&self.labels);
            text.push('}');
        }
        text.push(' ');
        text
    }

    fn write_value(&mut self, family: &Family, value: f64) {
        let text = self.write_name(family, "");
        let _ = writeln!(text, "{value}");
    }

    fn write_durations(&mut self, family: &Family, bounds: &Bounds, counts: &BucketCounts) {
        let open = self.format == TextFormat::OpenMetrics;
        let text = &mut self.blocks[family.metric as usize].text;
        // The part of a line before the bound is written once, then copied.
        let start = text.len();
        text.push_str(family.name);
        text.push_str("_bucket{");
        text.push_str(&self.labels);
        text.push_str(if self.labels.is_empty() { "le=\"" } else { ",le=\"" });
        let prefix = start..text.len();
        let mut sum = 0;
        let les = bounds.iter().map(|bound| &*bound.le).chain(["+Inf"]);
        for (at, (le, count)) in les.zip(&counts.buckets).enumerate() {
            sum += count;
            if at > 0 {
                text.extend_from_within(prefix.clone());
            }
            text.push_str(le);
            if open && at < counts.buckets.len() - 1 && !le.contains('.') {
                text.push_str(".0");
            }
            text.push_str("\"} ");
            push_whole(text, sum);
            text.push('\n');
        }
        let text = self.write_name(family, "_sum");
        let _ = writeln!(text, "{}", Duration::from_nanos(counts.sum).as_secs_f64());
        let text = self.write_name(family, "_count");
        push_whole(text, sum);
        text.push('\n');
    }
}

impl Samples for TextPage {
    fn whole(&mut self, metric: Metric, labels: &[&str], value: u64) {
        if self.begin(metric, labels) {
            let text = self.write_name(metric.family(), "");
            push_whole(text, value);
            text.push('\n');
        } else {
            self.blocks[metric as usize].add(value as f64);
        }
    }

    fn fraction(&mut self, metric: Metric, labels: &[&str], value: f64) {
        if self.begin(metric, labels) {
            self.write_value(metric.family(), value);
        } else {
            self.blocks[metric as usize].add(value);
        }
    }

    fn durations(&mut self, metric: Metric, labels: &[&str], bounds: &Bounds, counts: &BucketCounts) {
        debug_assert_eq!(metric.family().kind, Kind::Histogram);
        if self.begin(metric, labels) {
            self.write_durations(metric.family(), bounds, counts);
        } else {
            self.blocks[metric as usize].merge(bounds, counts);
        }
    }
}

impl Block {
    fn add(&mut self, value: f64) {
        match &mut self.other {
            Some(OtherSeries::Value(sum)) => *sum += value,
            _ => self.other = Some(OtherSeries::Value(value)),
        }
    }

    fn merge(&mut self, bounds: &Bounds, counts: &BucketCounts) {
        match &mut self.other {
            Some(OtherSeries::Durations(_, sum)) => sum.merge(counts),
            _ => self.other = Some(OtherSeries::Durations(bounds.clone(), counts.clone())),
        }
    }
}

/// Appends a label's value, escaped.
fn escape(text: &mut String, value: &str) {
    if !value.bytes().any(|byte| matches!(byte, b'\\' | b'"' | b'\n')) {
        return text.push_str(value);
    }
    for symbol in value.chars() {
        match symbol {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            _ => text.push(symbol),
        }
    }
}

/// Appends a number. Small ones, of which a page mostly consists, skip the formatting machinery.
fn push_whole(text: &mut String, value: u64) {
    match u8::try_from(value) {
        Ok(digit @ 0..=9) => text.push(char::from(b'0' + digit)),
        _ => drop(write!(text, "{value}")),
    }
}

#[cfg(test)]
mod tests;
