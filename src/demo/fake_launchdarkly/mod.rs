//! A fake LaunchDarkly: autoconfig, flag streams and polls, event sink, and injected faults.
//!
//! Everything is controlled through one cloneable handle, [`FakeLaunchDarkly`]; the service runs
//! until the last handle is dropped. It does not evaluate flags, check event schemas or use TLS. It
//! closes streams only when the test asks it to, not even when a key is revoked.
//!
//! Invariant: when a method that makes a change returns, the change is in the state and queued for
//! all streams.

mod faults;
mod request_log;
mod routes;
mod serve;
mod shared;
mod stream_body;
mod types;
mod wire;
mod world;

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::composed_data::ComposedEnvironment;
use super::kept_port::KeptPort;
use super::representations::{EnvironmentRep, FilterRep};
use crate::model::{DataSet, ItemKey, ItemKind};
use crate::tasks::TaskGroup;
use shared::{Inner, Shared, StreamKind};

pub use faults::{Fault, FaultId, FaultRule, FaultScope, FixedAnswer};
pub use request_log::{Delivery, RequestRecord};
pub use types::{DataScope, FakeError, FakeSettings, StreamSelector};

/// Path of the autoconfig stream.
pub const AUTOCONFIG_PATH: &str = "/relay_auto_config";

/// Path of the flag stream.
pub const FLAGS_PATH: &str = "/all";

/// Time-out of [`FakeLaunchDarkly::stop`]. Connections end at once, so reaching it means a defect
/// here.
const STOP_MAX: Duration = Duration::from_secs(5);

/// A running fake service. Cheap to clone; ends with its last handle.
#[derive(Clone, Debug)]
pub struct FakeLaunchDarkly {
    shared: Arc<Shared>,
    /// Aborts the tasks when the last handle is dropped.
    _tasks: Arc<TaskGroup>,
}

/// Start and stop.
impl FakeLaunchDarkly {
    /// Starts the service. Must be called within a tokio runtime.
    pub fn launch(settings: &FakeSettings) -> io::Result<Self> {
        let port = KeptPort::reserve(settings.listen)?;
        port.open()?;
        let shared = Arc::new(Shared::new(port, settings));
        let mut tasks = TaskGroup::new(&CancellationToken::new());
        tasks.spawn("fake accept", |cancel| serve::accept_connections(shared.clone(), cancel));
        tasks.spawn("fake storms", |cancel| serve::rage(shared.clone(), cancel));
        Ok(Self { shared, _tasks: Arc::new(tasks) })
    }

    /// Its address, which stays the same across stops and starts.
    pub fn address(&self) -> SocketAddr {
        self.shared.address()
    }

    /// Base URI of all of LaunchDarkly's services.
    pub fn uri(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Closes the listener: new connections are refused, open ones continue.
    pub fn refuse(&self) {
        self.shared.port.close();
    }

    /// Refuses connections and cuts those that are open. All have ended when it returns; state,
    /// faults and logs stay.
    pub async fn stop(&self) {
        self.shared.port.close();
        self.shared.with(|inner| {
            inner.set_stopped(true);
            inner.cut_where(|_| true);
        });
        let none_left = |inner: &Inner| (inner.connection_count() == 0).then_some(());
        let count = |inner: &Inner| format!("{} connections", inner.connection_count());
        if let Err(error) = self.shared.wait("end of connections", STOP_MAX, none_left, count).await
        {
            tracing::error!(%error, "cannot stop");
        }
    }

    /// Accepts connections again after [`refuse`](Self::refuse) or [`stop`](Self::stop), on the
    /// same port. Must be called within a tokio runtime.
    pub fn start(&self) -> io::Result<()> {
        self.shared.with(|inner| inner.set_stopped(false));
        self.shared.port.open()
    }

    /// True if connections are accepted.
    pub fn is_accepting(&self) -> bool {
        self.shared.port.is_open()
    }
}

/// Keys and environments.
impl FakeLaunchDarkly {
    /// Accepts another key on the autoconfig stream.
    pub fn add_autoconfig_key(&self, key: &str) {
        self.shared.with(|inner| inner.world.add_autoconfig_key(key));
    }

    /// Refuses a key on the autoconfig stream from the next request on.
    pub fn revoke_autoconfig_key(&self, key: &str) {
        self.shared.with(|inner| inner.world.revoke_autoconfig_key(key));
    }

    /// Adds an environment with its data and announces both.
    pub fn load(&self, composed: &ComposedEnvironment) {
        self.replace_data(&composed.rep.env_id, composed.data.clone());
        self.upsert_environment(composed.rep.clone());
    }

    /// Adds or changes an environment and sends its patch. Returns its version, which is raised
    /// above every earlier one if necessary.
    pub fn upsert_environment(&self, rep: EnvironmentRep) -> u64 {
        self.announce(|inner| inner.world.upsert_environment(rep))
    }

    /// Deletes an environment, sends its delete and returns the version. Its keys are refused from
    /// now on, open streams stay, and its data is kept in case it is added again.
    pub fn delete_environment(&self, id: &str) -> u64 {
        self.announce(|inner| inner.world.delete_environment(id))
    }

    /// The environment as it was last announced.
    pub fn environment(&self, id: &str) -> Option<EnvironmentRep> {
        self.shared.with(|inner| inner.world.environment(id).cloned())
    }

    /// Adds or changes a payload filter and sends its patch; returns its version. Its data is set
    /// with [`replace_data`](Self::replace_data) and empty until then.
    pub fn upsert_filter(&self, id: &str, rep: FilterRep) -> u64 {
        self.announce(|inner| inner.world.upsert_filter(id, rep))
    }

    /// Deletes a payload filter and sends its delete; returns the version of the deletion.
    pub fn delete_filter(&self, id: &str) -> u64 {
        self.announce(|inner| inner.world.delete_filter(id))
    }

    /// Sends the whole autoconfig state again.
    pub fn send_autoconfig_put(&self) {
        self.shared.with(|inner| {
            let put = inner.put_of(&StreamKind::Autoconfig);
            inner.publish(&StreamSelector::Autoconfig, &put);
        });
    }

    /// Asks the clients of the autoconfig stream to reconnect; returns how many were asked.
    pub fn send_reconnect(&self) -> usize {
        self.push_raw(&StreamSelector::Autoconfig, "reconnect", b"{}")
    }

    /// Makes a change and sends its event to the autoconfig streams; returns its version.
    fn announce(&self, change: impl FnOnce(&mut Inner) -> (u64, Bytes)) -> u64 {
        self.shared.with(|inner| {
            let (version, event) = change(inner);
            inner.publish(&StreamSelector::Autoconfig, &event);
            version
        })
    }
}

/// Flags and segments.
impl FakeLaunchDarkly {
    /// Replaces all data of an environment (and filter) and sends the put.
    pub fn replace_data(&self, scope: impl Into<DataScope>, data: DataSet) {
        let scope = scope.into();
        self.shared.with(|inner| {
            let put = inner.world.replace_data(&scope, data);
            inner.publish(&StreamSelector::Flags(scope), &put);
        });
    }

    /// The current data, including tombstones.
    pub fn data(&self, scope: impl Into<DataScope>) -> DataSet {
        let scope = scope.into();
        self.shared.with(|inner| inner.world.data(&scope).0.clone())
    }

    /// Adds or changes a flag and sends its patch. Returns its version, which is raised above every
    /// earlier one if necessary.
    pub fn upsert_flag(&self, scope: impl Into<DataScope>, json: Value) -> Result<u64, FakeError> {
        self.upsert_item(scope.into(), ItemKind::Flag, json)
    }

    /// Like [`upsert_flag`](Self::upsert_flag) for a segment.
    pub fn upsert_segment(
        &self,
        scope: impl Into<DataScope>,
        json: Value,
    ) -> Result<u64, FakeError> {
        self.upsert_item(scope.into(), ItemKind::Segment, json)
    }

    /// Deletes a flag, sends its delete and returns the version.
    pub fn delete_flag(&self, scope: impl Into<DataScope>, key: &str) -> u64 {
        self.delete_item(scope.into(), &ItemKey::new(ItemKind::Flag, key))
    }

    /// Like [`delete_flag`](Self::delete_flag) for a segment.
    pub fn delete_segment(&self, scope: impl Into<DataScope>, key: &str) -> u64 {
        self.delete_item(scope.into(), &ItemKey::new(ItemKind::Segment, key))
    }

    /// Sends a patch with exactly these bytes. They become the state only if `version`, which
    /// should be that in the JSON, is newer than the current one.
    pub fn upsert_raw(
        &self,
        scope: impl Into<DataScope>,
        key: &ItemKey,
        version: u64,
        json: impl Into<Bytes>,
    ) {
        let scope = scope.into();
        self.shared.with(|inner| {
            let event = inner.world.upsert_raw(&scope, key, version, json.into());
            inner.publish(&StreamSelector::Flags(scope), &event);
        });
    }

    /// Sends the whole data again.
    pub fn send_flags_put(&self, scope: impl Into<DataScope>) {
        let scope = scope.into();
        self.shared.with(|inner| {
            let put = inner.put_of(&StreamKind::Flags(scope.clone()));
            inner.publish(&StreamSelector::Flags(scope), &put);
        });
    }

    fn upsert_item(&self, scope: DataScope, kind: ItemKind, json: Value) -> Result<u64, FakeError> {
        self.shared.with(|inner| {
            let (version, event) = inner.world.upsert_item(&scope, kind, json)?;
            inner.publish(&StreamSelector::Flags(scope), &event);
            Ok(version)
        })
    }

    fn delete_item(&self, scope: DataScope, key: &ItemKey) -> u64 {
        self.shared.with(|inner| {
            let (version, event) = inner.world.delete_item(&scope, key);
            inner.publish(&StreamSelector::Flags(scope), &event);
            version
        })
    }
}

/// Open streams.
impl FakeLaunchDarkly {
    /// Changes the interval of heartbeats, on open streams too; `None` stops them.
    pub fn set_heartbeat(&self, interval: Option<Duration>) {
        self.shared.with(|inner| inner.set_heartbeat(interval));
    }

    /// Sends an event that does not change the state: malformed, unknown or out of order. Line
    /// feeds in the data begin a new `data:` line. Returns the number of streams that accepted it.
    pub fn push_raw(&self, selector: &StreamSelector, event: &str, data: &[u8]) -> usize {
        self.push_bytes(selector, wire::event(event, data))
    }

    /// Sends bytes, which need not be SSE. Returns the number of streams that accepted them.
    pub fn push_bytes(&self, selector: &StreamSelector, bytes: impl Into<Bytes>) -> usize {
        self.shared.with(|inner| inner.publish(selector, &bytes.into()))
    }

    /// Number of open streams.
    pub fn open_streams(&self, selector: &StreamSelector) -> usize {
        self.shared.with(|inner| inner.stream_count(selector))
    }

    /// Waits until exactly this number of streams are open.
    pub async fn wait_for_streams(
        &self,
        selector: &StreamSelector,
        count: usize,
        within: Duration,
    ) -> Result<(), FakeError> {
        let reached = |inner: &Inner| (inner.stream_count(selector) == count).then_some(());
        let seen = |inner: &Inner| format!("{} streams", inner.stream_count(selector));
        self.shared.wait(&format!("{count} open streams"), within, reached, seen).await
    }

    /// Ends streams normally, after what was sent; returns their number.
    pub fn close_streams(&self, selector: &StreamSelector) -> usize {
        self.shared.with(|inner| inner.close_streams(selector))
    }

    /// Cuts the connections of streams at once; returns their number.
    pub fn cut_streams(&self, selector: &StreamSelector) -> usize {
        self.shared.with(|inner| inner.cut_streams(selector))
    }

    /// Cuts every connection at once.
    pub fn cut_connections(&self) {
        self.shared.with(|inner| inner.cut_where(|_| true));
    }
}

/// Faults.
impl FakeLaunchDarkly {
    /// Injects a fault from the next request on. A black hole without a count, and storms, also
    /// affect open connections. A response that has begun keeps its rate and its end.
    pub fn inject(&self, rule: FaultRule) -> FaultId {
        self.change_faults(|faults| faults.inject(rule))
    }

    /// Clears one fault.
    pub fn clear_fault(&self, id: FaultId) {
        self.change_faults(|faults| faults.clear(id));
    }

    /// Clears all faults. A closed listener stays closed: see [`start`](Self::start).
    pub fn clear_faults(&self) {
        self.change_faults(faults::FaultTable::clear_all);
    }

    fn change_faults<T>(&self, change: impl FnOnce(&mut faults::FaultTable) -> T) -> T {
        let result = self.shared.with(|inner| {
            let result = change(&mut inner.faults);
            inner.refreeze();
            result
        });
        self.shared.storms_changed.notify_one();
        result
    }
}

/// Requests and deliveries of clients.
impl FakeLaunchDarkly {
    /// All requests, oldest first.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.shared.with(|inner| inner.log.requests().cloned().collect())
    }

    /// The requests for one path, oldest first.
    pub fn requests_for(&self, path: &str) -> Vec<RequestRecord> {
        self.shared.with(|inner| requests_for(inner, path))
    }

    /// Waits for at least this number of requests for the path, and returns all.
    pub async fn wait_for_requests(
        &self,
        path: &str,
        count: usize,
        within: Duration,
    ) -> Result<Vec<RequestRecord>, FakeError> {
        let enough = |inner: &Inner| {
            let found = requests_for(inner, path);
            (found.len() >= count).then_some(found)
        };
        let seen = |inner: &Inner| format!("{:?}", requests_for(inner, path));
        self.shared.wait(&format!("{count} requests for {path}"), within, enough, seen).await
    }

    /// All accepted bodies of events and diagnostics, oldest first.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.with(|inner| inner.log.deliveries().cloned().collect())
    }

    /// Waits for at least this number of distinct deliveries, and returns all.
    pub async fn wait_for_deliveries(
        &self,
        count: usize,
        within: Duration,
    ) -> Result<Vec<Delivery>, FakeError> {
        let all = |inner: &Inner| inner.log.deliveries().cloned().collect::<Vec<_>>();
        let enough = |inner: &Inner| Some(all(inner)).filter(|found| found.len() >= count);
        let seen = |inner: &Inner| format!("{:?}", all(inner));
        self.shared.wait(&format!("{count} deliveries"), within, enough, seen).await
    }

    /// Clears the logs of requests and deliveries.
    pub fn clear_log(&self) {
        self.shared.with(|inner| inner.log.clear());
    }
}

fn requests_for(inner: &Inner, path: &str) -> Vec<RequestRecord> {
    inner.log.requests().filter(|request| request.path == path).cloned().collect()
}
