//! The state of one upstream connection in ld-relay's words. Pure: wall time is an argument.

use std::time::SystemTime;

/// ld-relay v8: `state` of `connectionStatus` and `autoConfigStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// Never had valid data from LaunchDarkly. A relay that serves from a store and has not
    /// reached LaunchDarkly stays here, so that it can be told from one that has.
    Initializing,
    /// The last word was valid data.
    Valid,
    /// Had valid data; the connection is broken or being renewed.
    Interrupted,
    /// LaunchDarkly rejects the key, or the connection is closed for good because the relay is
    /// leaving. A rejected key is tried again, and leads out of this state when it is accepted.
    Off,
}

impl ConnectionState {
    /// The word for `/status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initializing => "INITIALIZING",
            Self::Valid => "VALID",
            Self::Interrupted => "INTERRUPTED",
            Self::Off => "OFF",
        }
    }
}

/// ld-relay v8: `lastError.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// None of the others.
    Unknown,
    /// Connecting or reading failed.
    NetworkError,
    /// LaunchDarkly answered with an error status.
    ErrorResponse,
    /// The data could not be understood.
    InvalidData,
}

impl ErrorKind {
    /// The word for `/status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::NetworkError => "NETWORK_ERROR",
            Self::ErrorResponse => "ERROR_RESPONSE",
            Self::InvalidData => "INVALID_DATA",
        }
    }
}

/// The newest failure; it stays after recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastError {
    /// What sort of failure.
    pub kind: ErrorKind,
    /// The HTTP status, if it was an answer.
    pub status_code: Option<u16>,
    /// When it happened.
    pub at: SystemTime,
}

/// State, since when, and the newest failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionStatus {
    /// The state.
    pub state: ConnectionState,
    /// When the state was entered.
    pub since: SystemTime,
    /// The newest failure, if there was one.
    pub last_error: Option<LastError>,
    was_valid: bool,
    is_closed: bool,
}

impl ConnectionStatus {
    /// The state before anything happened.
    pub fn initializing(now: SystemTime) -> Self {
        Self {
            state: ConnectionState::Initializing,
            since: now,
            last_error: None,
            was_valid: false,
            is_closed: false,
        }
    }

    /// True once valid data has come.
    pub fn was_valid(&self) -> bool {
        self.was_valid
    }

    /// Valid data arrived.
    pub fn on_valid(&mut self, now: SystemTime) {
        self.was_valid = true;
        self.enter(ConnectionState::Valid, now);
    }

    /// Something failed. Initializing stays initializing; the error is kept all the same. A
    /// rejected key (401, 403) switches off until LaunchDarkly gives another answer (ld-relay v8);
    /// a failure without an answer says nothing new of the key.
    pub fn on_failure(&mut self, kind: ErrorKind, status_code: Option<u16>, now: SystemTime) {
        self.on_side_failure(kind, status_code, now);
        match status_code {
            Some(401 | 403) => self.enter(ConnectionState::Off, now),
            Some(_) if self.state == ConnectionState::Off => {
                let state = if self.was_valid {
                    ConnectionState::Interrupted
                } else {
                    ConnectionState::Initializing
                };
                self.enter(state, now);
            }
            Some(_) | None => self.on_interruption(now),
        }
    }

    /// Something failed beside the connection that the data comes from: the error is kept, the
    /// state stays.
    pub fn on_side_failure(&mut self, kind: ErrorKind, status_code: Option<u16>, now: SystemTime) {
        self.last_error = Some(LastError { kind, status_code, at: now });
    }

    /// The connection ended without anybody's fault.
    pub fn on_interruption(&mut self, now: SystemTime) {
        if self.state == ConnectionState::Valid {
            self.enter(ConnectionState::Interrupted, now);
        }
    }

    /// Closed for good; nothing leads out of this state.
    pub fn on_close(&mut self, now: SystemTime) {
        self.enter(ConnectionState::Off, now);
        self.is_closed = true;
    }

    fn enter(&mut self, state: ConnectionState, now: SystemTime) {
        if self.state != state && !self.is_closed {
            self.state = state;
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[track_caller]
    fn check(words: &str, state: &str, since: u64, error_at: Option<u64>) {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut status = ConnectionStatus::initializing(at(0));
        for (second, word) in (1..).zip(words.split_whitespace()) {
            match word {
                "valid" => status.on_valid(at(second)),
                "fail" => status.on_failure(ErrorKind::NetworkError, None, at(second)),
                "reject" => status.on_failure(ErrorKind::ErrorResponse, Some(401), at(second)),
                "refuse" => status.on_failure(ErrorKind::ErrorResponse, Some(503), at(second)),
                "side" => status.on_side_failure(ErrorKind::NetworkError, None, at(second)),
                "close" => status.on_close(at(second)),
                other => panic!("{other}"),
            }
        }
        let found = (status.state.as_str(), status.since, status.last_error.map(|e| e.at));
        assert_eq!(found, (state, at(since), error_at.map(at)), "{words}");
    }

    #[test]
    fn follows_ld_relays_rules() {
        check("", "INITIALIZING", 0, None);
        check("fail fail", "INITIALIZING", 0, Some(2));
        check("valid valid", "VALID", 1, None);
        check("valid fail fail", "INTERRUPTED", 2, Some(3));
        check("valid fail valid", "VALID", 3, Some(2));
        check("valid close valid fail", "OFF", 2, Some(4));
        check("valid side", "VALID", 1, Some(2));
        check("side", "INITIALIZING", 0, Some(1));
        check("reject", "OFF", 1, Some(1));
        check("reject reject fail", "OFF", 1, Some(3));
        check("reject refuse", "INITIALIZING", 2, Some(2));
        check("valid reject fail", "OFF", 2, Some(3));
        check("valid reject refuse", "INTERRUPTED", 3, Some(3));
        check("valid reject valid", "VALID", 3, Some(2));
        check("close reject valid refuse", "OFF", 1, Some(4));
    }
}
