//! A service in front of a paid API that is killed and started again: `cargo run --example restart`, or with
//! `-- --postgres postgres://app@127.0.0.1/app`.
//!
//! This process is the paid API, and counts its calls. It starts the service as a process of its own, with a cache in
//! memory and a file level or PostgreSQL behind it, sends it traffic, kills it with SIGKILL, and starts it again over the
//! same level. Ends with an error if a call was paid twice.
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

#[path = "restart/client.rs"]
mod client;
#[path = "restart/paid_api.rs"]
mod paid_api;
#[path = "restart/service.rs"]
mod service;

use std::error::Error;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use paid_api::PaidApi;

type BoxError = Box<dyn Error + Send + Sync>;

/// Number of symbols, each of which costs a call.
const SYMBOLS: usize = 50;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--serve", level, place, api] => service::serve(level, place, api).await.map(|()| ExitCode::SUCCESS),
        [] => {
            let directory = Directory(std::env::temp_dir().join(format!("tollgate-restart-{}", std::process::id())));
            restart("--file", directory.0.as_os_str()).await
        }
        ["--postgres", url] => restart("--postgres", OsStr::new(url)).await,
        _ => Err("usage: restart [--postgres URL]".into()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

/// Runs the service twice over this level, and kills it in between.
async fn restart(level: &str, place: &OsStr) -> Result<ExitCode, BoxError> {
    let api = PaidApi::start().await?;
    let mut first = Service::start(level, place, api.address)?;
    ask_for_all(first.address).await?;
    let bought = api.calls();
    println!("calls paid for {SYMBOLS} symbols: {bought}");
    ask_for_all(first.address).await?;
    println!("calls paid when they are asked for again: {}", api.calls() - bought);
    // What was put in the last few milliseconds would be lost.
    tokio::time::sleep(Duration::from_millis(100)).await;
    first.kill()?;
    println!("the service is killed, and started again");
    let paid = api.calls();
    let second = Service::start(level, place, api.address)?;
    ask_for_all(second.address).await?;
    let paid = api.calls() - paid;
    println!("calls paid after the restart: {paid}");
    Ok(if paid == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ask_for_all(service: SocketAddr) -> Result<(), BoxError> {
    for symbol in 0..SYMBOLS {
        let price = client::get(&service.to_string(), &format!("/prices/S{symbol}")).await?;
        if price != paid_api::price(&format!("S{symbol}")) {
            return Err(format!("S{symbol} costs {price:?}").into());
        }
    }
    Ok(())
}

/// The process of the service, killed when it is dropped.
struct Service {
    process: Child,
    address: SocketAddr,
}

impl Service {
    /// Starts it, and waits until it listens.
    fn start(level: &str, place: &OsStr, api: SocketAddr) -> Result<Self, BoxError> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--serve", level])
            .arg(place)
            .arg(api.to_string())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().ok_or("no output")?;
        let first = BufReader::new(output).lines().next().ok_or("the service ended")??;
        Ok(Self { process, address: first.parse()? })
    }

    /// Kills it, as `kill -9` does.
    fn kill(&mut self) -> Result<(), BoxError> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.kill();
    }
}

/// Deletes the directory of the example.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
