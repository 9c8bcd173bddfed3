//! Goals of client-side experiments: LaunchDarkly's answer, kept for a while, and given on while
//! LaunchDarkly is away.
//!
//! Goals are fetched when a client asks for them, by a task of its own: a client that goes away
//! interrupts nothing, and whoever asks meanwhile gets the same answer. Only clients of known
//! environments ask, so the number of answers that are kept is bounded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::model::EnvironmentId;
use crate::tasks::TaskGroup;
use crate::telemetry::Chain;
use crate::upstream::{BaseUrl, ConnectError, Deadlines, HttpClient, HttpRequest, query_value};

/// Time for which an answer counts that does not say so itself.
const FRESH_DEFAULT: Duration = Duration::from_secs(60);

/// Bounds of the time that an answer can say.
const FRESH_MIN: Duration = Duration::from_secs(10);
const FRESH_MAX: Duration = Duration::from_secs(3600);

/// Pause after a failure, in which clients get what there is.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// Time limit of a request.
const FETCH_MAX: Duration = Duration::from_secs(10);

/// Longest wait of the client whose request it is, while there is an older answer for it.
const REFRESH_MAX: Duration = Duration::from_secs(5);

/// Most requests at a time, and most that wait. Further ones are made when a client asks again.
const FETCHES_MAX: usize = 16;
const WAITING_MAX: usize = 1024;

/// Largest answer. Real ones are a few kilobytes.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Time after which an answer that nobody asked for is dropped.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Goals as LaunchDarkly gave them.
#[derive(Debug)]
pub struct Goals {
    /// The body.
    pub body: Bytes,
    /// Its type.
    pub content_type: HeaderValue,
    /// Its tag, if it has one.
    pub etag: Option<HeaderValue>,
}

/// The answer to a client.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The goals, perhaps from before LaunchDarkly went away.
    Goals(Arc<Goals>),
    /// LaunchDarkly refused with this status.
    Refused(StatusCode),
    /// LaunchDarkly cannot be reached, and nothing is known from before.
    Away,
}

/// The goals of all environments.
#[derive(Debug)]
pub struct GoalsProxy {
    entries: Mutex<HashMap<EnvironmentId, Arc<Entry>>>,
    wanted: mpsc::Sender<Wanted>,
}

/// The task that asks LaunchDarkly.
#[derive(Debug)]
pub struct GoalsFetcher {
    source: Arc<GoalsSource>,
    wanted: mpsc::Receiver<Wanted>,
}

/// Goals that are to be fetched.
type Wanted = (EnvironmentId, Arc<Entry>);

#[derive(Debug)]
struct GoalsSource {
    client: HttpClient,
    base: BaseUrl,
}

/// The goals of one environment.
#[derive(Debug, Default)]
struct Entry {
    kept: Mutex<Kept>,
    /// Changes with each answer of LaunchDarkly.
    answers: watch::Sender<()>,
}

/// What is known of one environment's goals.
#[derive(Debug, Default)]
struct Kept {
    last: Option<Answer>,
    /// Until then LaunchDarkly is not asked again.
    until: Option<Instant>,
    /// True while LaunchDarkly is being asked.
    is_asking: bool,
    is_failing: bool,
    /// Time at which a client last asked.
    asked_for: Option<Instant>,
}

/// What LaunchDarkly said.
enum Fetched {
    Goals(Goals, Duration),
    Unchanged(Duration),
    Refused(StatusCode),
}

/// Why LaunchDarkly did not say anything that can be used.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("LaunchDarkly answers {0}")]
    Status(StatusCode),
    #[error("the answer is larger than {} KiB", BODY_BYTES_MAX >> 10)]
    Large,
    #[error("no answer within {}", crate::telemetry::Rounded(*.0))]
    Late(Duration),
    #[error("the address cannot be built")]
    Url(#[from] crate::upstream::UrlError),
}

impl GoalsProxy {
    /// Goals from LaunchDarkly's address for client-side SDKs, and the task that fetches them.
    pub fn new(client: HttpClient, base: BaseUrl) -> (Self, GoalsFetcher) {
        let (sender, wanted) = mpsc::channel(WAITING_MAX);
        let source = Arc::new(GoalsSource { client, base });
        (Self { entries: Mutex::default(), wanted: sender }, GoalsFetcher { source, wanted })
    }

    /// The goals of an environment. Bounded in time.
    pub async fn get(&self, environment: &EnvironmentId) -> Answer {
        let entry = self.entry(environment);
        let mut answers = entry.answers.subscribe();
        let (older, was_asking) = {
            let mut kept = entry.kept();
            if let Some(answer) = kept.current(Instant::now()) {
                return answer;
            }
            (kept.goals(), std::mem::replace(&mut kept.is_asking, true))
        };
        let older = older.map(Answer::Goals);
        let is_asked = was_asking || {
            let is_sent = self.wanted.try_send((environment.clone(), entry.clone())).is_ok();
            entry.kept().is_asking = is_sent;
            is_sent
        };
        // One client waits for newer goals. The others get the older ones, if there are some.
        let wait = match &older {
            Some(_) if was_asking => Duration::ZERO,
            Some(_) => REFRESH_MAX,
            None => FETCH_MAX,
        };
        if is_asked && timeout(wait, answers.changed()).await.is_ok() {
            return entry.kept().last.clone().unwrap_or(Answer::Away);
        }
        older.unwrap_or(Answer::Away)
    }

    fn entry(&self, environment: &EnvironmentId) -> Arc<Entry> {
        let now = Instant::now();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if !entries.contains_key(environment) {
            entries.retain(|_, entry| entry.kept().is_asked_for(now));
        }
        let entry = entries.entry(environment.clone()).or_default().clone();
        entry.kept().asked_for = Some(now);
        entry
    }
}

impl GoalsFetcher {
    /// Fetches goals until the process ends.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut fetches = TaskGroup::new(&cancel);
        let places = Arc::new(Semaphore::new(FETCHES_MAX));
        loop {
            let place = places.clone().acquire_owned();
            let next = async { (place.await.ok(), self.wanted.recv().await) };
            let (place, Some((environment, entry))) = (tokio::select! {
                () = cancel.cancelled() => return,
                next = next => next,
            }) else {
                return;
            };
            fetches.reap();
            let source = self.source.clone();
            fetches.spawn_many("goals", async move {
                let older = entry.kept().goals();
                let fetched = timeout(FETCH_MAX, source.fetch(&environment, older.as_deref()));
                let fetched = fetched.await.unwrap_or(Err(FetchError::Late(FETCH_MAX)));
                entry.take(&environment, fetched, Instant::now());
                drop(place);
            });
        }
    }
}

impl GoalsSource {
    async fn fetch(
        &self,
        environment: &EnvironmentId,
        older: Option<&Goals>,
    ) -> Result<Fetched, FetchError> {
        let path = format!("/sdk/goals/{}", query_value(environment.as_str()));
        let mut request = HttpRequest::get(self.base.join(&path, None)?, None);
        if let Some(etag) = older.and_then(|goals| goals.etag.as_ref()) {
            request.headers.insert(IF_NONE_MATCH, etag.clone());
        }
        let mut response = self.client.send(&request, &Deadlines::default()).await?;
        let fresh = freshness(&response.headers);
        match response.status {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if older.is_some() => return Ok(Fetched::Unchanged(fresh)),
            status @ (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) => {
                return Err(FetchError::Status(status));
            }
            // Others may be about the relay or its proxy, and say nothing about goals that are known.
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                return Ok(Fetched::Refused(response.status));
            }
            status if status.is_client_error() && older.is_none() => {
                return Ok(Fetched::Refused(status));
            }
            status => return Err(FetchError::Status(status)),
        }
        let mut body = Vec::new();
        while let Some(piece) = response.body.read().await? {
            if body.len() + piece.len() > BODY_BYTES_MAX {
                return Err(FetchError::Large);
            }
            body.extend_from_slice(&piece);
        }
        let json = HeaderValue::from_static("application/json");
        let goals = Goals {
            body: body.into(),
            content_type: response.headers.get(CONTENT_TYPE).cloned().unwrap_or(json),
            etag: response.headers.get(ETAG).cloned(),
        };
        Ok(Fetched::Goals(goals, fresh))
    }
}

impl Entry {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // No code panics while it holds the lock, so a poisoned lock is safe to use.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what LaunchDarkly said. A problem is logged when it begins.
    fn take(
        &self,
        environment: &EnvironmentId,
        fetched: Result<Fetched, FetchError>,
        now: Instant,
    ) {
        let mut kept = self.kept();
        kept.is_asking = false;
        let (last, pause) = match fetched {
            Ok(Fetched::Goals(goals, fresh)) => (Answer::Goals(Arc::new(goals)), fresh),
            Ok(Fetched::Unchanged(fresh)) => (kept.last.clone().unwrap_or(Answer::Away), fresh),
            Ok(Fetched::Refused(status)) => (Answer::Refused(status), RETRY_PAUSE),
            Err(error) => {
                let was_well = !std::mem::replace(&mut kept.is_failing, true);
                if was_well {
                    tracing::warn!(
                        environment = environment.as_str(),
                        error = %Chain(&error),
                        "the goals of client-side experiments cannot be fetched; browsers get the \
                         last ones, or 503 if there are none"
                    );
                }
                kept.until = Some(now + RETRY_PAUSE);
                kept.last = Some(kept.goals().map_or(Answer::Away, Answer::Goals));
                self.answers.send_replace(());
                return;
            }
        };
        if std::mem::replace(&mut kept.is_failing, false) {
            tracing::info!(
                environment = environment.as_str(),
                "the goals of client-side experiments are fetched again"
            );
        }
        (kept.until, kept.last) = (Some(now + pause), Some(last));
        self.answers.send_replace(());
    }
}

impl Kept {
    /// The answer, if LaunchDarkly need not be asked.
    fn current(&self, now: Instant) -> Option<Answer> {
        self.until.filter(|until| now < *until).and(self.last.clone())
    }

    /// The goals that were given last, unless LaunchDarkly has refused since.
    fn goals(&self) -> Option<Arc<Goals>> {
        match &self.last {
            Some(Answer::Goals(goals)) => Some(goals.clone()),
            Some(Answer::Refused(_) | Answer::Away) | None => None,
        }
    }

    fn is_asked_for(&self, now: Instant) -> bool {
        self.asked_for.is_some_and(|at| now - at < FORGOTTEN_AFTER)
    }
}

/// Time for which an answer counts, by its `Cache-Control`.
fn freshness(headers: &HeaderMap) -> Duration {
    let mut fresh = FRESH_DEFAULT;
    for value in headers.get_all(CACHE_CONTROL) {
        for directive in value.to_str().unwrap_or_default().split(',') {
            let directive = directive.trim().to_ascii_lowercase();
            if matches!(directive.as_str(), "no-cache" | "no-store") {
                return FRESH_MIN;
            }
            let seconds = directive.strip_prefix("max-age=").and_then(|text| text.parse().ok());
            fresh = seconds.map_or(fresh, Duration::from_secs);
        }
    }
    fresh.clamp(FRESH_MIN, FRESH_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_as_long_as_they_say_within_bounds() {
        let check = |value: Option<&'static str>, expected| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(CACHE_CONTROL, HeaderValue::from_static(value));
            }
            assert_eq!(freshness(&headers).as_secs(), expected, "{value:?}");
        };
        check(None, 60);
        check(Some("public, Max-Age=120"), 120);
        check(Some("max-age=0"), 10);
        check(Some("max-age=99999999999"), 3600);
        check(Some("max-age=x"), 60);
        check(Some("max-age=120, no-cache"), 10);
        check(Some("no-store"), 10);
    }

    fn goals(text: &'static str) -> Result<Fetched, FetchError> {
        let goals = Goals {
            body: Bytes::from_static(text.as_bytes()),
            content_type: HeaderValue::from_static("application/json"),
            etag: None,
        };
        Ok(Fetched::Goals(goals, FRESH_DEFAULT))
    }

    fn shown(answer: &Answer) -> &str {
        match answer {
            Answer::Goals(goals) => std::str::from_utf8(&goals.body).unwrap(),
            Answer::Refused(status) => status.as_str(),
            Answer::Away => "away",
        }
    }

    #[test]
    fn the_last_good_answer_stays_until_launchdarkly_says_otherwise() {
        let id = EnvironmentId::new("e1");
        let entry = Entry::default();
        let begun = Instant::now();
        let failed = || Err(FetchError::Status(StatusCode::BAD_GATEWAY));
        let check = |at: u64, fetched, expected| {
            entry.kept().is_asking = true;
            entry.take(&id, fetched, begun + Duration::from_secs(at));
            let kept = entry.kept();
            assert_eq!(kept.last.as_ref().map(shown), Some(expected), "at {at} s");
            assert!(!kept.is_asking);
        };
        let current = |at: u64| {
            let found = entry.kept().current(begun + Duration::from_secs(at));
            found.map(|answer| shown(&answer).to_owned())
        };
        assert_eq!(current(0), None);
        check(0, failed(), "away");
        assert_eq!(current(9).as_deref(), Some("away"));
        assert_eq!(current(10), None);
        check(10, goals("[1]"), "[1]");
        assert_eq!(current(69).as_deref(), Some("[1]"));
        assert_eq!(current(70), None);
        check(70, failed(), "[1]");
        assert_eq!(current(79).as_deref(), Some("[1]"));
        check(80, Ok(Fetched::Unchanged(FRESH_DEFAULT)), "[1]");
        check(140, Ok(Fetched::Refused(StatusCode::NOT_FOUND)), "404");
        check(150, failed(), "away");
        check(160, goals("[2]"), "[2]");
    }
}
