//! What the integration tests share: real peers and the means to watch them.

pub(crate) mod relay;
pub(crate) mod sdk_driver;

use std::time::Duration;

use tokio::time::Instant;

/// Longest wait of [`eventually`].
const EVENTUALLY_MAX: Duration = Duration::from_secs(40);

/// Asks again and again until the answer is `Ok`, and fails with the last answer after a long
/// time. Level-triggered: it asks for the state, it does not wait for an edge.
pub(crate) async fn eventually<T>(
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let begun = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(state) if begun.elapsed() > EVENTUALLY_MAX => {
                panic!("waited for {EVENTUALLY_MAX:?} until {what}; the last state: {state}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
