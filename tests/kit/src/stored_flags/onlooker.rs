//! An SDK in daemon mode that looks into Redis every 5 ms: it must find nothing at all or a whole
//! set, as LaunchDarkly had it at one moment.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use pilotlight::testing::demo::composed_data::environment_id;
use pilotlight::testing::tasks::TaskGroup;
use serde_json::Value;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::prefix;
use super::witness::{TICKS, tick};
use crate::eventually;
use crate::fleet::Fleet;

const PAUSE: Duration = Duration::from_millis(5);

/// A server that was killed or frozen does not answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// KEYS: marker, segments, flags. ARGV: flags to show. All of one moment.
const LOOK: &str = "\
return {redis.call('EXISTS', KEYS[1]), redis.call('HKEYS', KEYS[2]), redis.call('HKEYS', KEYS[3]),
redis.call('HMGET', KEYS[3], unpack(ARGV))}";

/// Marker, keys of segments, keys of flags, the flags that [`tick`] names.
type Look = (bool, BTreeSet<String>, BTreeSet<String>, Vec<Option<String>>);

/// Looks at one environment until it is dropped, and notes what it finds.
pub struct Onlooker {
    found: Arc<Mutex<Found>>,
    _tasks: TaskGroup,
}

#[derive(Clone, Debug, Default)]
struct Found {
    nothing: usize,
    everything: usize,
    complaints: Vec<String>,
}

/// What a whole set has at least.
struct Wanted {
    segments: BTreeSet<String>,
    flags: BTreeSet<String>,
}

impl Onlooker {
    /// Looks at the environment with index 0. LaunchDarkly already has what is never deleted.
    pub fn of(fleet: &Fleet) -> Self {
        let data = fleet.launchdarkly.data(environment_id(0).as_str());
        let keys = |items: &pilotlight::testing::model::ItemMap| {
            items.iter().map(|(key, _)| key.to_string()).collect()
        };
        let wanted = Wanted { segments: keys(&data.segments), flags: keys(&data.flags) };
        let found = Arc::<Mutex<Found>>::default();
        let url = format!("redis://127.0.0.1:{}", fleet.database.redis().port);
        let mut tasks = TaskGroup::new(&CancellationToken::new());
        let of_task = found.clone();
        tasks.spawn("onlooker", |_cancel| async move { watch(&url, &wanted, &of_task).await });
        Self { found, _tasks: tasks }
    }

    /// Waits until it has found nothing at all once more.
    pub async fn finds_nothing(&self) {
        let before = self.found.lock().unwrap().nothing;
        self.wait("nothing is found", |found| found.nothing > before).await;
    }

    /// Waits until it has found whole sets so many more times.
    pub async fn finds_everything(&self, times: usize) {
        let before = self.found.lock().unwrap().everything;
        self.wait("whole sets are found", |found| found.everything >= before + times).await;
    }

    async fn wait(&self, what: &str, condition: impl Fn(&Found) -> bool) {
        eventually(what, async || {
            let found = self.found.lock().unwrap().clone();
            if condition(&found) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }

    /// It never found a part.
    pub fn assert_untroubled(self) {
        let found = self.found.lock().unwrap();
        assert_eq!(found.complaints, Vec::<String>::new());
        assert!(found.everything > 0, "{found:?}");
    }
}

async fn watch(url: &str, wanted: &Wanted, found: &Mutex<Found>) {
    loop {
        let opened = async {
            let client = ::redis::Client::open(url).ok()?;
            timeout(PATIENCE, client.get_multiplexed_async_connection()).await.ok()?.ok()
        };
        if let Some(mut conn) = opened.await {
            // Ends when the server goes.
            while let Some(look) = look(&mut conn).await {
                let judged = judge(&look, wanted);
                {
                    let mut found = found.lock().unwrap();
                    match judged {
                        Ok(true) => found.everything += 1,
                        Ok(false) => found.nothing += 1,
                        Err(complaint) => found.complaints.push(complaint),
                    }
                }
                sleep(PAUSE).await;
            }
        }
        sleep(PAUSE).await;
    }
}

async fn look(conn: &mut MultiplexedConnection) -> Option<Look> {
    let prefix = prefix(0);
    let mut script = ::redis::cmd("EVAL");
    script.arg(LOOK).arg(3).arg(format!("{prefix}:$inited")).arg(format!("{prefix}:segments"));
    script.arg(format!("{prefix}:features")).arg((0..TICKS).map(tick).collect::<Vec<_>>());
    timeout(PATIENCE, script.query_async(conn)).await.ok()?.ok()
}

/// Whether everything is there, or nothing.
fn judge(look: &Look, wanted: &Wanted) -> Result<bool, String> {
    let (marker, segments, flags, ticks) = look;
    if !marker && segments.is_empty() && flags.is_empty() {
        return Ok(false);
    }
    let missing = wanted.segments.difference(segments).chain(wanted.flags.difference(flags));
    let missing = missing.count();
    if !marker || missing > 0 {
        let (segments, flags) = (segments.len(), flags.len());
        return Err(format!(
            "marker {marker}, {segments} segments, {flags} flags, {missing} are missing"
        ));
    }
    let round = |json: &Option<String>| {
        let flag: Value = serde_json::from_str(json.as_deref()?).ok()?;
        usize::try_from(flag["round"].as_u64()?).ok()
    };
    let rounds: Vec<Option<usize>> = ticks.iter().map(round).collect();
    let newest = rounds.iter().flatten().max().copied();
    let at_that_moment = |place: usize| {
        let newest = newest?;
        (newest.saturating_sub(TICKS - 1)..=newest).find(|round| round % TICKS == place)
    };
    if rounds.iter().copied().eq((0..TICKS).map(at_that_moment)) {
        Ok(true)
    } else {
        Err(format!("flags of different moments: {rounds:?}"))
    }
}
