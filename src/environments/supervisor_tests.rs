use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use super::*;
use crate::environments::test_support::spec;
use crate::environments::{LoadQueue, Trust};
use crate::flagstore::{DataSetId, LocalFlags, ReadOutcome};
use crate::model::{DataSet, Item, ItemKey, ItemKind};
use crate::source::{Fdv1Streams, Sources};
use crate::tasks::TaskGroup;
use crate::upstream::{BaseUrl, HttpClient, HttpClientSettings, StreamTimings};

/// Only spent on failure.
const LIMIT: Duration = Duration::from_secs(30);

/// A supervisor of environments with an embedded store.
struct Bench {
    registry: Arc<Registry>,
    changes: mpsc::Sender<Vec<EnvironmentChange>>,
    local: LocalFlags,
    tasks: TaskGroup,
    _directory: TempDir,
}

impl Bench {
    /// With an upstream that refuses, and a store that is open.
    fn start() -> Self {
        // No process listens on port 1.
        let (bench, state) = Self::start_with("http://127.0.0.1:1");
        state.send_replace(LocalFlagsState::Open(bench.local.clone()));
        bench
    }

    /// With a store that is being opened.
    fn start_with(upstream: &str) -> (Self, watch::Sender<LocalFlagsState>) {
        let directory = TempDir::new().unwrap();
        let local = LocalFlags::in_directory(directory.path());
        let client = HttpClient::new(&HttpClientSettings::default()).unwrap();
        let base = BaseUrl::parse(upstream).unwrap();
        let state = watch::Sender::new(LocalFlagsState::Opening);
        let settings = SupervisorSettings {
            runner: RunnerSettings {
                sources: Sources::LaunchDarkly(Arc::new(Fdv1Streams::new(
                    client,
                    base,
                    StreamTimings::default(),
                ))),
                local: state.subscribe(),
                shared: None,
                heartbeat: None,
                trust: Trust::All,
                load_queue: LoadQueue::new(1),
            },
            sweep_interval: Duration::from_millis(100),
            orphans: Orphans::Forgotten,
        };
        let registry = Arc::new(Registry::default());
        let (changes, receiver) = mpsc::channel(1);
        let supervisor = Supervisor::new(settings, registry.clone(), receiver);
        let mut tasks = TaskGroup::new(&CancellationToken::new());
        tasks.spawn("environments", |cancel| supervisor.run(cancel));
        (Self { registry, changes, local, tasks, _directory: directory }, state)
    }

    async fn send(&self, changes: Vec<EnvironmentChange>) {
        self.changes.send(changes).await.unwrap();
    }

    /// Stores a set of one flag.
    async fn store(&self, name: &str) -> DataSetId {
        let id = DataSetId::new(&reference(name));
        let mut data = DataSet::default();
        let flag = ItemKey::new(ItemKind::Flag, "a");
        data.upsert(&flag, Arc::new(Item::live(1, r#"{"key":"a","version":1}"#)));
        self.local.replaced(&id, Arc::new(data));
        assert!(self.local.store().flush(LIMIT).await);
        id
    }

    /// Adds the environment and waits until it serves what is stored.
    async fn serve(&self, name: &str) -> DataSetId {
        let id = self.store(name).await;
        self.send(vec![EnvironmentChange::Upsert(spec(name, "a"))]).await;
        let serves = || {
            let environment = self.registry.environment(&reference(name));
            environment.is_some_and(|environment| environment.hub.snapshot().is_some())
        };
        until("it serves", serves).await;
        id
    }

    fn is_stored(&self, id: &DataSetId) -> bool {
        matches!(self.local.read_set(id).unwrap(), ReadOutcome::Complete(_))
    }
}

fn reference(name: &str) -> EnvironmentRef {
    spec(name, "a").reference.clone()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "{what} did not come about");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_that_is_gone_for_good_takes_its_stored_data_along() {
    let bench = Bench::start();
    let id = bench.serve("one").await;
    bench
        .send(vec![
            EnvironmentChange::Remove(reference("one")),
            EnvironmentChange::List(ListState::Authoritative),
        ])
        .await;
    until("its data is gone", || !bench.is_stored(&id)).await;
    assert!(bench.registry.environments().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_cached_list_is_no_reason_to_forget_data() {
    let bench = Bench::start();
    let id = bench.serve("one").await;
    bench
        .send(vec![
            EnvironmentChange::Remove(reference("one")),
            EnvironmentChange::List(ListState::Provisional),
        ])
        .await;
    until("it is removed", || bench.registry.environments().is_empty()).await;
    // All tasks have ended then.
    assert!(bench.tasks.shutdown(LIMIT).await);
    assert!(bench.local.store().flush(LIMIT).await);
    let Bench { local, .. } = bench;
    assert!(matches!(local.read_set(&id).unwrap(), ReadOutcome::Complete(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_of_orphans_goes_when_the_list_is_confirmed() {
    // Also if the store is open only after that.
    let (bench, state) = Bench::start_with("http://127.0.0.1:1");
    let (known, orphan) = (bench.store("known").await, bench.store("orphan").await);
    let list = |list| vec![EnvironmentChange::List(list)];
    bench.send(vec![EnvironmentChange::Upsert(spec("known", "a"))]).await;
    bench.send(list(ListState::Provisional)).await;
    until("the list is known", || bench.registry.list() == ListState::Provisional).await;
    assert!(bench.local.store().flush(LIMIT).await);
    assert!(bench.is_stored(&orphan), "a cached list is no proof");
    bench.send(list(ListState::Authoritative)).await;
    until("the list is confirmed", || bench.registry.list() == ListState::Authoritative).await;
    state.send_replace(LocalFlagsState::Open(bench.local.clone()));
    until("it is gone", || !bench.is_stored(&orphan)).await;
    assert!(bench.is_stored(&known));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_that_comes_back_at_once_is_served_anew() {
    let bench = Bench::start();
    bench.serve("one").await;
    let first = bench.registry.environment(&reference("one")).unwrap();
    bench.send(vec![EnvironmentChange::Remove(reference("one"))]).await;
    bench.serve("one").await;
    let second = bench.registry.environment(&reference("one")).unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    assert_eq!(first.status().connection.state.as_str(), "OFF");
}

/// The keys of the flags that an environment serves.
fn served(environment: &Environment) -> Vec<String> {
    let snapshot = environment.hub.snapshot();
    let flags = snapshot.iter().flat_map(|snapshot| snapshot.data.flags.iter());
    flags.map(|(key, _)| key.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_store_holds_does_not_follow_what_was_live() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (bench, state) = Bench::start_with(&format!("http://{}", listener.local_addr().unwrap()));
    let id = bench.store("one").await;
    bench.send(vec![EnvironmentChange::Upsert(spec("one", "a"))]).await;
    // LaunchDarkly sends a data set without the stored flag, and disconnects.
    let (mut upstream, _) = listener.accept().await.unwrap();
    drop(listener);
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(upstream.read_u8().await.unwrap());
    }
    let put = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nevent: put\n\
               data: {\"path\":\"/\",\"data\":{\"flags\":{\"b\":{\"version\":1}}}}\n\n";
    upstream.write_all(put.as_bytes()).await.unwrap();
    let environment = bench.registry.environment(&reference("one")).unwrap();
    until("the put is served", || served(&environment) == ["b"]).await;
    drop(upstream);
    let state_of = || environment.status().connection.state.as_str();
    until("it is gone", || state_of() == "INTERRUPTED").await;

    // The store opens only now, and gets the live data.
    state.send_replace(LocalFlagsState::Open(bench.local.clone()));
    let flags = || {
        let stored = bench.local.read_set(&id).unwrap();
        let ReadOutcome::Complete(set) = stored else { return Vec::new() };
        set.data.flags.iter().map(|(key, _)| key.to_string()).collect()
    };
    until("it is stored", || flags() == ["b"]).await;
    assert_eq!(served(&environment), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_task_begins_when_its_time_has_come() {
    let cancel = CancellationToken::new();
    let begun = Instant::now();
    Begin::AtOnce.reached(&cancel).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    Begin::After(Duration::from_secs(7)).reached(&cancel).await;
    assert_eq!(begun.elapsed(), Duration::from_secs(7));

    let former = CancellationToken::new();
    let waiting = Begin::AfterEndOf(former.clone()).reached(&cancel);
    assert!(timeout(Duration::from_secs(60), waiting).await.is_err(), "the former one is there");
    former.cancel();
    Begin::AfterEndOf(former).reached(&cancel).await;

    cancel.cancel();
    let begun = Instant::now();
    Begin::After(Duration::from_secs(7)).reached(&cancel).await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waits for a task that shall not run");
}
