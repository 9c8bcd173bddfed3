//! Remembers for a while that a server denies scripts.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a denial is remembered. Rules change, so it is not for ever.
const DENIAL_MEMORY: Duration = Duration::from_secs(600);

/// Whether scripts were denied lately.
#[derive(Debug, Default)]
pub struct ScriptDenial {
    until: Mutex<Option<Instant>>,
}

impl ScriptDenial {
    /// Whether trying a script is not worth it.
    pub fn is_remembered(&self) -> bool {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// A script was denied. What takes its place is said in the log, by `instead`.
    pub fn remember(&self, instead: &str) {
        tracing::info!("redis denies scripts; {instead}");
        let until = Instant::now() + DENIAL_MEMORY;
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_denial_is_forgotten_after_a_while() {
        let denial = ScriptDenial::default();
        assert!(!denial.is_remembered());
        denial.remember("something else is done");
        assert!(denial.is_remembered());
        tokio::time::sleep(DENIAL_MEMORY).await;
        assert!(!denial.is_remembered());
    }
}
