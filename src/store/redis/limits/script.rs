//! Script calls by hash (`EVALSHA`), with `SCRIPT LOAD` on demand.

use redis::{Cmd, Value};
use smallvec::SmallVec;

use super::protocol::ScriptCall;
use crate::base::error::Error;
use crate::resilience::guard::Fault;
use crate::store::redis::connect::Conn;

/// The script and its hash.
pub(super) struct Script {
    source: &'static str,
    hash: String,
}

impl Script {
    pub(super) fn new() -> Self {
        let source = include_str!("script.lua");
        Self { source, hash: redis::Script::new(source).get_hash().to_owned() }
    }

    /// Calls the script. After a restart or `SCRIPT FLUSH` the source is sent again, once.
    pub(super) async fn call(
        &self,
        mut connection: Conn,
        names: &ScriptKeys,
        call: &ScriptCall,
        now: Option<u64>,
    ) -> Result<Vec<i64>, Fault> {
        let command = |verb: &str, script: &str| {
            let mut command = redis::cmd(verb);
            command.arg(script).arg(call.keys.len());
            call.keys.iter().for_each(|key| names.write(&mut command, *key));
            command.arg(&call.blob);
            if let Some(now) = now {
                command.arg(now);
            }
            command
        };
        let reply = connection.call_script(&command("EVALSHA", &self.hash)).await?;
        let reply = match reply {
            Some(reply) => reply,
            None => connection.query(&command("EVAL", self.source)).await?,
        };
        integers(reply)
    }
}

/// Decodes a reply of integers; any other reply belongs to another command.
fn integers(reply: Value) -> Result<Vec<i64>, Fault> {
    let foreign =
        || Fault::Lost(Error::store("redis: the limit script returned an unexpected reply", "not a list of integers"));
    let Value::Array(values) = reply else { return Err(foreign()) };
    values.into_iter().map(|value| if let Value::Int(value) = value { Ok(value) } else { Err(foreign()) }).collect()
}

/// Key names of the limits.
pub(super) struct ScriptKeys {
    prefix: String,
    /// Number of hash tags, at most 16; one without a Cluster.
    tags: u64,
}

impl ScriptKeys {
    pub(super) fn new(prefix: &str, tags: u64) -> Self {
        Self { prefix: prefix.to_owned(), tags }
    }

    /// Returns the hash tag of a key. Keys of one tag are on one node of a Cluster.
    pub(super) const fn tag(&self, key: u64) -> u64 {
        key % self.tags
    }

    pub(super) fn write(&self, command: &mut Cmd, key: u64) {
        let mut name: SmallVec<[u8; 64]> = SmallVec::new();
        if self.tags > 1 {
            name.push(b'{');
        }
        name.extend_from_slice(self.prefix.as_bytes());
        if self.tags > 1 {
            name.extend_from_slice(&[b':', digit(self.tag(key)), b'}']);
        }
        name.extend_from_slice(b":l:");
        (0..16).rev().for_each(|at| name.push(digit(key >> (4 * at))));
        command.arg(&name[..]);
    }
}

/// Formats the lowest four bits in hexadecimal.
const fn digit(bits: u64) -> u8 {
    b"0123456789abcdef"[(bits & 15) as usize]
}
