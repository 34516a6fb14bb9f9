//! Applies a configuration file to a [`TollgateBuilder`].

use std::path::Path;

use http::HeaderName;
use toml::Spanned;

use crate::base::error::Error;
use crate::base::span::parse_span;
use crate::cache::{Rule, Rules};
use crate::config::document::{
    CacheTable, CountName, Document, IdentityTable, LimitTable, ModeName, RuleTable, SubjectName,
};
use crate::config::mistake::{Mistake, render_all};
use crate::gate::inbound::Tollgate;
use crate::gate::inbound_builder::TollgateBuilder;
use crate::identity::{KeyExtractor, TrustedProxies, by};
use crate::limit::{Count, Limit, Quota};

impl Tollgate {
    /// Builds a gate from a TOML file, such as `tollgate.toml`; see [`TollgateBuilder::config`] for its keys.
    ///
    /// ```no_run
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::from_config("tollgate.toml")?;
    /// # let _ = gate;
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is invalid, with file, line and column.
    pub fn from_config(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| Error::config(format!("cannot read {file}: {e}")))?;
        Self::builder().apply(&text, &file)?.build()
    }
}

impl TollgateBuilder {
    /// Adds the settings of a TOML text to those of the code.
    ///
    /// | key | value |
    /// |---|---|
    /// | `schema` | 1; required |
    /// | `routes` | declared routes, without methods: [`routes`](Self::routes) |
    /// | `program` | ignored |
    /// | `identity.user` | `"bearer"` or `"header:NAME"`, else the client's address |
    /// | `identity.proxies` | networks of trusted proxies. Defaults to none |
    /// | `limits.NAME.by` | `"user"`, `"ip"`, `"global"` or `"node"`; required |
    /// | `limits.NAME.quota` | a [`Quota`], such as `"5/15min"`; required |
    /// | `limits.NAME.routes` | routes it applies to. Defaults to all |
    /// | `limits.NAME.mode` | `"on"` or `"shadow"`. Defaults to `"on"` |
    /// | `limits.NAME.count` | `"failures"` or `"successes"`. Defaults to all outcomes |
    /// | `cache.memory` | size of the cache in memory, such as `"64MiB"` |
    /// | `cache.rules.NAME.route` | pattern of the routes; required |
    /// | `cache.rules.NAME.ttl` | lifetime, such as `"15m"`; required |
    /// | `cache.rules.NAME.stale_while_revalidate`, `cache.rules.NAME.stale_if_error` | time after it. Defaults to none |
    /// | `cache.rules.NAME.tags` | tags, also with route parameters |
    /// | `cache.rules.NAME.same_for_everyone` | whether requests with credentials share responses. Defaults to `false` |
    ///
    /// ```
    /// use tollgate::Tollgate;
    ///
    /// let gate = Tollgate::builder()
    ///     .config("schema = 1\n[limits.login]\nby = \"ip\"\nquota = \"5/15min\"")?
    ///     .build()?;
    /// assert_eq!(gate.stats().limits[0].name, "login");
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error for an unknown key, a wrong type or an invalid value, with line and column. All invalid values are
    /// in one error.
    pub fn config(self, text: &str) -> Result<Self, Error> {
        self.apply(text, "configuration")
    }

    fn apply(self, text: &str, file: &str) -> Result<Self, Error> {
        let wrong = |mistakes| Error::config(render_all(mistakes, file, text));
        let document = Document::parse(text).map_err(wrong)?;
        let mut mistakes = Vec::new();
        let in_code = self.limits.is_identified();
        let mut builder = identify(self.routes(&document.routes), &document.identity, &mut mistakes);
        for (name, table) in document.limits {
            let has_user = document.identity.user.is_some() || in_code;
            if *table.by.get_ref() == SubjectName::User && !has_user {
                let message = "`by = \"user\"` needs a user; set identity.user, identify before the file in code, or count by \"ip\"".to_owned();
                mistakes.push(Mistake::new(table.by.span(), message));
            }
            match limit(name.into_inner(), table) {
                Ok(limit) => builder = builder.limit(limit),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        if let Some(table) = document.cache {
            builder = cache(builder, table, &mut mistakes);
        }
        if mistakes.is_empty() { Ok(builder) } else { Err(wrong(mistakes)) }
    }
}

/// Sets the size and the rules of the cache.
fn cache(mut builder: TollgateBuilder, table: CacheTable, mistakes: &mut Vec<Mistake>) -> TollgateBuilder {
    if let Some(memory) = &table.memory {
        match size(memory.get_ref()) {
            Some(bytes) => builder = builder.memory(bytes),
            None => {
                let message =
                    format!("invalid size {:?}; write it like \"512KiB\", \"64MiB\" or \"2GiB\"", memory.get_ref());
                mistakes.push(Mistake::new(memory.span(), message));
            }
        }
    }
    let mut rules = Rules::new();
    for table in table.rules.into_values() {
        match rule(&table) {
            Ok(rule) => rules = rules.route(table.route, rule),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    builder.cache(rules)
}

fn rule(table: &RuleTable) -> Result<Rule, Mistake> {
    let span = |text: &Spanned<String>| {
        parse_span(text.get_ref()).map_err(|error| Mistake::new(text.span(), error.to_string()))
    };
    let mut rule = Rule::ttl(span(&table.ttl)?);
    if let Some(stale) = &table.stale_while_revalidate {
        rule = rule.stale_while_revalidate(span(stale)?);
    }
    if let Some(stale) = &table.stale_if_error {
        rule = rule.stale_if_error(span(stale)?);
    }
    rule = table.tags.iter().fold(rule, |rule, tag| rule.tag(tag.as_str()));
    Ok(if table.same_for_everyone { rule.same_for_everyone() } else { rule })
}

/// Reads a whole number of bytes with a binary unit.
fn size(text: &str) -> Option<u64> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("B", 0)];
    let (number, shift) = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Sets the identity, if the file has one.
fn identify(builder: TollgateBuilder, table: &IdentityTable, mistakes: &mut Vec<Mistake>) -> TollgateBuilder {
    let address = by::client_ip(TrustedProxies::cidrs(&table.proxies));
    let Some(user) = &table.user else {
        return if table.proxies.is_empty() { builder } else { builder.identify(address) };
    };
    if user.get_ref() == "bearer" {
        return builder.identify(by::bearer().or(address));
    }
    match header_name(user) {
        Ok(name) => builder.identify(by::header(name).or(address)),
        Err(mistake) => {
            mistakes.push(mistake);
            builder
        }
    }
}

/// The field of `header:NAME`, in lower case. It lives as long as the process, as keys refer to it.
fn header_name(user: &Spanned<String>) -> Result<&'static str, Mistake> {
    let name = user.get_ref().strip_prefix("header:").and_then(|name| name.parse::<HeaderName>().ok());
    let name = name.ok_or_else(|| {
        let message = format!("unknown user {:?}; write \"bearer\" or \"header:NAME\"", user.get_ref());
        Mistake::new(user.span(), message)
    })?;
    Ok(name.as_str().to_owned().leak())
}

fn limit(name: String, table: LimitTable) -> Result<Limit, Mistake> {
    let quota: Quota =
        table.quota.get_ref().parse().map_err(|e: Error| Mistake::new(table.quota.span(), e.to_string()))?;
    let mut limit = match table.by.get_ref() {
        SubjectName::User => Limit::per_user(quota),
        SubjectName::Ip => Limit::per_ip(quota),
        SubjectName::Global => Limit::global(quota),
        SubjectName::Node => Limit::per_node(quota),
    };
    if !table.routes.is_empty() {
        limit = limit.on(table.routes);
    }
    if table.mode == ModeName::Shadow {
        limit = limit.shadow();
    }
    limit = match table.count {
        Some(CountName::Failures) => limit.count(Count::failures()),
        Some(CountName::Successes) => limit.count(Count::successes()),
        None => limit,
    };
    Ok(limit.named(name))
}
