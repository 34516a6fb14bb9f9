//! Asks for one URL.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::BoxError;

/// Returns the body of a response with status 200.
pub(crate) async fn get(address: &str, path: &str) -> Result<String, BoxError> {
    let mut stream = TcpStream::connect(address).await?;
    // The host is part of a cache key, the port that happens to be free is not.
    let request = format!("GET {path} HTTP/1.1\r\nHost: prices.example\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let (head, body) = response.split_once("\r\n\r\n").ok_or("not a response")?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(format!("{path}: {head}").into());
    }
    Ok(body.to_owned())
}
