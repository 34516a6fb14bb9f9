//! Holds the sources to the rules of the house. What it reads is tokens, not text: comments, strings and a file's own
//! tests may say what they like.
//!
//! | rule | |
//! |---|---|
//! | pure | decisions name no runtime and no engine, are not `async`, and never ask the time |
//! | rooms | `limit`, `cache`, `timing`, `upstream`, `refresh` never import one another |
//! | tower | a file that names tower names no engine; an engine never names tower |
//! | engines | each third-party engine is named in one place |
//! | doors | `mod.rs` and `lib.rs` hold documentation, `mod` and `use` |
//! | length | no file is longer than 500 lines |

#[path = "house/scan.rs"]
mod scan;

use scan::{paths, sources, tokens, without_tests};

/// Decisions: functions of their arguments.
const PURE: [&str; 55] = [
    "lease",
    "memo",
    "gcra",
    "window",
    "decision",
    "directive",
    "freshness",
    "policy",
    "validate",
    "vary",
    "range",
    "entry",
    "envelope",
    "pack",
    "invalidation",
    "history",
    "glob",
    "tag",
    "histogram",
    "slow",
    "sliding",
    "fingerprint",
    "group",
    "finding",
    "repeat",
    "credit",
    "breaker",
    "backoff",
    "schedule",
    "score",
    "advice",
    "judge",
    "facts",
    "wish",
    "locate",
    "keying",
    "parts",
    "record",
    "shape",
    "life",
    "rules",
    "plan",
    "quota",
    "reply",
    "tiers",
    "account",
    "alert",
    "block",
    "burn",
    "calendar",
    "flow",
    "learn",
    "meter",
    "told",
    "when",
];
const RUNTIMES: [&str; 10] = [
    "tokio",
    "tower",
    "tower_layer",
    "tower_service",
    "futures",
    "futures_util",
    "futures_core",
    "redis",
    "moka",
    "governor",
];
const TOWER: [&str; 3] = ["tower", "tower_layer", "tower_service"];
const ROOMS: [&str; 5] = ["limit", "cache", "timing", "upstream", "refresh"];
/// Each third-party engine, and where it may be named.
const ENGINES: [(&str, &str); 8] = [
    ("moka", "src/store/memory/"),
    ("governor", "src/store/governor"),
    ("redis", "src/store/redis/"),
    ("tokio_postgres", "src/store/postgres/"),
    ("deadpool_postgres", "src/store/postgres/"),
    ("redb", "src/store/redb/"),
    ("postcard", "src/cache/data/"),
    ("memcache", "src/store/memcached/"),
];
const LONGEST: usize = 500;

/// Everything a file breaks.
fn violations(path: &str, source: &str) -> Vec<String> {
    let tokens = tokens(&without_tests(source));
    let paths = paths(&tokens);
    let mut found = Vec::new();
    if source.lines().count() > LONGEST {
        found.push(format!("{path}: longer than {LONGEST} lines"));
    }
    if is_pure(path) {
        pure(path, &tokens, &paths, &mut found);
    }
    rooms(path, &paths, &mut found);
    engines(path, &tokens, &paths, &mut found);
    if path == "src/lib.rs" || path.starts_with("src/") && path.ends_with("/mod.rs") {
        door(path, &tokens, &mut found);
    }
    found
}

fn is_pure(path: &str) -> bool {
    let mut names = path.trim_start_matches("src/").trim_end_matches(".rs").split('/');
    let in_a_room = names.next().is_some_and(|room| ROOMS.contains(&room) || room == "health");
    let apart = ["src/breaker.rs", "src/budget.rs", "src/sf.rs", "src/store/redis/limits/wire.rs"].contains(&path);
    apart || path.starts_with("src/") && in_a_room && names.any(|name| PURE.contains(&name))
}

fn pure(path: &str, tokens: &[String], paths: &[Vec<String>], found: &mut Vec<String>) {
    for named in paths.iter().filter(|named| RUNTIMES.contains(&&*named[0])) {
        found.push(format!("{path}: a decision names {}", named.join("::")));
    }
    for pair in tokens.windows(2) {
        match (&*pair[0], &*pair[1]) {
            ("async" | "await", _) | (_, "await") => found.push(format!("{path}: a decision is async")),
            ("now", "(") => found.push(format!("{path}: a decision asks the time; `now` is an argument")),
            _ => {}
        }
    }
}

fn rooms(path: &str, paths: &[Vec<String>], found: &mut Vec<String>) {
    let Some(room) = path.strip_prefix("src/").and_then(|rest| rest.split('/').next()) else { return };
    if !ROOMS.contains(&room) {
        return;
    }
    for named in paths {
        let resolved = resolve(path, named);
        if resolved.first().is_some_and(|first| first != room && ROOMS.contains(&&**first)) {
            found.push(format!("{path}: the room {room:?} imports {}", named.join("::")));
        }
    }
}

/// A path from the crate's root; empty where it leads out of the crate, or is local.
fn resolve(file: &str, named: &[String]) -> Vec<String> {
    let mut module: Vec<String> =
        file.trim_start_matches("src/").trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    match &*named[0] {
        "crate" => return named[1..].to_vec(),
        "super" => {}
        _ => return Vec::new(),
    }
    let ups = named.iter().take_while(|part| *part == "super").count();
    module.truncate(module.len().saturating_sub(ups));
    module.extend_from_slice(&named[ups..]);
    module
}

fn engines(path: &str, tokens: &[String], paths: &[Vec<String>], found: &mut Vec<String>) {
    let names_tower = paths.iter().any(|named| TOWER.contains(&&*named[0]));
    if names_tower && path.starts_with("src/store/") {
        found.push(format!("{path}: an engine names tower"));
    }
    for (engine, home) in ENGINES {
        let a_module = tokens.windows(2).any(|pair| pair[0] == "mod" && pair[1] == engine);
        if a_module || !path.starts_with("src/") || !paths.iter().any(|named| named[0] == engine) {
            continue;
        }
        if !path.starts_with(home) {
            found.push(format!("{path}: names {engine}, which lives in {home}"));
        }
        if names_tower {
            found.push(format!("{path}: names both tower and {engine}"));
        }
    }
}

/// Attributes, `mod name;` and `use …;` only. `#[cfg(doctest)] struct Readme;` compiles the README's examples.
fn door(path: &str, tokens: &[String], found: &mut Vec<String>) {
    let mut at = 0;
    while at < tokens.len() {
        at = past_attributes(tokens, at);
        let doctest = at >= 4 && tokens[..at].iter().rev().take(40).any(|token| token == "doctest");
        if tokens.get(at).is_some_and(|token| token == "pub") {
            at += 1;
            if tokens.get(at).is_some_and(|token| token == "(") {
                at += 3;
            }
        }
        match tokens.get(at).map(String::as_str) {
            None => return,
            Some("mod") if tokens.get(at + 2).is_some_and(|token| token == ";") => {}
            Some("use") => {}
            Some("struct") if doctest => {}
            Some(other) => {
                found.push(format!("{path}: holds more than documentation, `mod` and `use`: `{other}`"));
                return;
            }
        }
        while tokens.get(at).is_some_and(|token| token != ";") {
            at += 1;
        }
        at += 1;
    }
}

fn past_attributes(tokens: &[String], mut at: usize) -> usize {
    while tokens.get(at).is_some_and(|token| token == "#") {
        let mut depth = 0;
        loop {
            at += 1;
            match tokens.get(at).map(String::as_str) {
                Some("[") => depth += 1,
                Some("]") if depth == 1 => break,
                Some("]") => depth -= 1,
                Some(_) => {}
                None => return at,
            }
        }
        at += 1;
    }
    at
}

#[test]
fn the_sources_keep_the_rules() {
    let sources = sources();
    let found: Vec<String> = sources.iter().flat_map(|(path, source)| violations(path, source)).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
    // The check looked where the decisions are.
    for path in ["src/timing/histogram.rs", "src/timing/slow.rs"] {
        assert!(is_pure(path) && sources.iter().any(|(name, _)| name == path), "{path}");
    }
}

#[test]
fn every_rule_can_be_broken() {
    let long = "\n".repeat(LONGEST + 1);
    for (path, source, why) in [
        ("src/limit/gcra.rs", "use std::{time::Duration}; use tokio::time;", "names tokio::time"),
        ("src/limit/gcra.rs", "fn f() { futures_util::future::ready(1); }", "names futures_util"),
        ("src/cache/policy.rs", "use {moka::sync::Cache};", "names moka"),
        ("src/cache/entry.rs", "async fn f() {}", "is async"),
        ("src/cache/freshness.rs", "fn f() { let t = clock.now(); }", "asks the time"),
        ("src/timing/slow/ring.rs", "fn f() { Instant::now(); }", "asks the time"),
        ("src/cache/layer.rs", "use crate::limit::Quota;", "imports crate::limit::Quota"),
        ("src/cache/layer.rs", "use crate::{clock::Clock, timing::{timed, X}};", "imports crate::timing::timed"),
        ("src/timing/layer.rs", "fn f() { super::super::cache::g() }", "imports super::super::cache"),
        ("src/limit/mod.rs", "pub use super::upstream::Credit;", "imports super::upstream"),
        ("src/store/memory/limits.rs", "use tower_service::Service;", "an engine names tower"),
        ("src/cache/service.rs", "use tower_layer::Layer; use moka::sync::Cache;", "both tower and moka"),
        ("src/cache/levels.rs", "type C = moka::sync::Cache<u8, u8>;", "names moka, which lives in"),
        ("src/limit/service.rs", "fn f() { governor::RateLimiter::direct(q) }", "names governor"),
        ("src/limit/mod.rs", "mod gcra; fn f() {}", "holds more"),
        ("src/lib.rs", "//! Docs.\npub mod limit { pub fn f() {} }", "holds more"),
        ("tests/long.rs", &long, "longer than"),
    ] {
        let found = violations(path, source).join("\n");
        assert!(found.contains(why), "{path}: {source}\nfound: {found:?}, expected: {why}");
    }
}

#[test]
fn what_is_allowed_is_not_reported() {
    for (path, source) in [
        ("src/limit/gcra.rs", "//! Like tokio::time.\n/* use moka::X; */\nconst S: &str = \"async now( tower::X\";"),
        ("src/limit/gcra.rs", "fn f<'a>(now: Timestamp, c: char) -> bool { c == '\"' }\n// tower::X \"\n"),
        ("src/limit/gcra.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use tokio::time;\n}\n"),
        ("src/limit/gcra.rs", "const S: &str = r#\"tokio::time \" now()\"#; const B: &[u8] = b\"moka::X\";"),
        (
            "src/limit/layer.rs",
            "use crate::key::Key; use super::Quota; use self::cache::Cache; use tower_layer::Layer;",
        ),
        (
            "src/store/mod.rs",
            "#[cfg(feature = \"redis\")]\npub mod redis;\npub use redis::Redis;\npub(crate) mod memory;",
        ),
        ("src/store/memory/entries.rs", "use moka::sync::Cache; use crate::cache::CacheStore;"),
        ("src/stack.rs", "use crate::{cache::CacheLayer, limit::RateLimitLayer}; use tower_layer::Layer;"),
        ("src/lib.rs", "#![doc = \"x\"]\nmod a;\npub use a::{B, C};\n#[cfg(doctest)]\n#[doc = \"y\"]\nstruct Readme;"),
        ("tests/gateway.rs", "use redis::Client; use tower::Layer;"),
        ("tests/support/mod.rs", "pub fn f() {}"),
    ] {
        assert_eq!(violations(path, source), Vec::<String>::new(), "{path}: {source}");
    }
}
