//! Goals of client-side experiments: LaunchDarkly's answer, kept for a while, and given on while
//! LaunchDarkly is away.
//!
//! Goals are fetched when a client asks for them; whoever asks meanwhile waits for the same answer.
//! Only clients of known environments ask, so the number of answers that are kept is bounded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::model::EnvironmentId;
use crate::telemetry::Chain;
use crate::upstream::{BaseUrl, ConnectError, Deadlines, HttpClient, HttpRequest, query_value};

/// Time for which an answer counts that does not say so itself.
const FRESH_DEFAULT: Duration = Duration::from_secs(60);

/// Bounds of the time that an answer can say.
const FRESH_MIN: Duration = Duration::from_secs(10);
const FRESH_MAX: Duration = Duration::from_secs(3600);

/// Pause after a failure, in which clients get what there is.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// Time limit of a request while there is nothing to give instead.
const FETCH_MAX: Duration = Duration::from_secs(10);

/// The same while there is an older answer, for the one client whose request it is.
const REFRESH_MAX: Duration = Duration::from_secs(5);

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
    client: HttpClient,
    base: BaseUrl,
    entries: Mutex<HashMap<EnvironmentId, Arc<Entry>>>,
}

/// The goals of one environment.
#[derive(Debug, Default)]
struct Entry {
    kept: Mutex<Kept>,
    /// Held while LaunchDarkly is being asked.
    asking: tokio::sync::Mutex<()>,
}

/// What is known of one environment's goals.
#[derive(Debug, Default)]
struct Kept {
    last: Option<Answer>,
    /// Until then LaunchDarkly is not asked again.
    until: Option<Instant>,
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
    /// Fetches goals from LaunchDarkly's address for client-side SDKs.
    pub fn new(client: HttpClient, base: BaseUrl) -> Self {
        Self { client, base, entries: Mutex::default() }
    }

    /// The goals of an environment. Bounded in time.
    pub async fn get(&self, environment: &EnvironmentId) -> Answer {
        let entry = self.entry(environment);
        if let Some(answer) = entry.kept().current(Instant::now()) {
            return answer;
        }
        let older = entry.kept().goals();
        let budget = if older.is_some() { REFRESH_MAX } else { FETCH_MAX };
        let asking = async {
            let _asking = entry.asking.lock().await;
            // Another client may have asked meanwhile.
            if let Some(answer) = entry.kept().current(Instant::now()) {
                return answer;
            }
            // Others get the older answer meanwhile, and should this client go away, LaunchDarkly
            // is not asked again at once.
            entry.kept().until = older.is_some().then(|| Instant::now() + RETRY_PAUSE);
            let fetched =
                tokio::time::timeout(budget, self.fetch(environment, older.as_deref())).await;
            let fetched = fetched.unwrap_or(Err(FetchError::Late(budget)));
            entry.take(environment, fetched, Instant::now())
        };
        // Clients wait in line only as long as one request takes.
        let answered = tokio::time::timeout(budget, asking).await;
        answered.unwrap_or_else(|_| {
            entry.take(environment, Err(FetchError::Late(budget)), Instant::now())
        })
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
            status if status.is_client_error() => return Ok(Fetched::Refused(status)),
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
    ) -> Answer {
        let mut kept = self.kept();
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
                let last = kept.goals().map_or(Answer::Away, Answer::Goals);
                kept.last = Some(last.clone());
                return last;
            }
        };
        if std::mem::replace(&mut kept.is_failing, false) {
            tracing::info!(
                environment = environment.as_str(),
                "the goals of client-side experiments are fetched again"
            );
        }
        kept.until = Some(now + pause);
        kept.last = Some(last.clone());
        last
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
            let answer = entry.take(&id, fetched, begun + Duration::from_secs(at));
            assert_eq!(shown(&answer), expected, "at {at} s");
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
