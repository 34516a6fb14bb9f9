//! A strict reader of metrics as text: Prometheus 0.0.4 and OpenMetrics.
//!
//! `openmetrics-parser` asks all series of a family for the same labels, and refuses those that omit one.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    reason = "each test uses its part, and may fail"
)]

use std::collections::{BTreeMap, BTreeSet};

type Labels = BTreeMap<String, String>;

/// A page that has been read.
#[derive(Debug, Default)]
pub struct Exposition {
    pub families: BTreeMap<String, ReadFamily>,
}

/// One family.
#[derive(Debug, Default)]
pub struct ReadFamily {
    pub kind: String,
    pub unit: Option<String>,
    pub samples: Vec<Sample>,
}

/// One line with a value.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    pub labels: Labels,
    pub value: f64,
}

impl Exposition {
    /// Reads a page.
    ///
    /// # Panics
    /// If a family is described twice or not at all, is not one block, has a series twice, or its buckets do not add up.
    pub fn read(page: &str) -> Self {
        let (mut read, mut current, mut seen) = (Self::default(), String::new(), BTreeSet::new());
        for line in page.lines() {
            assert!(!line.is_empty() && line.trim() == line, "{line:?}");
            if line == "# EOF" {
                assert!(page.ends_with("\n# EOF\n") || page == "# EOF\n", "the end is at the end");
            } else if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let [what, name, rest] = [(); 3].map(|()| words.next().unwrap_or_else(|| panic!("{line}")));
                let family = read.families.entry(name.to_owned()).or_default();
                match what {
                    "HELP" => assert!(family.kind.is_empty() && name != current, "{name} is described twice"),
                    "TYPE" => family.kind = rest.to_owned(),
                    "UNIT" => family.unit = Some(rest.to_owned()),
                    _ => panic!("{line}"),
                }
                name.clone_into(&mut current);
            } else {
                let sample = Sample::read(line);
                let family = read.families.get_mut(&current).unwrap_or_else(|| panic!("{line} has no family"));
                assert!(sample.belongs_to(&current, &family.kind), "{line} is among {current}");
                assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "{line} is there twice");
                family.samples.push(sample);
            }
        }
        read.families.values().for_each(ReadFamily::check);
        read
    }

    /// Returns the sum of the samples with this name and these labels; `None` if there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let samples = self.families.values().flat_map(|family| &family.samples);
        let of = samples.filter(|sample| sample.name == name && sample.has(labels));
        of.map(|sample| sample.value).reduce(|a, b| a + b)
    }

    /// Returns the labels of each series with this name.
    pub fn series(&self, name: &str) -> Vec<&Labels> {
        let samples = self.families.values().flat_map(|family| &family.samples);
        samples.filter(|sample| sample.name == name).map(|sample| &sample.labels).collect()
    }
}

impl ReadFamily {
    fn check(&self) {
        assert!(!self.samples.is_empty() && !self.kind.is_empty(), "{self:?}");
        let mut buckets: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        for bucket in self.samples.iter().filter(|sample| self.kind == "histogram" && sample.name.ends_with("_bucket"))
        {
            let mut labels = bucket.labels.clone();
            let le = labels.remove("le").expect("a bound").replace("+Inf", "inf").parse().expect("a number");
            buckets.entry(labels).or_default().push((le, bucket.value));
        }
        for sum in self.samples.iter().filter(|sample| self.kind == "histogram" && sample.name.ends_with("_count")) {
            let buckets = &buckets[&sum.labels];
            assert!(
                buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1),
                "{sum:?}: {buckets:?}"
            );
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, sum.value)), "{sum:?}");
        }
    }

    /// Returns the names of all labels, without `le`.
    pub fn labels(&self) -> BTreeSet<&str> {
        let names = self.samples.iter().flat_map(|sample| sample.labels.keys());
        names.map(|name| &**name).filter(|name| *name != "le").collect()
    }
}

impl Sample {
    fn read(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
        let Some((name, labels)) = series.split_once('{') else {
            return Self { name: series.to_owned(), labels: Labels::new(), value };
        };
        let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
        Self { name: name.to_owned(), labels: read_labels(labels), value }
    }

    fn belongs_to(&self, family: &str, kind: &str) -> bool {
        let suffixes: &[&str] = match kind {
            "histogram" => &["_bucket", "_sum", "_count"],
            "counter" if !family.ends_with("_total") => &["_total"],
            _ => &[""],
        };
        suffixes.iter().any(|suffix| self.name.strip_suffix(suffix) == Some(family))
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.labels.get(*name).map_or("", |value| value) == *value)
    }
}

fn read_labels(text: &str) -> Labels {
    let (mut labels, mut rest) = (Labels::new(), text);
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{text}"));
        let (mut value, mut symbols) = (String::new(), after.char_indices());
        let end = loop {
            match symbols.next().unwrap_or_else(|| panic!("{text}")) {
                (_, '\\') => match symbols.next().map(|(_, symbol)| symbol) {
                    Some('n') => value.push('\n'),
                    Some(symbol @ ('\\' | '"')) => value.push(symbol),
                    _ => panic!("{text}"),
                },
                (at, '"') => break at,
                (_, symbol) => value.push(symbol),
            }
        };
        assert!(!value.is_empty(), "an empty label is omitted: {text}");
        assert!(labels.insert(name.to_owned(), value).is_none(), "{text}");
        rest = after[end + 1..].trim_start_matches(',');
    }
    labels
}
