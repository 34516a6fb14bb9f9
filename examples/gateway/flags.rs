//! Parses the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use http::uri::{Authority, Scheme};
use tollgate::cache::Profile;
use tollgate::limit::Quota;

/// Output of `--help`.
pub(crate) const USAGE: &str = "\
usage: gateway --upstream http://HOST:PORT [FLAGS]

  --listen ADDRESS:PORT        address to listen on (127.0.0.1:3001)
  --upstream http://HOST:PORT  the origin
  --upstream-timeout SECONDS   timeout for the head of its response (30)
  --profile app|shared         what the cache stores (shared: what RFC 9111 permits)
  --memory SIZE                capacity of the cache (64MiB)
  --mirror SIZE                capacity of the mirror, a file with copies of large bodies that the kernel sends without
                               copying (as --memory; 0: none; Linux)
  --mirror-in FOLDER           folder of that file (in memory); sending from ext4 takes less processor time
  --max-entry SIZE             largest response to store (1MiB)
  --targeted-field NAME        targeted cache-control field to obey, RFC 9213; repeatable
  --cache-status               send Cache-Status, RFC 9211
  --limit-per-ip QUOTA         limit per client address, such as 100/min (none)
  --trust-proxy CIDR           trusted proxies for the client's address; repeatable
  --forwarded-header NAME      field in which they send it (x-forwarded-for)
  --file FOLDER                keep cached responses in this folder, over restarts (none)
  --file-size SIZE             capacity of that folder (1GiB)
  --redis URL                  share limits and cache with other gateways, such as redis://127.0.0.1
  --postgres URL               share the cache with other gateways, such as postgres://app@127.0.0.1/app; asked after Redis
  --timing                     send Server-Timing
  --grace SECONDS              time for requests in flight to finish after SIGINT or SIGTERM (10)
  --metrics PATH               serve metrics for Prometheus on this path, such as /metrics";

/// Parsed flags.
#[derive(Clone, Debug)]
pub(crate) struct Flags {
    pub(crate) listen: SocketAddr,
    pub(crate) upstream: Authority,
    pub(crate) upstream_timeout: Duration,
    pub(crate) profile: Profile,
    pub(crate) memory: u64,
    pub(crate) mirror: Option<u64>,
    pub(crate) mirror_in: Option<PathBuf>,
    pub(crate) max_entry: u64,
    pub(crate) targeted: Vec<String>,
    pub(crate) cache_status: bool,
    pub(crate) limit_per_ip: Option<Quota>,
    pub(crate) trusted: Vec<String>,
    pub(crate) forwarded_header: Option<String>,
    pub(crate) timing: bool,
    pub(crate) metrics: Option<String>,
    pub(crate) redis: Option<String>,
    pub(crate) postgres: Option<String>,
    pub(crate) file: Option<PathBuf>,
    pub(crate) file_size: u64,
    pub(crate) grace: Duration,
}

impl Flags {
    /// Returns the defaults in front of that origin.
    pub(crate) fn new(upstream: Authority) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 3001)),
            upstream,
            upstream_timeout: Duration::from_secs(30),
            profile: Profile::Shared,
            memory: 64 << 20,
            mirror: None,
            mirror_in: None,
            max_entry: 1 << 20,
            targeted: Vec::new(),
            cache_status: false,
            limit_per_ip: None,
            trusted: Vec::new(),
            forwarded_header: None,
            timing: false,
            metrics: None,
            redis: None,
            postgres: None,
            file: None,
            file_size: 1 << 30,
            grace: Duration::from_secs(10),
        }
    }

    /// Reads `--name value` and `--name=value`; returns `None` if help is requested.
    ///
    /// # Errors
    /// Returns one line that names the invalid flag and value.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Option<Self>, String> {
        let mut arguments = arguments.into_iter();
        let mut upstream = None;
        // Placeholder until the upstream is known.
        let mut flags = Self::new(Authority::from_static("upstream"));
        while let Some(argument) = arguments.next() {
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            match &*name {
                "--help" | "-h" => return Ok(None),
                "--cache-status" | "--timing" if inline.is_some() => return Err(format!("{name} takes no value")),
                "--cache-status" => flags.cache_status = true,
                "--timing" => flags.timing = true,
                _ => {
                    let value = || inline.or_else(|| arguments.next()).ok_or_else(|| format!("{name} needs a value"));
                    flags.set(&name, value, &mut upstream)?;
                }
            }
        }
        flags.upstream = upstream.ok_or("--upstream is missing")?;
        if flags.forwarded_header.is_some() && flags.trusted.is_empty() {
            return Err("--forwarded-header requires --trust-proxy".to_owned());
        }
        Ok(Some(flags))
    }

    fn set(
        &mut self,
        name: &str,
        value: impl FnOnce() -> Result<String, String>,
        upstream: &mut Option<Authority>,
    ) -> Result<(), String> {
        let wrong = |value: &str, what: &str| format!("{name} {value:?} is not {what}");
        match name {
            "--listen" => {
                let value = value()?;
                self.listen = value.parse().map_err(|_| wrong(&value, "an address with a port"))?;
            }
            "--upstream" => {
                let value = value()?;
                *upstream = Some(origin(&value).ok_or_else(|| wrong(&value, "http://HOST:PORT"))?);
            }
            "--upstream-timeout" => {
                let value = value()?;
                let seconds = value.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
                let positive = seconds.filter(|timeout| !timeout.is_zero());
                self.upstream_timeout = positive.ok_or_else(|| wrong(&value, "a number of seconds"))?;
            }
            "--grace" => {
                let value = value()?;
                let seconds = value.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
                self.grace = seconds.ok_or_else(|| wrong(&value, "a number of seconds"))?;
            }
            "--profile" => {
                self.profile = match &*value()? {
                    "app" => Profile::App,
                    "shared" => Profile::Shared,
                    other => return Err(wrong(other, "app or shared")),
                };
            }
            "--memory" => self.memory = size(name, &value()?)?,
            "--mirror" => self.mirror = Some(size(name, &value()?)?),
            "--mirror-in" => self.mirror_in = Some(value()?.into()),
            "--max-entry" => self.max_entry = size(name, &value()?)?,
            "--targeted-field" => self.targeted.push(value()?),
            "--limit-per-ip" => {
                let value = value()?;
                self.limit_per_ip = Some(value.parse().map_err(|error| format!("{name} {value:?}: {error}"))?);
            }
            "--metrics" => {
                let value = value()?;
                let path = value.strip_prefix('/').filter(|path| !path.contains(['?', '#', '*']));
                self.metrics = Some(path.map(|path| format!("/{path}")).ok_or_else(|| wrong(&value, "a path"))?);
            }
            "--redis" => self.redis = Some(value()?),
            "--postgres" => self.postgres = Some(value()?),
            "--file" => self.file = Some(value()?.into()),
            "--file-size" => self.file_size = size(name, &value()?)?,
            "--trust-proxy" => self.trusted.push(value()?),
            "--forwarded-header" => self.forwarded_header = Some(value()?),
            _ => return Err(format!("unknown argument {name:?}")),
        }
        Ok(())
    }
}

/// Returns the host and port of `http://HOST:PORT`.
fn origin(text: &str) -> Option<Authority> {
    let parts = text.parse::<Uri>().ok()?.into_parts();
    let bare = parts.path_and_query.is_none_or(|path| path == "/");
    (parts.scheme == Some(Scheme::HTTP) && bare).then_some(parts.authority).flatten()
}

/// Parses a number of bytes: `1048576`, `1024KiB`, `1MiB`.
fn size(name: &str, text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let bytes = unit.and_then(|unit: u64| digits.parse::<u64>().ok()?.checked_mul(unit));
    bytes.ok_or_else(|| format!("{name} {text:?} is not a size such as 256MiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Flags>, String> {
        Flags::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn every_flag_is_read() {
        let flags = parse(
            "--upstream http://origin:8080 --listen=[::1]:80 --profile app --memory 256MiB --mirror 32MiB --mirror-in /var/tmp --max-entry=8MiB \
             --targeted-field CDN-Cache-Control --targeted-field=X --cache-status --timing --limit-per-ip 100/min \
             --trust-proxy 10.0.0.0/8 --trust-proxy fd00::/8 --forwarded-header forwarded --upstream-timeout 1.5 --metrics /metrics --redis redis://10.0.0.9 \
             --postgres postgres://10.0.0.8/app --file /var/cache/gateway --file-size 2GiB",
        )
        .expect("correct flags")
        .expect("no help");
        assert_eq!((flags.upstream.as_str(), flags.listen.port()), ("origin:8080", 80));
        assert_eq!((flags.profile, flags.memory, flags.max_entry), (Profile::App, 256 << 20, 8 << 20));
        assert_eq!((flags.mirror, flags.mirror_in), (Some(32 << 20), Some("/var/tmp".into())));
        assert_eq!((flags.targeted.len(), flags.trusted.len()), (2, 2));
        assert!(flags.cache_status && flags.timing);
        assert_eq!(flags.metrics.as_deref(), Some("/metrics"));
        assert_eq!(flags.redis.as_deref(), Some("redis://10.0.0.9"));
        assert_eq!(flags.postgres.as_deref(), Some("postgres://10.0.0.8/app"));
        assert_eq!((flags.file, flags.file_size), (Some("/var/cache/gateway".into()), 2 << 30));
        assert_eq!(flags.limit_per_ip, Some(Quota::per_minute(100)));
        assert_eq!(flags.forwarded_header.as_deref(), Some("forwarded"));
        assert_eq!(flags.upstream_timeout, Duration::from_millis(1_500));
    }

    #[test]
    fn errors_name_the_invalid_value() {
        for (line, named) in [
            ("", "--upstream is missing"),
            ("--upstream", "--upstream needs a value"),
            ("--upstream https://origin", "https://origin"),
            ("--upstream http://origin/path", "http://origin/path"),
            ("--upstream http://o --listen here", "here"),
            ("--upstream http://o --memory 256MB", "256MB"),
            ("--upstream http://o --memory 99999999999GiB", "99999999999GiB"),
            ("--upstream http://o --limit-per-ip 0/min", "0/min"),
            ("--upstream http://o --limit-per-ip often", "often"),
            ("--upstream http://o --profile public", "public"),
            ("--upstream http://o --upstream-timeout -1", "-1"),
            ("--upstream http://o --timing=yes", "--timing takes no value"),
            ("--upstream http://o --forwarded-header forwarded", "--trust-proxy"),
            ("--upstream http://o --metrics metrics", "\"metrics\" is not a path"),
            ("--upstream http://o --verbose x", "--verbose"),
        ] {
            let error = parse(line).expect_err("refused");
            assert!(error.contains(named), "{line}: {error}");
        }
        assert!(parse("--help").expect("help").is_none());
    }
}
