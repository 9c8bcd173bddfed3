//! The task of one database: probes it while it is unavailable, notices when it ends a connection,
//! and checks its identity.

use tokio::time::{Duration, Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::core::Standing;
use super::{Dialer, FIRST, FailFast, REPLACE_WAIT, Shared, error_text};
use crate::telemetry::Rounded;

impl<D: Dialer> FailFast<D> {
    /// Dials while the breaker is open, and when the database has ended an unused connection: it
    /// may have been restarted or replaced. Runs until cancelled. The owner runs it in one task.
    pub async fn run_probe(self, cancel: CancellationToken) {
        // Dropping a step midway is safe: the breaker has already scheduled the next probe, and the
        // next step repeats the check of the identity.
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = self.keep_probing() => {}
        }
    }

    async fn keep_probing(&self) {
        let mut health = self.watch_health();
        loop {
            let (due, standing, is_identified) = {
                let core = self.core();
                (core.breaker.next_probe(), core.standing(), core.is_identified())
            };
            if !is_identified {
                self.identify().await;
                continue;
            }
            let far = Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                biased;
                // An error would mean that the sender was dropped, but `self` holds it.
                _ = health.changed() => continue,
                (generation, lane) = self.ended(standing) => {
                    let mut core = self.core();
                    core.connection_ended(lane, generation);
                    self.publish(&core);
                    continue;
                }
                () = sleep_until(due.unwrap_or(far)) => {}
            }
            if self.begin_probe() {
                self.probe().await;
            }
        }
    }

    /// Waits for the end of a connection; returns its generation and lane.
    async fn ended(&self, standing: Option<Standing<D::Conn>>) -> (u64, usize) {
        match standing {
            Some(Standing { generation, lane, conn }) => {
                self.shared.dialer.ended(conn).await;
                (generation, lane)
            }
            None => std::future::pending().await,
        }
    }

    /// Checks the identity of the database, because it is new or has ended a connection. A failure
    /// is handled as for any call.
    async fn identify(&self) {
        let (generation, is_doubted) = {
            let core = self.core();
            (core.generation(), core.is_doubted())
        };
        if is_doubted {
            tokio::time::sleep(REPLACE_WAIT.mul_f64(fastrand::f64())).await;
        }
        let asked = self.call(|conn| self.shared.dialer.identity(conn)).await;
        let mut core = self.core();
        match asked {
            Ok(identity) => core.identified(generation, identity),
            Err(error) if error.is_transient() => {
                let error = error_text(&error);
                tracing::debug!(store = self.shared.name, %error, "store does not say who it is");
            }
            Err(_) => core.identified(generation, None),
        }
        self.publish(&core);
    }

    fn begin_probe(&self) -> bool {
        let mut core = self.core();
        let begun = core.breaker.begin_probe(Instant::now(), fastrand::f64());
        if begun {
            self.publish(&core);
        }
        begun
    }

    async fn probe(&self) {
        let Shared { name, dialer, .. } = &*self.shared;
        let meter = self.core().meter(FIRST);
        let attempt = async {
            let conn = dialer.dial(&meter).await?;
            dialer.check(conn.clone()).await?;
            Ok(conn)
        };
        // Earlier bulk calls may still be running.
        let (outcome, _) = self.patiently(std::pin::pin!(attempt)).await;
        let now = Instant::now();
        let mut core = self.core();
        match outcome {
            Ok(conn) => {
                let (away, relapsed) = (Rounded(core.away(now)), core.breaker.has_relapsed());
                core.adopt(now, conn);
                // A database that answers only probes becomes available again and again.
                if relapsed {
                    tracing::debug!(store = name, %away, "store answers again");
                } else {
                    tracing::info!(store = name, %away, "store is back");
                }
            }
            Err(error) if error.is_transient() => {
                dialer.lost(&error);
                core.breaker.on_failure(now, fastrand::f64(), error_text(&error));
                tracing::debug!(store = name, error = %error_text(&error), "probe failed");
            }
            Err(error) => {
                // The database is available but refuses the relay: calls must return that error.
                core.drop_all();
                core.breaker.on_probe_success(now);
                core.refused(now, error_text(&error));
                tracing::info!(store = name, error = %error_text(&error), "store is back, but refuses us");
            }
        }
        self.publish(&core);
    }
}
