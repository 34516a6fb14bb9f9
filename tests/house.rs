//! Holds the sources to the rules of the house: what a file may touch depends on the folder it is in.
//!
//! What is read is tokens, not text: comments, strings and a file's own tests may say what they like.
//!
//! | rule | |
//! |---|---|
//! | pure | decisions name no runtime, no tower and no engine, are not `async`, and never ask the time |
//! | rooms | `limit`, `cache`, `timing`, `upstream`, `jobs` never import one another; they meet in `gate` |
//! | tower | files in `tower/`, and any other that names tower, name no third-party engine; `store/` never names tower |
//! | engines | each third-party engine is named in one place |
//! | doors | `mod.rs` and `lib.rs` hold documentation, `mod` and `use`; no other file is loose in `src/` |
//! | circles | folders do not import one another in a circle; files that do are listed here |
//! | locks | a lock that can be poisoned is named in `base/lock.rs` alone |
//! | names | files and types are called by the standard term; a type that others can name has a name of its own |
//! | length | no file is longer than 500 lines |

#[path = "house/graph.rs"]
mod graph;
#[path = "house/names.rs"]
mod names;
#[path = "house/scan.rs"]
mod scan;

use std::collections::BTreeSet;

use graph::{Graph, circles, folder};
use scan::{paths, sources, tokens, without_tests};

/// Folders and files of decisions: functions of their arguments.
const PURE: [&str; 24] = [
    "src/config/",
    "src/health/",
    "src/jobs/schedule/",
    "src/base/budget.rs",
    "src/base/calendar.rs",
    "src/base/codec.rs",
    "src/base/structured_fields.rs",
    "src/cache/data/encoding.rs",
    "src/cache/data/key.rs",
    "src/cache/data/ttl.rs",
    "src/cache/data/value_size.rs",
    "src/cache/engine/invalidation_log.rs",
    "src/cache/http/",
    "src/limit/algorithm/",
    "src/limit/policy/",
    "src/resilience/breaker.rs",
    "src/store/file/journal_record.rs",
    "src/store/file/record.rs",
    "src/store/file/tail.rs",
    "src/store/redis/limits/protocol.rs",
    "src/timing/measure/",
    "src/upstream/learn/",
    "src/upstream/quota/",
    "src/upstream/report/",
];
const RUNTIMES: [&str; 14] = [
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
    "tokio_postgres",
    "deadpool_postgres",
    "redb",
    "memcache",
];
const TOWER: [&str; 3] = ["tower", "tower_layer", "tower_service"];
const ROOMS: [&str; 5] = ["limit", "cache", "timing", "upstream", "jobs"];
/// Each third-party engine, and where it may be named.
const ENGINES: [(&str, &str); 8] = [
    ("moka", "src/store/memory/"),
    ("governor", "src/store/governor"),
    ("redis", "src/store/redis/"),
    ("tokio_postgres", "src/store/postgres/"),
    ("deadpool_postgres", "src/store/postgres/"),
    ("redb", "src/store/redb/"),
    ("rmp_serde", "src/cache/data/"),
    ("memcache", "src/store/memcached/"),
];
/// Files that import one another, each circle with its reason.
const CIRCLES: [(&[&str], &str); 21] = [
    (
        &["batch/batcher.rs", "batch/builder.rs", "batch/call.rs"],
        "the builder makes the batcher that returns it; a call reports to the batcher that began it",
    ),
    (&["cache/data/builder.rs", "cache/data/data_cache.rs"], "the builder makes what returns it"),
    (&["cache/data/cached.rs", "cache/data/load.rs"], "a look-up starts a load, a load looks up once more"),
    (
        &[
            "cache/engine/body_buffer.rs",
            "cache/engine/body_pump.rs",
            "cache/engine/body_reader.rs",
            "cache/engine/tee.rs",
        ],
        "parts of one shared body",
    ),
    (
        &["cache/engine/invalidation_sink.rs", "cache/engine/store.rs"],
        "a store is given a sink, a sink clears the stores in front",
    ),
    (&["gate/inbound.rs", "gate/inbound_builder.rs"], "the builder makes what returns it"),
    (&["gate/outbound.rs", "gate/outbound_builder.rs"], "the builder makes what returns it"),
    (
        &["identity/client.rs", "identity/extract.rs"],
        "an extractor may know the client's address, which is an extractor",
    ),
    (
        &[
            "limit/engine/limiter.rs",
            "limit/engine/outcome_charge.rs",
            "limit/engine/pending_place.rs",
            "limit/engine/pending_settlement.rs",
            "limit/engine/reload.rs",
            "limit/engine/reservation.rs",
            "limit/engine/response_edits.rs",
            "limit/engine/shared_limits.rs",
        ],
        "parts of one limiter",
    ),
    (
        &["limit/policy/compiled_quota.rs", "limit/policy/decision.rs", "limit/policy/reject.rs"],
        "a quota carries its refusal's body, which is written from a decision on it",
    ),
    (&["limit/tower/builder.rs", "limit/tower/layer.rs"], "the builder makes what returns it"),
    (&["resilience/guard.rs", "resilience/guard/dial.rs"], "a file and its part"),
    (&["store/file/directory.rs", "store/file/node.rs"], "a directory opens a node, which closes it after an error"),
    (&["store/remote/backplane.rs", "store/remote/backplane/task.rs"], "a file and its part"),
    (&["store/remote_limits/engine.rs", "store/remote_limits/worker.rs"], "the engine queues what its workers send"),
    (
        &["timing/engine/harvest_health.rs", "timing/engine/span.rs"],
        "a span is opened where a harvest is installed; the span knows why one stays silent",
    ),
    (
        &["timing/engine/request_log.rs", "timing/engine/route_stats.rs", "timing/engine/shared.rs"],
        "a request's log belongs to a route, a route to a layer",
    ),
    (&["timing/measure/findings.rs", "timing/measure/stats.rs"], "a finding is counted by its kind"),
    (
        &["upstream/engine/body_inspector.rs", "upstream/engine/shared.rs", "upstream/engine/wait.rs"],
        "what waits, and what inspects a body, reports to the state that began it",
    ),
    (
        &[
            "upstream/quota/account.rs",
            "upstream/quota/account/booking.rs",
            "upstream/quota/account/correction.rs",
            "upstream/quota/account/settlement.rs",
        ],
        "a file and its parts",
    ),
    (&["upstream/tower/builder.rs", "upstream/tower/layer.rs"], "the builder makes what returns it"),
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
    if path.starts_with("src/") {
        found.extend(names::file(path));
        found.extend(names::types(&tokens).iter().filter_map(|(name, _)| names::refused(path, name)));
        if tokens.iter().any(|token| token == "PoisonError") && path != "src/base/lock.rs" {
            found.push(format!("{path}: a lock that can be poisoned; take one of base/lock.rs"));
        }
        if path != "src/lib.rs" && path.matches('/').count() == 1 {
            found.push(format!("{path}: loose in src/; it belongs in a folder"));
        }
    }
    // The guides are Markdown; their modules have no files.
    if path == "src/lib.rs" || path.starts_with("src/") && path.ends_with("/mod.rs") && path != "src/docs/mod.rs" {
        door(path, &tokens, &mut found);
    }
    found
}

fn is_pure(path: &str) -> bool {
    PURE.iter().any(|pure| path == *pure || pure.ends_with('/') && path.starts_with(pure))
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

/// Rooms do not import one another.
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
    let in_tower = path.starts_with("src/") && path.contains("/tower/");
    if path.starts_with("src/store/") {
        let of_ours = |named: &Vec<String>| resolve(path, named).get(1).is_some_and(|folder| folder == "tower");
        if names_tower || paths.iter().any(of_ours) {
            found.push(format!("{path}: an engine names tower"));
        }
    }
    for (engine, home) in ENGINES {
        let a_module = tokens.windows(2).any(|pair| pair[0] == "mod" && pair[1] == engine);
        if a_module || !path.starts_with("src/") || !paths.iter().any(|named| named[0] == engine) {
            continue;
        }
        if !path.starts_with(home) {
            found.push(format!("{path}: names {engine}, which lives in {home}"));
        }
        if names_tower || in_tower {
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

/// Circles of folders, and those of files.
fn circles_of(sources: &[(String, String)]) -> (Vec<Vec<String>>, Vec<Vec<String>>) {
    let imports = Graph::new(sources).imports();
    let files: BTreeSet<String> = sources.iter().map(|(path, _)| path.clone()).collect();
    let folders = imports.iter().map(|(from, to)| (folder(from, &files), folder(to, &files)));
    (circles(&folders.filter(|(from, to)| from != to).collect()), circles(&imports))
}

/// Names of types that two files share, though both can be named from elsewhere.
fn twice(sources: &[(String, String)]) -> Vec<String> {
    let of_crate = sources.iter().filter(|(path, _)| path.starts_with("src/"));
    let read = of_crate.map(|(path, source)| (path, tokens(&without_tests(source)))).collect::<Vec<_>>();
    let types = read.iter().flat_map(|(path, tokens)| {
        let visible = names::types(tokens).into_iter().filter(|(_, visible)| *visible);
        visible.map(|(name, _)| (path.as_str(), name)).collect::<Vec<_>>()
    });
    names::twice(types)
}

#[test]
fn the_sources_keep_the_rules() {
    let sources = sources();
    let found: Vec<String> = sources.iter().flat_map(|(path, source)| violations(path, source)).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
    // The check looked where the decisions are: every folder and file that is named as pure exists.
    for pure in PURE {
        assert!(sources.iter().any(|(path, _)| path.starts_with(pure) && is_pure(path)), "{pure}");
    }
}

#[test]
fn folders_do_not_import_one_another_in_a_circle_and_files_only_where_it_is_listed() {
    let sources = sources();
    let (folders, files) = circles_of(&sources);
    assert_eq!(folders, Vec::<Vec<String>>::new(), "circles of folders");
    let listed: Vec<Vec<String>> =
        CIRCLES.iter().map(|(circle, _)| circle.iter().map(|file| format!("src/{file}")).collect()).collect();
    assert_eq!(files, listed, "circles of files, and those that are listed");
}

#[test]
fn a_type_that_others_can_name_has_a_name_of_its_own() {
    assert_eq!(twice(&sources()), Vec::<String>::new());
}

#[test]
fn every_rule_can_be_broken() {
    let long = "\n".repeat(LONGEST + 1);
    for (path, source, why) in [
        ("src/limit/algorithm/gcra.rs", "use std::{time::Duration}; use tokio::time;", "names tokio::time"),
        ("src/limit/algorithm/gcra.rs", "fn f() { futures_util::future::ready(1); }", "names futures_util"),
        ("src/cache/http/policy.rs", "use {moka::sync::Cache};", "names moka"),
        ("src/cache/http/vary.rs", "async fn f() {}", "is async"),
        ("src/cache/http/freshness.rs", "fn f() { let t = clock.now(); }", "asks the time"),
        ("src/timing/measure/slow/ring.rs", "fn f() { Instant::now(); }", "asks the time"),
        ("src/cache/tower/layer.rs", "use crate::limit::Quota;", "imports crate::limit::Quota"),
        (
            "src/cache/tower/layer.rs",
            "use crate::{base::clock::Clock, timing::{timed, X}};",
            "imports crate::timing::timed",
        ),
        (
            "src/timing/tower/layer.rs",
            "fn f() { super::super::super::cache::g() }",
            "imports super::super::super::cache",
        ),
        ("src/limit/mod.rs", "pub use super::upstream::Credit;", "imports super::upstream"),
        ("src/store/memory/limits.rs", "use tower_service::Service;", "an engine names tower"),
        ("src/store/memory/cache.rs", "use crate::cache::tower::layer::CacheLayer;", "an engine names tower"),
        ("src/cache/engine/store.rs", "use tower_layer::Layer; use moka::sync::Cache;", "both tower and moka"),
        ("src/cache/tower/service.rs", "use moka::sync::Cache;", "both tower and moka"),
        ("src/cache/engine/tiered.rs", "type C = moka::sync::Cache<u8, u8>;", "names moka, which lives in"),
        ("src/limit/tower/service.rs", "fn f() { governor::RateLimiter::direct(q) }", "names governor"),
        ("src/limit/mod.rs", "mod gcra; fn f() {}", "holds more"),
        ("src/lib.rs", "//! Docs.\npub mod limit { pub fn f() {} }", "holds more"),
        ("src/stack.rs", "fn f() {}", "loose in src/"),
        ("src/cache/engine/tee.rs", "use std::sync::{Mutex, PoisonError};", "can be poisoned"),
        ("src/cache/http/judge.rs", "fn f() {}", "the term is storability"),
        ("src/cache/http/facts/mod.rs", "pub(crate) struct Facts;", "the term is RequestFlags"),
        ("src/cache/tower/layer.rs", "struct Settings { a: u8 }", "a name of its own"),
        ("tests/long.rs", &long, "longer than"),
    ] {
        let found = violations(path, source).join("\n");
        assert!(found.contains(why), "{path}: {source}\nfound: {found:?}, expected: {why}");
    }
}

#[test]
fn circles_and_names_used_twice_are_found_in_a_small_house() {
    let house = |files: &[(&str, &str)]| -> Vec<(String, String)> {
        files.iter().map(|(path, source)| ((*path).to_owned(), (*source).to_owned())).collect()
    };
    let found = circles_of(&house(&[
        ("src/lib.rs", "mod a; mod b;"),
        ("src/a/mod.rs", "pub(crate) mod one; mod two; mod three; pub(crate) use two::Two;"),
        // Through a re-export, an inline path, a group and a nested module.
        ("src/a/one.rs", "use crate::b::Sun; fn f() { super::three::g() }"),
        ("src/a/two.rs", "pub(crate) struct Two; mod inner; use inner::X;"),
        ("src/a/two/inner.rs", "use std::fmt; use super::super::{three::g, one::{self}};"),
        ("src/a/three.rs", "pub(crate) fn g() {} #[cfg(test)]\nmod tests { use super::super::one; }"),
        ("src/b/mod.rs", "mod sun; pub(crate) use sun::Sun;"),
        ("src/b/sun.rs", "use crate::a::Two; pub(crate) struct Sun(Two);"),
        ("src/b/sun/tests.rs", "use crate::a::one;"),
    ]));
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let files = ["src/a/one.rs", "src/a/two.rs", "src/a/two/inner.rs", "src/b/sun.rs"];
    assert_eq!(found, (vec![named(&["a", "b"])], vec![named(&files)]));

    let downward = house(&[
        ("src/lib.rs", "mod a; mod b; pub use a::one::One;"),
        ("src/a/mod.rs", "pub(crate) mod one;"),
        ("src/a/one.rs", "pub struct One; type Item = u8; impl Iterator for One { type Item = u8; }"),
        ("src/b/mod.rs", "mod two; pub(crate) use two::Two;"),
        ("src/b/two.rs", "use crate::One; use super::Two as Me; pub(crate) struct Two(One); struct Hidden;"),
    ]);
    assert_eq!((circles_of(&downward), twice(&downward)), ((Vec::new(), Vec::new()), Vec::new()));

    let same =
        house(&[("src/a/x.rs", "pub(super) enum Same {} struct Own;"), ("src/b/y.rs", "pub struct Same; struct Own;")]);
    assert_eq!(twice(&same), ["`Same` is defined in src/a/x.rs and src/b/y.rs"]);
}

#[test]
fn what_is_allowed_is_not_reported() {
    for (path, source) in [
        (
            "src/limit/algorithm/gcra.rs",
            "//! Like tokio::time.\n/* use moka::X; */\nconst S: &str = \"async now( tower::X\";",
        ),
        ("src/limit/algorithm/gcra.rs", "fn f<'a>(now: Timestamp, c: char) -> bool { c == '\"' }\n// tower::X \"\n"),
        ("src/limit/algorithm/gcra.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use tokio::time;\n}\n"),
        ("src/limit/algorithm/gcra.rs", "const S: &str = r#\"tokio::time \" now()\"#; const B: &[u8] = b\"moka::X\";"),
        (
            "src/limit/tower/layer.rs",
            "use crate::identity::Key; use super::Quota; use self::cache::Cache; use tower_layer::Layer;",
        ),
        (
            "src/store/mod.rs",
            "#[cfg(feature = \"redis\")]\npub mod redis;\npub use redis::Redis;\npub(crate) mod memory;",
        ),
        ("src/store/memory/entries.rs", "use moka::sync::Cache; use crate::cache::CacheStore;"),
        ("src/gate/inbound.rs", "use crate::{cache::CacheLayer, limit::RateLimitLayer}; use tower_layer::Layer;"),
        ("src/lib.rs", "#![doc = \"x\"]\nmod a;\npub use a::{B, C};\n#[cfg(doctest)]\n#[doc = \"y\"]\nstruct Readme;"),
        ("src/base/lock.rs", "use std::sync::PoisonError;"),
        ("tests/gateway.rs", "use redis::Client; use tower::Layer;"),
        ("tests/support/mod.rs", "pub fn f() {}"),
    ] {
        assert_eq!(violations(path, source), Vec::<String>::new(), "{path}: {source}");
    }
}
