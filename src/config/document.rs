//! [`Document`]: the tables of a configuration file.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;

use super::mistake::Mistake;

/// Version of the format that this crate reads.
const SCHEMA: i64 = 1;

/// One configuration file. Unknown keys are errors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document {
    schema: Spanned<i64>,
    #[serde(default)]
    pub(crate) routes: Vec<String>,
    /// Settings of a program around the library, which ignores them.
    #[serde(default, rename = "program")]
    _program: Option<IgnoredAny>,
    #[serde(default)]
    pub(crate) identity: IdentityTable,
    #[serde(default)]
    pub(crate) limits: BTreeMap<Spanned<String>, LimitTable>,
    pub(crate) cache: Option<CacheTable>,
}

/// The table `[cache]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CacheTable {
    pub(crate) memory: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) rules: BTreeMap<Spanned<String>, RuleTable>,
}

/// A table `[cache.rules.NAME]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleTable {
    pub(crate) route: String,
    pub(crate) ttl: Spanned<String>,
    pub(crate) stale_while_revalidate: Option<Spanned<String>>,
    pub(crate) stale_if_error: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    #[serde(default)]
    pub(crate) same_for_everyone: bool,
}

/// The table `[identity]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdentityTable {
    /// `bearer` or `header:NAME`.
    pub(crate) user: Option<Spanned<String>>,
    /// Networks of trusted proxies.
    #[serde(default)]
    pub(crate) proxies: Vec<String>,
}

/// A table `[limits.NAME]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitTable {
    pub(crate) by: Spanned<SubjectName>,
    pub(crate) quota: Spanned<String>,
    #[serde(default)]
    pub(crate) routes: Vec<String>,
    #[serde(default)]
    pub(crate) mode: ModeName,
    pub(crate) count: Option<CountName>,
}

/// Subject that a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SubjectName {
    User,
    Ip,
    Global,
    Node,
}

/// Whether a limit rejects requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ModeName {
    #[default]
    On,
    Shadow,
}

/// Outcomes that a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CountName {
    Failures,
    Successes,
}

impl Document {
    /// Parses a file.
    ///
    /// # Errors
    /// Returns the first error of syntax, key or type, else all invalid names and the wrong version.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let document: Self = toml::from_str(text).map_err(|e| vec![Mistake::of_toml(e.span(), e.message())])?;
        let mut mistakes = Vec::new();
        if *document.schema.get_ref() != SCHEMA {
            let message = format!("unknown schema {}; this version reads schema {SCHEMA}", document.schema.get_ref());
            mistakes.push(Mistake::new(document.schema.span(), message));
        }
        let rules = document.cache.iter().flat_map(|cache| cache.rules.keys());
        for name in document.limits.keys().chain(rules).filter(|name| !is_table_name(name.get_ref())) {
            let message = format!(
                "invalid name {:?}; use a-z, 0-9 and single underscores, beginning with a letter",
                name.get_ref()
            );
            mistakes.push(Mistake::new(name.span(), message));
        }
        if mistakes.is_empty() { Ok(document) } else { Err(mistakes) }
    }
}

/// Whether environment variables can address the table: `[a-z][a-z0-9_]*` without `__`.
fn is_table_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !name.contains("__")
}
