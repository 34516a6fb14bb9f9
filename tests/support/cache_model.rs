//! RFC 9111 read aloud: a store that is a list, headers that are strings, and no preparation whatever.
#![allow(unreachable_pub, clippy::expect_used, reason = "a test's own model")]

use std::time::{Duration, UNIX_EPOCH};

/// Where the calendar stands at the start: 2026-01-01T00:00:00Z.
pub const BASE: i64 = 1_767_225_600;
const HOUR: i64 = 3600;

/// What the origin would answer in a step; status 0 stands for no answer at all.
#[derive(Clone, Debug, Default)]
pub struct Says {
    pub status: u16,
    pub directives: Vec<String>,
    /// Seconds from now, or text that is no date.
    pub expires: Option<Result<i64, &'static str>>,
    pub date: Option<i64>,
    pub age: Option<&'static str>,
    pub etag: Option<&'static str>,
    /// Seconds before now.
    pub modified: Option<i64>,
    pub vary: Option<&'static str>,
    /// Whether it answers 304 where it should.
    pub honest: bool,
}

impl Says {
    pub fn fields(&self, now: i64) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let mut put = |name: &str, value: String| fields.push((name.to_owned(), value));
        for directive in &self.directives {
            put("cache-control", directive.clone());
        }
        if let Some(expires) = self.expires {
            put("expires", expires.map_or_else(str::to_owned, |by| http_date(now + by)));
        }
        if let Some(date) = self.date {
            put("date", http_date(now + date));
        }
        for (name, value) in [("age", self.age), ("etag", self.etag), ("vary", self.vary)] {
            if let Some(value) = value {
                put(name, value.to_owned());
            }
        }
        if let Some(before) = self.modified {
            put("last-modified", http_date(now - before));
        }
        fields
    }

    pub fn answers_304(&self, condition: Option<&str>) -> bool {
        self.honest
            && (200..300).contains(&self.status)
            && matches!((condition, self.etag), (Some(list), Some(etag)) if lists(list, etag))
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: &'static str,
    pub path: &'static str,
    pub directives: Vec<&'static str>,
    pub condition: Option<&'static str>,
    /// `If-Modified-Since`, in seconds before now.
    pub since: Option<i64>,
    pub v: Option<&'static str>,
    pub authorised: bool,
}

impl Ask {
    pub fn fields(&self, now: i64) -> Vec<(&'static str, String)> {
        let mut fields = Vec::new();
        for directive in &self.directives {
            fields.push(("cache-control", (*directive).to_owned()));
        }
        for (name, value) in [("if-none-match", self.condition), ("x-v", self.v)] {
            fields.extend(value.map(|value| (name, value.to_owned())));
        }
        fields.extend(self.since.map(|before| ("if-modified-since", http_date(now - before))));
        if self.authorised {
            fields.push(("authorization", "x".to_owned()));
        }
        fields
    }

    fn has(&self, name: &str) -> bool {
        self.directives.iter().any(|directive| directive.split('=').next() == Some(name))
    }

    fn number(&self, name: &str) -> Option<i64> {
        let prefix = format!("{name}=");
        self.directives
            .iter()
            .filter_map(|directive| directive.strip_prefix(&prefix))
            .map(|n| n.parse().expect("a number"))
            .min()
    }
}

/// What the client gets.
#[derive(Clone, Debug)]
pub struct Client {
    pub status: u16,
    pub body: String,
    pub age: Option<String>,
}

/// What a step comes to: the client's answer, and the condition the origin saw if it was asked.
#[derive(Debug)]
pub struct Outcome {
    pub client: Client,
    pub asked: Option<Option<String>>,
    /// Whether it was asked in the background.
    pub in_background: bool,
}

#[derive(Clone, Debug)]
struct Held {
    path: &'static str,
    v: Option<&'static str>,
    status: u16,
    fields: Vec<(String, String)>,
    body: String,
    received: i64,
}

/// The store.
#[derive(Default)]
pub struct Model(Vec<Held>);

impl Model {
    pub fn step(&mut self, ask: &Ask, says: &Says, step: usize, now: i64) -> Outcome {
        if ask.method == "DELETE" {
            // §4.4; and where there is no answer, nobody knows what was changed.
            if says.status == 0 || (200..400).contains(&says.status) {
                self.forget(ask.path);
            }
            return self.forwarded(ask, says, step, ask.condition.map(str::to_owned));
        }
        if ask.has("no-store") {
            return self.forwarded(ask, says, step, ask.condition.map(str::to_owned));
        }
        let held = self.0.iter().rev().find(|held| held.answers(ask) && held.is_of_use(now)).cloned();
        if let Some(held) = &held {
            if held.may_be_served(ask, now) {
                return Outcome { client: held.served(ask, now), asked: None, in_background: false };
            }
            if held.may_be_served_while_revalidated(ask, now) {
                let client = held.served(ask, now);
                if ask.method == "HEAD" {
                    return Outcome { client, asked: None, in_background: false };
                }
                let asked = self.fetch(ask, says, step, now, Some(held)).asked;
                return Outcome { client, asked, in_background: true };
            }
        }
        if ask.has("only-if-cached") {
            return Outcome {
                client: Client { status: 504, body: String::new(), age: None },
                asked: None,
                in_background: false,
            };
        }
        if ask.method == "HEAD" {
            return self.head(ask, says, step, now, held.as_ref());
        }
        self.fetch(ask, says, step, now, held.as_ref())
    }

    /// §4.3.5: written through, never stored; it refreshes or invalidates what GET stored.
    fn head(&mut self, ask: &Ask, says: &Says, step: usize, now: i64, held: Option<&Held>) -> Outcome {
        let condition = ask.condition.map(str::to_owned);
        if let Some(held) = held {
            if matches!(says.status, 0 | 500 | 503) && held.may_stand_in(ask, says.status, now) {
                return Outcome { client: held.served(ask, now), asked: Some(condition), in_background: false };
            }
            if says.status == 200 && held.status == 200 && !says.answers_304(condition.as_deref()) {
                let fields = says.fields(now);
                let same = |name: &str| {
                    let told = fields.iter().find(|(known, _)| known == name);
                    told.is_none_or(|(_, value)| held.field(name) == Some(value))
                };
                if !held.has_validator() {
                    // It cannot be recognised.
                } else if same("etag") && same("last-modified") {
                    self.refreshed(ask, says, now, held);
                } else {
                    self.forget(ask.path);
                }
            }
        }
        self.forwarded(ask, says, step, condition)
    }

    fn forget(&mut self, path: &str) {
        self.0.retain(|held| held.path != path);
    }

    /// The origin's answer, untouched.
    fn forwarded(&self, _ask: &Ask, says: &Says, step: usize, condition: Option<String>) -> Outcome {
        let client = match says.answers_304(condition.as_deref()) {
            true => Client { status: 304, body: String::new(), age: None },
            false if says.status == 0 => Client { status: 0, body: String::new(), age: None },
            false => Client { status: says.status, body: step.to_string(), age: None },
        };
        Outcome { client, asked: Some(condition), in_background: false }
    }

    fn fetch(&mut self, ask: &Ask, says: &Says, step: usize, now: i64, held: Option<&Held>) -> Outcome {
        // §4.3.1: our own condition where something is held, the client's where nothing is.
        let condition = match held {
            Some(held) => held.field("etag").map(str::to_owned),
            None => ask.condition.map(str::to_owned),
        };
        let asked = Some(condition.clone());
        if let Some(held) = held {
            if matches!(says.status, 0 | 500 | 503) && held.may_stand_in(ask, says.status, now) {
                return Outcome { client: held.served(ask, now), asked, in_background: false };
            }
            if says.answers_304(condition.as_deref()) {
                return Outcome { client: self.refreshed(ask, says, now, held), asked, in_background: false };
            }
        }
        if says.status == 0 || says.answers_304(condition.as_deref()) {
            return self.forwarded(ask, says, step, condition);
        }
        let new = Held {
            path: ask.path,
            v: ask.v,
            status: says.status,
            fields: says.fields(now),
            body: step.to_string(),
            received: now,
        };
        let mut client = Client { status: says.status, body: new.body.clone(), age: None };
        // An error in answer to the client's own condition is the client's own.
        let own = held.is_none() && (ask.condition.is_some() || ask.since.is_some()) && says.status >= 400;
        if !own && new.may_be_stored(ask) {
            // §4.3.2, for the client's own condition.
            if new.is_what_they_have(ask, now) {
                client = Client { status: 304, body: String::new(), age: None };
            }
            self.keep(new);
        } else if held.is_some() && !ask.authorised && (says.status < 400 || [404, 410].contains(&says.status)) {
            self.forget(ask.path);
        }
        Outcome { client, asked, in_background: false }
    }

    /// §4.3.4.
    fn refreshed(&mut self, ask: &Ask, says: &Says, now: i64, held: &Held) -> Client {
        // A strong tag that the entry lacks identifies another representation.
        if says.etag.is_some_and(|tag| !tag.starts_with("W/") && held.field("etag") != Some(tag)) {
            self.forget(ask.path);
            return held.served(ask, now);
        }
        let mut new = held.clone();
        new.received = now;
        new.v = ask.v;
        new.fields.retain(|(name, _)| name != "age");
        let mut news = says.fields(now);
        if says.date.is_none() {
            news.push(("date".to_owned(), http_date(now)));
        }
        new.fields.retain(|(name, _)| !news.iter().any(|(changed, _)| changed == name));
        new.fields.extend(news);
        if new.may_be_stored(ask) {
            self.keep(new.clone());
        } else {
            self.forget(ask.path);
        }
        new.served(ask, now)
    }

    /// A response that varies lives beside its other variants; one that does not stands for all.
    fn keep(&mut self, new: Held) {
        let varies = new.field("vary").is_some();
        self.0.retain(|old| old.path != new.path || (varies && old.field("vary").is_some() && old.v != new.v));
        self.0.push(new);
    }
}

impl Held {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// §5.2: every argument of a directive, in any case, quotes undone.
    fn directive(&self, name: &str) -> Vec<Option<String>> {
        let lines = self.fields.iter().filter(|(known, _)| known == "cache-control");
        lines
            .filter_map(|(_, line)| {
                let (known, argument) = match line.split_once('=') {
                    Some((known, argument)) => (known, Some(argument.trim_matches('"').to_owned())),
                    None => (line.as_str(), None),
                };
                known.eq_ignore_ascii_case(name).then_some(argument)
            })
            .collect()
    }

    fn says(&self, name: &str) -> bool {
        !self.directive(name).is_empty()
    }

    /// The least value; what is no number is 0, what is too great is 2³¹.
    fn seconds(&self, name: &str) -> Option<i64> {
        let read = |argument: Option<String>| {
            let digits = argument.filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
            digits.map_or(0, |text| text.parse().unwrap_or(i64::MAX).min(1 << 31))
        };
        self.directive(name).into_iter().map(read).min()
    }

    fn date(&self, name: &str) -> Option<i64> {
        let time = httpdate::parse_http_date(self.field(name)?).ok()?;
        Some(time.duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64)
    }

    /// §4.2.1 and §4.2.2, in tenths of a second.
    fn lifetime(&self) -> Option<i64> {
        if let Some(seconds) = self.seconds("s-maxage").or(self.seconds("max-age")) {
            return Some(seconds * 10);
        }
        let born = self.date("date").unwrap_or(self.received);
        if self.field("expires").is_some() {
            return Some(self.date("expires").map_or(0, |expires| (expires - born).max(0) * 10));
        }
        let guessable =
            self.says("public") || [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501].contains(&self.status);
        let modified = self.date("last-modified").filter(|modified| guessable && *modified <= born)?;
        Some((born - modified).min(864_000))
    }

    /// §4.2.3.
    fn age(&self, now: i64) -> i64 {
        let apparent = self.date("date").map_or(0, |date| (self.received - date).max(0));
        let said = self.field("age").and_then(|age| age.split(',').next()?.trim().parse::<i64>().ok()).unwrap_or(0);
        apparent.max(said) + (now - self.received)
    }

    /// In tenths of a second; positive once it is stale. §5.2.2.4: no-cache is never fresh.
    fn staleness(&self, now: i64) -> i64 {
        let lifetime = if self.says("no-cache") { 0 } else { self.lifetime().unwrap_or(0) };
        self.age(now) * 10 - lifetime
    }

    fn is_fresh(&self, now: i64) -> bool {
        self.staleness(now) < 0
    }

    /// §4.2.4: what prohibits any use of a stale response.
    fn is_strict(&self) -> bool {
        ["no-cache", "must-revalidate", "proxy-revalidate", "s-maxage"].iter().any(|name| self.says(name))
    }

    fn has_validator(&self) -> bool {
        self.field("etag").is_some() || self.field("last-modified").is_some()
    }

    /// Seconds for which it may stand in when the origin cannot be reached.
    fn window_if_down(&self) -> i64 {
        if self.is_strict() { 0 } else { self.seconds("stale-if-error").unwrap_or(HOUR) }
    }

    fn window_while_revalidating(&self) -> i64 {
        if self.is_strict() { 0 } else { self.seconds("stale-while-revalidate").unwrap_or(0) }
    }

    /// What is too old for everything is not there; a validator keeps it an hour longer.
    fn is_of_use(&self, now: i64) -> bool {
        let longest = self.window_if_down().max(self.window_while_revalidating());
        let fresh_for = (-self.staleness(self.received)).max(0);
        let keep = if self.has_validator() { HOUR } else { 0 };
        self.is_fresh(now) || self.staleness(now) < longest * 10 || (now - self.received) * 10 < fresh_for + keep * 10
    }

    /// §4.1; and a refusal of those without a login is not for those with one.
    fn answers(&self, ask: &Ask) -> bool {
        let lifted = ask.authorised && (400..500).contains(&self.status);
        !lifted && self.path == ask.path && (self.field("vary").is_none() || self.v == ask.v)
    }

    /// §3.
    fn may_be_stored(&self, ask: &Ask) -> bool {
        let understood = self.status != 599;
        if self.says("no-store") && !(self.says("must-understand") && understood) {
            return false;
        }
        if (self.says("must-understand") && !understood) || self.says("private") || self.field("vary") == Some("*") {
            return false;
        }
        // §3.5.
        if ask.authorised && !["public", "must-revalidate", "s-maxage"].iter().any(|name| self.says(name)) {
            return false;
        }
        let guessable = self.says("public") || [200, 203, 404].contains(&self.status);
        if self.lifetime().is_none() && !(self.has_validator() && guessable) {
            return false;
        }
        // Of use at all.
        if self.says("no-cache") { self.has_validator() } else { self.is_of_use(self.received) || self.has_validator() }
    }

    /// §5.2.1, and §4.2.4 for stale ones.
    fn may_be_served(&self, ask: &Ask, now: i64) -> bool {
        if ask.has("no-cache") {
            return false;
        }
        let young = ask.number("max-age").is_none_or(|most| self.age(now) <= most);
        if self.is_fresh(now) {
            let left = -self.staleness(now);
            return (young || self.says("immutable")) && ask.number("min-fresh").is_none_or(|least| left >= least * 10);
        }
        let stale_enough = match ask.number("max-stale") {
            Some(most) => self.staleness(now) <= most * 10,
            None => ask.has("max-stale"),
        };
        !self.is_strict() && stale_enough && young && !ask.has("min-fresh")
    }

    /// RFC 5861 §3.
    fn may_be_served_while_revalidated(&self, ask: &Ask, now: i64) -> bool {
        let wishes = ask.has("no-cache")
            || ask.has("min-fresh")
            || ask.number("max-age").is_some_and(|most| self.age(now) > most)
            || ask.number("max-stale").is_some_and(|most| self.staleness(now) > most * 10);
        !wishes && !self.is_fresh(now) && self.staleness(now) < self.window_while_revalidating() * 10
    }

    /// RFC 5861 §4 and RFC 9111 §4.2.4.
    fn may_stand_in(&self, ask: &Ask, failure: u16, now: i64) -> bool {
        if ask.has("no-cache") {
            return false;
        }
        let own = if self.is_strict() { 0 } else { self.seconds("stale-if-error").unwrap_or(0) };
        let window = if failure == 500 { own } else { self.window_if_down() };
        let asked =
            !self.is_strict() && ask.number("stale-if-error").is_some_and(|most| self.staleness(now) <= most * 10);
        asked || self.staleness(now) < window * 10
    }

    /// §4.3.2.
    fn is_what_they_have(&self, ask: &Ask, now: i64) -> bool {
        if !(200..300).contains(&self.status) {
            return false;
        }
        match (ask.condition, ask.since) {
            (Some(list), _) => self.field("etag").is_some_and(|etag| lists(list, etag)),
            (None, Some(before)) => {
                let modified = self.date("last-modified").or(self.date("date")).unwrap_or(self.received);
                modified <= now - before
            }
            (None, None) => false,
        }
    }

    fn served(&self, ask: &Ask, now: i64) -> Client {
        let age = Some(self.age(now).to_string());
        if self.is_what_they_have(ask, now) {
            return Client { status: 304, body: String::new(), age };
        }
        let body = if ask.method == "HEAD" { String::new() } else { self.body.clone() };
        Client { status: self.status, body, age }
    }
}

/// RFC 9110 §8.8.3.2, weakly.
fn lists(list: &str, etag: &str) -> bool {
    list.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag.trim_start_matches("W/"))
}

fn http_date(seconds: i64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds as u64))
}
