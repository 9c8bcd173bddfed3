//! Redis Sentinel: asks for the current master at each dial.
//!
//! Announcements of the sentinels are not used: a caller that loses the connection or whose write
//! reaches a replica dials again, and so asks again. A sentinel that was cut off names the old
//! master, so the named server must confirm that it is a master.

use std::sync::Arc;
use std::time::Duration;

use super::candidates::{Failures, Start, within};
use super::cluster::Address;
use super::errors::classify;
use super::node::{Entrance, Node};
use super::settings::RedisSettings;
use super::topology::SentinelSettings;
use crate::storage::{Meter, StoreError};

/// Time-out for one sentinel before the next one is asked. A quarter of a call's budget: silent
/// sentinels must leave time for the others and for the master.
const SENTINEL_BUDGET: Duration = Duration::from_millis(500);

/// Time-out for a server that a sentinel names: another sentinel may name another one.
const MASTER_BUDGET: Duration = Duration::from_secs(1);

/// Finds the master of one group of servers.
pub(super) struct Sentinels {
    settings: SentinelSettings,
    entrance: Arc<Entrance>,
    start: Start,
}

impl Sentinels {
    pub(super) fn new(settings: SentinelSettings, entrance: Arc<Entrance>) -> Self {
        Self { settings, entrance, start: Start::random() }
    }

    /// Connects to the master.
    pub(super) async fn dial(&self, meter: &Meter) -> Result<Node, StoreError> {
        let sentinels = &self.settings.sentinels;
        let mut failures = Failures::default();
        let mut tried: Vec<Address> = Vec::new();
        let mut round = self.start.round(sentinels.len());
        while let Some(place) = round.next() {
            let others = round.len() > 0;
            let sentinel = &sentinels[place];
            let asked = within(others.then_some(SENTINEL_BUDGET), self.ask(sentinel, meter)).await;
            let address = match asked {
                Ok(address) => address,
                Err(error) => {
                    failures.add(&sentinel.endpoint, &error);
                    continue;
                }
            };
            if tried.contains(&address) {
                continue;
            }
            let endpoint = address.endpoint(self.settings.tls.as_ref());
            let enter = async {
                let mut node = self.entrance.connect(&endpoint, meter).await?;
                node.must_be_master().await?;
                Ok(node)
            };
            match within(others.then_some(MASTER_BUDGET), enter).await {
                Ok(node) => {
                    self.start.found(place);
                    return Ok(node);
                }
                Err(error) => failures.add(&endpoint, &error),
            }
            tried.push(address);
        }
        Err(failures.into_error("the sentinels lead to no master"))
    }

    async fn ask(&self, sentinel: &RedisSettings, meter: &Meter) -> Result<Address, StoreError> {
        let mut node = Node::connect(&sentinel.endpoint, &sentinel.login(), meter).await?;
        let answer: Option<(String, u16)> = redis::cmd("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(&self.settings.master)
            .query_async(&mut node)
            .await
            .map_err(classify)?;
        // A sentinel that has just started may still learn the name.
        let unknown = || {
            let text = format!("the sentinel knows no master named {:?}", self.settings.master);
            StoreError::Unreachable(text.into())
        };
        answer.map(|(host, port)| Address { host, port }).ok_or_else(unknown)
    }
}
