//! redis: a call of another service, named by its command.

use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, RedisResult};
use tollgate::timing::timed_upstream;

pub async fn cached(connection: &mut MultiplexedConnection, key: &str) -> RedisResult<Option<String>> {
    timed_upstream("redis GET", connection.get(key)).await
}
