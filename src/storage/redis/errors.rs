//! Classifies Redis errors. The only module that reads error codes and texts.
//!
//! An error is transient only if time or a new connection may cure it, and if the probe's PING
//! fails too or a new connection is useful. Every other error answer is a refusal: opening the
//! breaker for an error that PING does not show would make it flap.

use std::fmt;

use redis::{ErrorKind, RedisError, ServerError};

use crate::storage::StoreError;

/// A Redis error without arguments: old servers and proxies repeat the arguments of unknown
/// commands, including passwords.
pub struct RedisFailure {
    code: Option<String>,
    text: String,
}

impl RedisFailure {
    pub(super) fn new(error: &RedisError) -> Self {
        let Some(server) = server_error(error) else {
            let text = without_arguments(&error.to_string()).to_owned();
            return Self { code: None, text };
        };
        let detail = server.details().unwrap_or_default();
        let code = effective_code(server.code(), detail).to_owned();
        let text = format!("{code} {}", without_arguments(detail)).trim_end().to_owned();
        Self { code: Some(code), text }
    }

    /// The error code of the server, such as `WRONGTYPE`; `None` for errors of the client.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }
}

impl fmt::Display for RedisFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for RedisFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisFailure({:?})", self.text)
    }
}

impl std::error::Error for RedisFailure {}

/// Classifies an error by what a caller can do about it.
#[expect(clippy::needless_pass_by_value, reason = "used as the argument of map_err")]
pub fn classify(error: RedisError) -> StoreError {
    let cause = Box::new(RedisFailure::new(&error));
    if let Some(code) = cause.code() {
        let transient = is_transient_code(code) || is_full(&cause.text);
        return if transient { StoreError::Unreachable(cause) } else { StoreError::Refused(cause) };
    }
    match error.kind() {
        // Broken framing: further data on this connection cannot be trusted.
        ErrorKind::Io | ErrorKind::Parse => StoreError::Unreachable(cause),
        ErrorKind::MasterNameNotFoundBySentinel
        | ErrorKind::NoValidReplicasFoundBySentinel
        | ErrorKind::ClusterConnectionNotFound => StoreError::Unreachable(cause),
        ErrorKind::UnexpectedReturnType => StoreError::Unreadable { what: "answer", cause },
        ErrorKind::AuthenticationFailed
        | ErrorKind::InvalidClientConfig
        | ErrorKind::Client
        | ErrorKind::Extension
        | ErrorKind::EmptySentinelList
        | ErrorKind::Server(_)
        | ErrorKind::RESP3NotSupported => StoreError::Refused(cause),
        _ => StoreError::Refused(cause),
    }
}

/// True if the server is a replica that refuses writes.
pub(super) fn is_read_only(error: &StoreError) -> bool {
    failure(error).and_then(RedisFailure::code) == Some("READONLY")
}

/// True if a server answered with this error, so that the connection to it works.
pub(super) fn is_answer(error: &StoreError) -> bool {
    failure(error).is_some_and(|failure| failure.code().is_some())
}

/// True if the server does not know scripts or forbids them to this user: rules (ACL) deny commands
/// with NOPERM, managed services remove them.
pub fn scripts_are_denied(error: &RedisError) -> bool {
    let Some(server) = server_error(error) else { return false };
    let detail = server.details().unwrap_or_default();
    match effective_code(server.code(), detail) {
        "NOPERM" => true,
        "ERR" => detail.starts_with("unknown command"),
        _ => false,
    }
}

/// The first answer of the server that is an error; a pipeline may have several.
fn server_error(error: &RedisError) -> Option<ServerError> {
    error.clone().into_server_errors()?.first().map(|(_, error)| error.clone())
}

fn failure(error: &StoreError) -> Option<&RedisFailure> {
    match error {
        StoreError::Unreachable(cause)
        | StoreError::Refused(cause)
        | StoreError::Unreadable { cause, .. } => cause.downcast_ref(),
        StoreError::TimedOut { .. } | StoreError::CoolingDown | StoreError::Away(_) => None,
    }
}

/// Server states that end by themselves or by a failover.
fn is_transient_code(code: &str) -> bool {
    // READONLY: the master became a replica, a new connection may find the new master.
    // ASK: a slot of a cluster is being moved to another server.
    const TRANSIENT: [&str; 7] =
        ["READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "ASK"];
    TRANSIENT.contains(&code)
}

/// True if the server closes this connection because it has too many. There is no error code.
fn is_full(text: &str) -> bool {
    text.contains("max number of clients reached")
}

/// The server's error code. For an error inside a script, which servers before Redis 7 wrap, the
/// code of the inner error.
fn effective_code<'a>(code: &'a str, detail: &'a str) -> &'a str {
    if code != "ERR" || !detail.starts_with("Error running script") {
        return code;
    }
    let inner = detail.rsplit(": ").find_map(|part| {
        let word = part.trim_start_matches('-').split(' ').next()?;
        let is_code = word.len() > 3 && word.bytes().all(|byte| byte.is_ascii_uppercase());
        is_code.then_some(word)
    });
    inner.unwrap_or(code)
}

fn without_arguments(text: &str) -> &str {
    text.split(", with args beginning with").next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the classification of an error line from a server.
    #[track_caller]
    fn check(line: &str, expected: &str) {
        let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        let error = value.extract_error().unwrap_err();
        let (kind, cause) = match classify(error) {
            StoreError::Unreachable(cause) => ("unreachable", cause),
            StoreError::Refused(cause) => ("refused", cause),
            other => panic!("{other:?}"),
        };
        assert_eq!(format!("{kind}: {cause}"), expected);
    }

    #[test]
    fn states_that_pass_are_transient() {
        check(
            "READONLY You can't write against a read only replica.",
            "unreachable: READONLY You can't write against a read only replica.",
        );
        check("LOADING Redis is loading", "unreachable: LOADING Redis is loading");
        check(
            "MASTERDOWN Link with MASTER is down",
            "unreachable: MASTERDOWN Link with MASTER is down",
        );
        check("CLUSTERDOWN Hash slot not served", "unreachable: CLUSTERDOWN Hash slot not served");
        check("BUSY Redis is busy", "unreachable: BUSY Redis is busy");
        check("TRYAGAIN Multiple keys", "unreachable: TRYAGAIN Multiple keys");
        check("ASK 1 10.0.0.1:6379", "unreachable: ASK 1 10.0.0.1:6379");
        check(
            "ERR max number of clients reached",
            "unreachable: ERR max number of clients reached",
        );
    }

    #[test]
    fn what_somebody_must_change_is_refused() {
        check("OOM command not allowed", "refused: OOM command not allowed");
        check("NOPERM no permissions", "refused: NOPERM no permissions");
        check("WRONGTYPE Operation against", "refused: WRONGTYPE Operation against");
        check("NOAUTH Authentication required.", "refused: NOAUTH Authentication required.");
        check("WRONGPASS invalid username", "refused: WRONGPASS invalid username");
        check("MISCONF Redis is configured", "refused: MISCONF Redis is configured");
        check("NOREPLICAS Not enough", "refused: NOREPLICAS Not enough");
        check(
            "DENIED Redis is running in protected mode",
            "refused: DENIED Redis is running in protected mode",
        );
        check("MOVED 5868 10.0.0.1:6379", "refused: MOVED 5868 10.0.0.1:6379");
        check("ERR DB index is out of range", "refused: ERR DB index is out of range");
    }

    #[test]
    fn arguments_are_never_shown() {
        check(
            "ERR unknown command `AUTH`, with args beginning with: `s3cret`, ",
            "refused: ERR unknown command `AUTH`",
        );
    }

    #[test]
    fn errors_inside_scripts_count_as_themselves() {
        check(
            "ERR Error running script (call to f_ab): @user_script:1: @user_script: 1: -READONLY You can't",
            "unreachable: READONLY Error running script (call to f_ab): @user_script:1: @user_script: 1: -READONLY You can't",
        );
        check(
            "ERR Error running script (call to f_ab): @user_script:1: WRONGTYPE Operation",
            "refused: WRONGTYPE Error running script (call to f_ab): @user_script:1: WRONGTYPE Operation",
        );
        check("ERR Error running script: no idea", "refused: ERR Error running script: no idea");
    }

    #[tokio::test]
    async fn errors_of_pipelines_count_by_the_first() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut server, client) = tokio::io::duplex(1024);
        let info = redis::RedisConnectionInfo::default().set_skip_set_lib_name();
        let (mut conn, driver) =
            redis::aio::MultiplexedConnection::new(&info, client).await.unwrap();
        let answer = async {
            let mut request = [0; 1024];
            let _ = server.read(&mut request).await;
            server.write_all(b"-WRONGPASS no\r\n-NOAUTH no\r\n").await.unwrap();
        };
        let mut pipeline = redis::pipe();
        pipeline.cmd("AUTH").arg("x").ignore().cmd("SELECT").arg(1).ignore();
        let ask = async { tokio::join!(answer, pipeline.exec_async(&mut conn)).1 };
        let error =
            tokio::select! { outcome = ask => outcome.unwrap_err(), () = driver => panic!() };
        let error = classify(error);
        assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
        assert_eq!(failure(&error).unwrap().code(), Some("WRONGPASS"));
    }

    #[test]
    fn errors_on_this_side() {
        let io = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(matches!(classify(io), StoreError::Unreachable(_)));
        let wrong = RedisError::from((ErrorKind::UnexpectedReturnType, "not a number"));
        assert!(matches!(classify(wrong), StoreError::Unreadable { .. }));
        let config = RedisError::from((ErrorKind::InvalidClientConfig, "no"));
        assert!(matches!(classify(config), StoreError::Refused(_)));
    }

    #[test]
    fn only_denied_scripts_count_as_denied() {
        let check = |line: &str, denied| {
            let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
            assert_eq!(scripts_are_denied(&value.extract_error().unwrap_err()), denied, "{line}");
        };
        check("NOPERM this user has no permissions to run the 'eval' command", true);
        check("ERR unknown command 'EVAL', with args beginning with: 'x'", true);
        check("ERR Error running script", false);
        check("OOM command not allowed", false);
    }
}
