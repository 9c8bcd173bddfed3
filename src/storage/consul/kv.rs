//! Consul's key-value interface: requests and parsing of answers.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::http::Answer;
use super::{ConsulConnection, ConsulFailure};
use crate::storage::StoreError;

/// Largest number of operations in one transaction of older servers.
pub const TRANSACTION_OPERATIONS_MAX: usize = 64;

/// Largest size of one transaction's request, as [`Operation::encoded_bytes`] counts it. The
/// servers' limit is 512 KiB; the rest is a margin.
pub const TRANSACTION_BYTES_MAX: usize = 400 * 1024;

/// The longest value that a server accepts by default.
pub const VALUE_BYTES_MAX: usize = 512 * 1024;

/// One stored value.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The complete key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// A number that changes with each write of the key.
    pub modify_index: u64,
}

/// Shows the size of the content instead of the content.
impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .field("value", &format_args!("{} bytes", self.value.len()))
            .field("modify_index", &self.modify_index)
            .finish()
    }
}

/// One step of a transaction.
#[derive(Clone, PartialEq, Eq)]
pub enum Operation {
    /// Writes if the key has this index; 0 means: if it does not exist.
    CompareAndSet {
        /// The key.
        key: String,
        /// The value to write.
        value: Bytes,
        /// The required index.
        index: u64,
    },
    /// Writes without a condition.
    Set {
        /// The key.
        key: String,
        /// The value to write.
        value: Bytes,
    },
    /// Fails unless the key exists with this index.
    CheckIndex {
        /// The key.
        key: String,
        /// The required index.
        index: u64,
    },
    /// Fails if the key exists.
    CheckAbsent {
        /// The key.
        key: String,
    },
    /// Removes the key, if it exists.
    Delete {
        /// The key.
        key: String,
    },
}

/// Shows the size of a value instead of the value.
impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CompareAndSet { key, value, index } => {
                write!(f, "CompareAndSet({key}, {} bytes, {index})", value.len())
            }
            Self::Set { key, value } => write!(f, "Set({key}, {} bytes)", value.len()),
            Self::CheckIndex { key, index } => write!(f, "CheckIndex({key}, {index})"),
            Self::CheckAbsent { key } => write!(f, "CheckAbsent({key})"),
            Self::Delete { key } => write!(f, "Delete({key})"),
        }
    }
}

/// The outcome of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// All operations were carried out.
    Applied,
    /// A condition did not hold; nothing was changed.
    RolledBack {
        /// Indices of the failed operations, as far as the server names them.
        failed: Vec<usize>,
    },
    /// The server does not accept a request of this size; nothing was changed.
    TooLarge,
}

/// The outcome of a single write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The value was written.
    Applied,
    /// The index differs; nothing was changed.
    Conflict,
    /// The server does not accept a value of this size; nothing was changed.
    TooLarge,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireEntry {
    key: String,
    value: Option<String>,
    modify_index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireResults {
    results: Vec<WireResult>,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct WireResult {
    kv: WireEntry,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireErrors {
    errors: Vec<WireError>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireError {
    op_index: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "UPPERCASE")]
struct WireStep<'a> {
    kv: WireOperation<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WireOperation<'a> {
    verb: &'static str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
}

impl Operation {
    /// An upper bound of the bytes that it adds to a request.
    pub fn encoded_bytes(&self) -> usize {
        // Names of the members, verb, index and punctuation.
        const FRAME: usize = 96;
        // An escaped control character takes six bytes.
        const ESCAPED_MAX: usize = 6;
        let (key, value) = match self {
            Self::CompareAndSet { key, value, .. } | Self::Set { key, value } => (key, value.len()),
            Self::CheckIndex { key, .. } | Self::CheckAbsent { key } | Self::Delete { key } => {
                (key, 0)
            }
        };
        FRAME + ESCAPED_MAX * key.len() + value.div_ceil(3) * 4
    }

    fn wire(&self) -> WireStep<'_> {
        let (verb, key, value, index) = match self {
            Self::CompareAndSet { key, value, index } => ("cas", key, Some(value), Some(*index)),
            Self::Set { key, value } => ("set", key, Some(value), None),
            Self::CheckIndex { key, index } => ("check-index", key, None, Some(*index)),
            Self::CheckAbsent { key } => ("check-not-exists", key, None, None),
            Self::Delete { key } => ("delete", key, None, None),
        };
        let value = value.map(|value| BASE64.encode(value));
        WireStep { kv: WireOperation { verb, key, value, index } }
    }
}

impl ConsulConnection {
    /// One value; `None` if the key does not exist.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let entries = match fits_path(key) {
            true => self.read(&kv_path(key, "")).await?,
            false => self.get_by_transaction(key).await?,
        };
        Ok(entries.into_iter().next())
    }

    async fn get_by_transaction(&self, key: &str) -> Result<Vec<Entry>, StoreError> {
        let get = WireStep { kv: WireOperation { verb: "get", key, value: None, index: None } };
        let answer = self.send_transaction(&[get]).await?;
        match answer.status {
            // A key that does not exist rolls the transaction back.
            StatusCode::CONFLICT => Ok(Vec::new()),
            StatusCode::OK => {
                let results: WireResults = parse(&answer)?;
                results.results.into_iter().map(|result| result.kv.entry()).collect()
            }
            _ => Err(ConsulFailure::classify(&answer)),
        }
    }

    /// All keys that begin with `prefix`, without their values. Close the prefix with its
    /// separator, as for [`ConsulConnection::list`].
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let answer =
            self.pool.send(Method::GET, &kv_path(prefix, "?keys=true"), Bytes::new()).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(Vec::new()),
            StatusCode::OK => parse(&answer),
            _ => Err(ConsulFailure::classify(&answer)),
        }
    }

    /// All values whose keys begin with `prefix`. Close the prefix with its separator, or keys of
    /// siblings are listed too.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        self.read(&kv_path(prefix, "?recurse=true")).await
    }

    /// Writes one value, with `index` only if the key has this index (0: only if it is absent).
    pub async fn put(
        &self,
        key: &str,
        value: Bytes,
        index: Option<u64>,
    ) -> Result<Put, StoreError> {
        if value.len() > VALUE_BYTES_MAX {
            return Ok(Put::TooLarge);
        }
        if !fits_path(key) {
            return self.put_by_transaction(key, value, index).await;
        }
        let query = index.map(|index| format!("?cas={index}")).unwrap_or_default();
        let answer = self.pool.send(Method::PUT, &kv_path(key, &query), value).await?;
        match answer.status {
            StatusCode::OK if answer.body.trim_ascii() == b"true" => Ok(Put::Applied),
            StatusCode::OK => Ok(Put::Conflict),
            StatusCode::PAYLOAD_TOO_LARGE => Ok(Put::TooLarge),
            _ => Err(ConsulFailure::classify(&answer)),
        }
    }

    /// Writes by a transaction: the server reads this key only from a body, whose limit is below
    /// that of a value.
    async fn put_by_transaction(
        &self,
        key: &str,
        value: Bytes,
        index: Option<u64>,
    ) -> Result<Put, StoreError> {
        let key = key.to_owned();
        let operation = match index {
            Some(index) => Operation::CompareAndSet { key, value, index },
            None => Operation::Set { key, value },
        };
        if operation.encoded_bytes() > TRANSACTION_BYTES_MAX {
            return Ok(Put::TooLarge);
        }
        Ok(match self.transaction(&[operation]).await? {
            Transaction::Applied => Put::Applied,
            Transaction::RolledBack { .. } => Put::Conflict,
            Transaction::TooLarge => Put::TooLarge,
        })
    }

    /// Removes one key, with `index` only if the key has this index. Returns true if the key does
    /// not exist afterwards.
    pub async fn delete(&self, key: &str, index: Option<u64>) -> Result<bool, StoreError> {
        let query = index.map(|index| format!("?cas={index}")).unwrap_or_default();
        let answer = self.pool.send(Method::DELETE, &kv_path(key, &query), Bytes::new()).await?;
        match answer.status {
            StatusCode::OK => Ok(answer.body.trim_ascii() == b"true"),
            _ => Err(ConsulFailure::classify(&answer)),
        }
    }

    /// Carries out all operations or none. More than [`TRANSACTION_OPERATIONS_MAX`] are refused
    /// by the server.
    pub async fn transaction(&self, operations: &[Operation]) -> Result<Transaction, StoreError> {
        let steps: Vec<WireStep<'_>> = operations.iter().map(Operation::wire).collect();
        let answer = self.send_transaction(&steps).await?;
        match answer.status {
            StatusCode::OK => Ok(Transaction::Applied),
            StatusCode::CONFLICT => {
                let told: WireErrors = parse(&answer).unwrap_or_default();
                let failed = told.errors.iter().map(|error| error.op_index).collect();
                Ok(Transaction::RolledBack { failed })
            }
            StatusCode::PAYLOAD_TOO_LARGE => Ok(Transaction::TooLarge),
            _ => Err(ConsulFailure::classify(&answer)),
        }
    }

    async fn send_transaction(&self, steps: &[WireStep<'_>]) -> Result<Answer, StoreError> {
        let body =
            serde_json::to_vec(steps).map_err(|error| StoreError::Refused(Box::new(error)))?;
        self.pool.send(Method::PUT, "/v1/txn", body.into()).await
    }

    /// Fails if the agent knows no leader, without which no key can be read or written.
    pub(super) async fn check_leader(&self) -> Result<(), StoreError> {
        let answer = self.pool.send(Method::GET, "/v1/status/leader", Bytes::new()).await?;
        leader(&answer)
    }

    async fn read(&self, path_and_query: &str) -> Result<Vec<Entry>, StoreError> {
        let answer = self.pool.send(Method::GET, path_and_query, Bytes::new()).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(Vec::new()),
            StatusCode::OK => entries(&answer),
            _ => Err(ConsulFailure::classify(&answer)),
        }
    }
}

fn leader(answer: &Answer) -> Result<(), StoreError> {
    const NOBODY: &[u8] = br#""""#;
    match answer.status {
        StatusCode::OK if answer.body.trim_ascii() != NOBODY => Ok(()),
        StatusCode::OK => Err(StoreError::Unreachable("the agent knows no leader".into())),
        _ => Err(ConsulFailure::classify(answer)),
    }
}

fn entries(answer: &Answer) -> Result<Vec<Entry>, StoreError> {
    let wire: Vec<WireEntry> = parse(answer)?;
    wire.into_iter().map(WireEntry::entry).collect()
}

fn parse<'a, T: Deserialize<'a>>(answer: &'a Answer) -> Result<T, StoreError> {
    serde_json::from_slice(&answer.body)
        .map_err(|error| StoreError::Unreadable { what: "answer", cause: Box::new(error) })
}

impl WireEntry {
    fn entry(self) -> Result<Entry, StoreError> {
        let value = BASE64
            .decode(self.value.unwrap_or_default())
            .map_err(|error| StoreError::Unreadable { what: "value", cause: Box::new(error) })?;
        Ok(Entry { key: self.key, value: value.into(), modify_index: self.modify_index })
    }
}

/// True if the server accepts the key in a path. It redirects paths that are not in their shortest
/// form, even if they are percent-encoded, and refuses characters that cannot be printed.
fn fits_path(key: &str) -> bool {
    let is_printable = |char: char| matches!(char, ' '..='~') || char.is_alphanumeric();
    let is_step = |part: &str| matches!(part, "." | "..");
    key.chars().all(is_printable)
        && !key.starts_with('/')
        && !key.contains("//")
        && !key.split('/').any(is_step)
}

/// The path of a key. All characters but letters, digits, `-`, `_` and `/` are percent-encoded; the
/// dot too, so that no key looks like a relative path.
fn kv_path(key: &str, query: &str) -> String {
    let mut path = String::with_capacity("/v1/kv/".len() + key.len() + query.len());
    path.push_str("/v1/kv/");
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/') {
            path.push(char::from(byte));
        } else {
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path.push_str(query);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_percent_encoded() {
        let check = |key: &str, query: &str, path: &str| assert_eq!(kv_path(key, query), path);
        check("ld/features/a", "", "/v1/kv/ld/features/a");
        check("ld/env:a b?#%.", "?cas=3", "/v1/kv/ld/env%3Aa%20b%3F%23%25%2E?cas=3");
        check("ключ", "", "/v1/kv/%D0%BA%D0%BB%D1%8E%D1%87");
    }

    #[test]
    fn keys_that_no_path_carries_are_known() {
        for key in ["ld/features/a", "a b?#%", ".a/b..", "ключ", "a/", "$inited"] {
            assert!(fits_path(key), "{key:?}");
        }
        for key in ["a//b", "a/../b", "..", "a/.", "/a", "a\n", "a\u{200b}", "a\u{a0}b", "\u{7f}"] {
            assert!(!fits_path(key), "{key:?}");
        }
    }

    fn operations() -> Vec<Operation> {
        let key = || "a/\"\n".to_owned();
        vec![
            Operation::CompareAndSet { key: key(), value: Bytes::from_static(b"\0\xff"), index: 7 },
            Operation::Set { key: key(), value: Bytes::new() },
            Operation::CheckIndex { key: key(), index: u64::MAX },
            Operation::CheckAbsent { key: key() },
            Operation::Delete { key: key() },
        ]
    }

    #[test]
    fn operations_are_written_as_the_server_reads_them() {
        let wire: Vec<_> =
            operations().iter().map(|it| serde_json::to_string(&it.wire()).unwrap()).collect();
        assert_eq!(
            wire,
            [
                r#"{"KV":{"Verb":"cas","Key":"a/\"\n","Value":"AP8=","Index":7}}"#,
                r#"{"KV":{"Verb":"set","Key":"a/\"\n","Value":""}}"#,
                r#"{"KV":{"Verb":"check-index","Key":"a/\"\n","Index":18446744073709551615}}"#,
                r#"{"KV":{"Verb":"check-not-exists","Key":"a/\"\n"}}"#,
                r#"{"KV":{"Verb":"delete","Key":"a/\"\n"}}"#,
            ]
        );
    }

    #[test]
    fn the_size_of_an_operation_is_never_underrated() {
        for operation in operations() {
            let wire = serde_json::to_vec(&operation.wire()).unwrap();
            assert!(wire.len() < operation.encoded_bytes(), "{operation:?}");
        }
    }

    #[test]
    fn an_agent_without_a_leader_is_away() {
        let check = |status: u16, body: &'static str, expected: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            let shown = match leader(&Answer { status, body: body.into() }) {
                Ok(()) => "there",
                Err(error) if error.is_transient() => "away",
                Err(_) => "refuses",
            };
            assert_eq!(shown, expected, "{status} {body}");
        };
        check(200, "\"10.0.0.1:8300\"\n", "there");
        check(200, "\"\"\n", "away");
        check(500, "No known Consul servers", "away");
        check(403, "Permission denied", "refuses");
    }

    #[test]
    fn answers_are_read_and_damaged_ones_reported() {
        let check = |body: &'static str, expected: &str| {
            let answer = Answer { status: StatusCode::OK, body: body.into() };
            let shown = match entries(&answer) {
                Ok(entries) => {
                    let values: Vec<&Bytes> = entries.iter().map(|entry| &entry.value).collect();
                    format!("{entries:?} {values:?}")
                }
                Err(error) => error.to_string(),
            };
            assert!(shown.contains(expected), "{shown}");
        };
        check(
            r#"[{"Key":"a","Value":"AP8=","ModifyIndex":3,"Flags":0}]"#,
            r#"modify_index: 3 }] [b"\0\xff"]"#,
        );
        check(r#"[{"Key":"a","Value":null,"ModifyIndex":3}]"#, r#"b"""#);
        check("[]", "[]");
        check("<html>", "stored answer cannot be read");
        check(r#"[{"Key":"a","Value":"?","ModifyIndex":3}]"#, "stored value cannot be read");
    }
}
