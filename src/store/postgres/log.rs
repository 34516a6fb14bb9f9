//! PostgreSQL as a [`ByteLog`]: the invalidations of all processes, and those of your own transactions.
//!
//! A notification is a hint that makes an invalidation fast; the table is the truth, and is read once a second. A session
//! that listens counts only when a message of its own has come back: through a transaction pooler none does.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::bytes::{PostgresBytes, run};
use super::connect::{Link, column};
use super::guarded::agree;
use crate::base::error::Error;
use crate::base::maybe_ready::BoxFuture;
use crate::base::random::random;
use crate::cache::engine::barrier::{InvalidationScope, Prefix};
use crate::cache::engine::invalidation_log::{LogRecord, LogRecordId};
use crate::cache::{ByteLog, Invalidation, LogMessage};

/// How long a session that listens waits for its own message.
const OWN_MESSAGE_TIMEOUT: Duration = Duration::from_millis(500);
/// Interval between attempts to listen where no message comes back.
const LISTEN_RETRY: Duration = Duration::from_secs(60);
/// Longest message; the server refuses 8 000 bytes.
const MAX_MESSAGE: usize = 7_900;

impl ByteLog for PostgresBytes {
    fn now(&self) -> BoxFuture<Result<u64, Error>> {
        run(&self.log, &self.statements, async |link, _| {
            let micros = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
            Ok(column::<i64>(&link.query_one(micros, &[]).await?, 0)?.unsigned_abs().saturating_mul(1_000))
        })
    }

    fn agree(&self, proposed: String) -> BoxFuture<Result<String, Error>> {
        run(&self.log, &self.statements, async move |link, statements| agree(&link, &statements, proposed).await)
    }

    fn append(&self, first: Bytes, record: Bytes) -> BoxFuture<Result<u64, Error>> {
        run(&self.log, &self.statements, async move |link, statements| {
            let parameters = [(&&first[..] as _, Type::BYTEA), (&&record[..] as _, Type::BYTEA)];
            Ok(column::<i64>(&link.query_one(&statements.append, &parameters).await?, 0)?.unsigned_abs())
        })
    }

    fn read(&self, from: Option<u64>) -> BoxFuture<Result<Vec<(u64, Bytes)>, Error>> {
        run(&self.log, &self.statements, async move |link, statements| {
            let from = from.map_or(0, u64::cast_signed);
            // Pipelined, in this order: committed rows of the outbox are numbered before the log is read.
            let sequenced = link.query(&statements.sequence, &[]);
            let (_, rows) = try_join(sequenced, link.query(&statements.read, &[(&from, Type::INT8)])).await?;
            rows.iter().map(record).collect()
        })
    }

    fn restart(&self, first: Bytes, known: u64) -> BoxFuture<Result<(), Error>> {
        run(&self.log, &self.statements, async move |link, statements| {
            let known = known.cast_signed();
            let parameters = [(&&first[..] as _, Type::BYTEA), (&known as _, Type::INT8)];
            link.query(&statements.restart, &parameters).await.map(drop)
        })
    }

    fn publish_removal(&self, key: Bytes) -> BoxFuture<Result<(), Error>> {
        run(&self.log, &self.statements, async move |link, statements| {
            let message = format!("removal:{}", hex(&key));
            if message.len() > MAX_MESSAGE {
                return Ok(());
            }
            link.query(&statements.notify, &[(&message, Type::TEXT)]).await.map(drop)
        })
    }

    fn subscribe(&self) -> BoxFuture<Result<BoxStream<'static, LogMessage>, Error>> {
        let (address, statements) = (self.postgres.address.clone(), self.statements.clone());
        let log = self.log.clone();
        Box::pin(async move {
            let (sender, mut messages) = unbounded_channel();
            let link = Link::open(&address, Some(sender)).await?;
            link.query(&statements.listen, &[]).await?;
            let own = format!("own:{:016x}", random());
            // From another session: a pooler delivers what a session sends itself, and nothing else.
            log.query(&statements.notify, &[(&own, Type::TEXT)]).await?;
            if !came_back(&mut messages, &own).await {
                // The log is read once a second. The stream ends after a while, and the next attempt may succeed.
                let ends = tokio::time::sleep(LISTEN_RETRY);
                return Ok(stream::once(ends).filter_map(async |()| None).boxed());
            }
            // The stream owns the connection.
            let messages = stream::unfold((messages, link), async |(mut messages, link)| {
                let message = messages.recv().await?;
                Some((message, (messages, link)))
            });
            // Not the first messages of other sessions.
            let messages = messages.filter(|message| std::future::ready(!message.starts_with("own:")));
            Ok(messages.map(|message| parse_message(&message)).boxed())
        })
    }
}

/// Waits for this session's own message. Messages before it are in the log, which is read after subscribing.
async fn came_back(messages: &mut UnboundedReceiver<String>, own: &str) -> bool {
    let wait = async {
        while let Some(message) = messages.recv().await {
            if message == own {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(OWN_MESSAGE_TIMEOUT, wait).await.unwrap_or(false)
}

/// Returns a record with its position. A row of the outbox is encoded in the same way on every process.
fn record(row: &Row) -> Result<(u64, Bytes), Error> {
    let position = column::<i64>(row, 0)?.unsigned_abs();
    if let Some(record) = column::<Option<&[u8]>>(row, 1)? {
        return Ok((position, Bytes::copy_from_slice(record)));
    }
    let scope = scope(column(row, 2)?, column(row, 3)?, column(row, 4)?);
    let invalidation = Invalidation::new(scope, column(row, 5)?);
    Ok((position, LogRecord::encode(LogRecordId::of_outbox(position), Some(&invalidation)).into()))
}

fn scope(tag: Option<&str>, path: Option<&str>, prefix: Option<&str>) -> InvalidationScope {
    match (tag, path, prefix) {
        (Some(tag), ..) => InvalidationScope::Tag(tag.into()),
        (_, Some(path), _) => InvalidationScope::Path(path.as_bytes().into()),
        (.., Some(prefix)) => {
            let path = prefix.as_bytes().into();
            InvalidationScope::Prefix(Prefix { scheme: None, authority: None, path })
        }
        // Rather too much than too little.
        _ => InvalidationScope::All,
    }
}

fn parse_message(message: &str) -> LogMessage {
    let parsed = match message.split_once(':') {
        Some(("removal", key)) => unhex(key).map(LogMessage::Removal),
        Some(("record", record)) => record
            .split_once(':')
            .and_then(|(position, record)| Some(LogMessage::Record(position.parse().ok()?, unhex(record)?))),
        _ => None,
    };
    parsed.unwrap_or(LogMessage::Unknown)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Option<Bytes> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c.to_digit(16)?).ok()).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        assert_eq!(parse_message("record:7:6162"), LogMessage::Record(7, Bytes::from_static(b"ab")));
        let removal = format!("removal:{}", hex(b"\0key\xff"));
        assert_eq!(parse_message(&removal), LogMessage::Removal(Bytes::from_static(b"\0key\xff")));
        for unknown in ["", "read", "record:x:61", "record:7", "record:7:6", "record:7:zz", "removal:é"] {
            assert_eq!(parse_message(unknown), LogMessage::Unknown, "{unknown}");
        }
    }
}
