//! The state of one upstream connection in ld-relay's terms. Pure: wall time is an argument.

use std::time::SystemTime;

/// ld-relay v8: `state` of `connectionStatus` and `autoConfigStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// Never had valid data from LaunchDarkly. A relay that serves from a store and has not reached
    /// LaunchDarkly stays in this state, which distinguishes it from one that has.
    Initializing,
    /// The connection delivers valid data.
    Valid,
    /// Had valid data; the connection is broken or being replaced.
    Interrupted,
    /// LaunchDarkly rejects the key, or the connection is closed finally because the relay shuts
    /// down. A rejected key is tried again; when it is accepted, this state ends.
    Off,
}

impl ConnectionState {
    /// The value in `/status`.
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
    /// The data is invalid.
    InvalidData,
}

impl ErrorKind {
    /// The value in `/status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::NetworkError => "NETWORK_ERROR",
            Self::ErrorResponse => "ERROR_RESPONSE",
            Self::InvalidData => "INVALID_DATA",
        }
    }
}

/// The newest failure, kept after recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastError {
    /// The kind of failure.
    pub kind: ErrorKind,
    /// The HTTP status, if it was an answer.
    pub status_code: Option<u16>,
    /// The time of the failure.
    pub at: SystemTime,
}

/// The state, the time of its start, and the newest failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionStatus {
    /// The state.
    pub state: ConnectionState,
    /// The time at which the state was entered.
    pub since: SystemTime,
    /// The newest failure, if there was one.
    pub last_error: Option<LastError>,
    was_valid: bool,
    is_closed: bool,
}

impl ConnectionStatus {
    /// The state at the start.
    pub fn initializing(now: SystemTime) -> Self {
        Self {
            state: ConnectionState::Initializing,
            since: now,
            last_error: None,
            was_valid: false,
            is_closed: false,
        }
    }

    /// True once valid data has arrived.
    pub fn was_valid(&self) -> bool {
        self.was_valid
    }

    /// Handles the arrival of valid data.
    pub fn on_valid(&mut self, now: SystemTime) {
        self.was_valid = true;
        self.enter(ConnectionState::Valid, now);
    }

    /// Handles a failure. `Initializing` stays, but the error is kept. A rejected key (401, 403)
    /// leads to `Off` until LaunchDarkly gives another answer (ld-relay v8); a failure without an
    /// answer says nothing about the key.
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

    /// Handles a failure of another connection than the one that the data comes from: the error is
    /// kept, the state stays.
    pub fn on_side_failure(&mut self, kind: ErrorKind, status_code: Option<u16>, now: SystemTime) {
        self.last_error = Some(LastError { kind, status_code, at: now });
    }

    /// Handles the end of the connection without an error.
    pub fn on_interruption(&mut self, now: SystemTime) {
        if self.state == ConnectionState::Valid {
            self.enter(ConnectionState::Interrupted, now);
        }
    }

    /// Handles the final close, after which the state does not change.
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
