//! Configuration files: what they set, and the errors of wrong ones.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tollgate::{Clock, ManualClock, PeerAddr, Tollgate};
use tower::{Layer, ServiceExt, service_fn};

const FILE: &str = r#"
schema = 1
routes = ["/prices/{symbol}", "/login"]
[program]
listen = "127.0.0.1:8080"
[identity]
user = "header:X-Api-Key"
proxies = ["10.0.0.0/8"]
[limits.login]
by = "ip"
routes = ["POST /login"]
quota = "2/15min"
count = "failures"
[limits.prices]
by = "user"
routes = ["GET /prices/{symbol}"]
quota = "1/min"
[limits.trial]
by = "global"
quota = "1/day"
mode = "shadow"
"#;

fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let request = fields.iter().fold(Request::builder().method(method).uri(path), |r, (k, v)| r.header(*k, *v));
    let mut request = request.body(Empty::new()).unwrap();
    request.extensions_mut().insert(PeerAddr("10.1.2.3:4000".parse().unwrap()));
    request
}

/// Statuses of requests to a gate of this file, around a service that answers with the status in `x-status`.
async fn statuses(gate: &Tollgate, requests: Vec<Request<Empty<Bytes>>>) -> Vec<u16> {
    let inner = service_fn(async |request: Request<Empty<Bytes>>| {
        let wanted = request.headers().get("x-status").map_or(200, |s| s.to_str().unwrap().parse().unwrap());
        Ok::<_, Infallible>(
            Response::builder().status(StatusCode::from_u16(wanted).unwrap()).body(Empty::<Bytes>::new()).unwrap(),
        )
    });
    let service = gate.layer().layer(inner);
    let mut statuses = Vec::new();
    for request in requests {
        statuses.push(service.clone().oneshot(request).await.unwrap().status().as_u16());
    }
    statuses
}

fn gate() -> Tollgate {
    let clock = ManualClock::new();
    Tollgate::builder().clock(Clock::Manual(clock)).config(FILE).unwrap().build().unwrap()
}

#[tokio::test]
async fn a_limit_counts_failures_of_each_forwarded_address() {
    let attempt = |client, status| request("POST", "/login", &[("x-forwarded-for", client), ("x-status", status)]);
    let requests = vec![
        attempt("192.0.2.1", "200"),
        attempt("192.0.2.1", "401"),
        attempt("192.0.2.1", "401"),
        attempt("192.0.2.1", "200"),
        attempt("192.0.2.2", "200"),
    ];
    assert_eq!(statuses(&gate(), requests).await, [200, 401, 401, 429, 200]);
}

#[tokio::test]
async fn a_limit_counts_users_on_its_routes_and_a_shadow_limit_rejects_nothing() {
    let price = |user, symbol: &str| request("GET", &format!("/prices/{symbol}"), &[("x-api-key", user)]);
    let requests = vec![price("a", "btc"), price("a", "eth"), price("b", "btc"), request("GET", "/other", &[])];
    assert_eq!(statuses(&gate(), requests).await, [200, 429, 200, 200]);
}

#[test]
fn limits_are_named_after_their_tables() {
    let names: Vec<String> = gate().stats().limits.iter().map(|limit| limit.name.to_string()).collect();
    assert_eq!(names, ["login", "prices", "trial"]);
}

#[test]
fn the_example_is_valid_and_the_guide_shows_it_whole() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let gate = Tollgate::from_config(root.join("examples/tollgate.toml")).unwrap();
    let limits: Vec<String> =
        gate.stats().limits.iter().map(|limit| format!("{} {}", limit.name, limit.quota)).collect();
    assert_eq!(limits, ["login 5/900s", "plan 100/min"]);
    let example = fs::read_to_string(root.join("examples/tollgate.toml")).unwrap();
    let guide = fs::read_to_string(root.join("src/docs/configuration.md")).unwrap();
    assert!(guide.contains(&format!("```toml\n{example}```")), "the guide and the example differ");
}

#[test]
fn a_file_that_does_not_exist_is_named() {
    let error = Tollgate::from_config("no/such.toml").unwrap_err();
    assert!(error.is_config() && error.to_string().starts_with("cannot read no/such.toml: "), "{error}");
}

/// Each `tests/config_errors/NAME.toml` has its message in `NAME.txt`.
#[test]
fn wrong_files_have_the_expected_messages() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_errors");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    assert!(files.len() >= 17, "only {} files", files.len());
    let mut wrong = Vec::new();
    for path in files {
        let Err(error) = Tollgate::from_config(&path) else {
            wrong.push(format!("{}: no error", path.display()));
            continue;
        };
        let message = error.to_string().replace(&format!("{}/", folder.display()), "");
        let expected = fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
        if message.trim_end() != expected.trim_end() {
            wrong.push(message);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[tokio::test]
async fn a_cache_rule_stores_responses_for_its_routes() {
    let clock = ManualClock::new();
    let file = "schema = 1\nroutes = [\"/prices/{symbol}\"]\n[cache]\nmemory = \"1MiB\"\n[cache.rules.prices]\n\
                route = \"/prices/{symbol}\"\nttl = \"15m\"\nsame_for_everyone = true\ntags = [\"prices\"]\n";
    let builder = Tollgate::builder().clock(Clock::Manual(clock.clone())).config(file).unwrap();
    let gate = builder.build().unwrap();
    let price = || request("GET", "/prices/btc", &[("host", "h"), ("authorization", "Bearer anyone")]);
    statuses(&gate, vec![price(), price()]).await;
    assert_eq!((gate.stats().inner_calls, gate.stats().cache[0].capacity_bytes), (1, 1 << 20));
    clock.advance(std::time::Duration::from_secs(901));
    statuses(&gate, vec![price()]).await;
    assert_eq!(gate.stats().inner_calls, 2);
    gate.invalidate().tag("prices").await.unwrap();
    statuses(&gate, vec![price()]).await;
    assert_eq!(gate.stats().inner_calls, 3);
}

#[test]
fn the_code_may_identify_the_users_of_a_file() {
    use tollgate::identity::{KeyExtractor, TrustedProxies, by};
    let file = "schema = 1\n[limits.plan]\nby = \"user\"\nquota = \"5/min\"\n";
    let user = by::header("x-key").or(by::client_ip(TrustedProxies::none()));
    assert!(Tollgate::builder().identify(user).config(file).and_then(|builder| builder.build()).is_ok());
    assert!(Tollgate::builder().config(file).is_err());
}
