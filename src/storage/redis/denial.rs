//! Remembers for some time that a server denies scripts.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Time for which a denial is remembered. Access rules may change, so it is limited.
const DENIAL_MEMORY: Duration = Duration::from_secs(600);

/// A recent denial of scripts.
#[derive(Debug, Default)]
pub struct ScriptDenial {
    until: Mutex<Option<Instant>>,
}

impl ScriptDenial {
    /// True if scripts were denied recently.
    pub fn is_remembered(&self) -> bool {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Records that a script was denied. `instead` describes the replacement in the log.
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
