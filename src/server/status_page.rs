//! One body of `/status` for all clients that ask for it at about the same time. No credential is
//! needed for it, so its cost must not grow with the number of requests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::Value;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;

use super::body::Body;
use super::expectations;
use super::pace::Pace;
use super::refusals::Refusal;
use super::responses::{JSON, json, text, unavailable};
use super::routes::{OneEnvironment, percent_decoded};
use super::selection::query_values;
use super::status::StatusSources;
use super::turns::{Payload, Turns};
use crate::model::ListState;
use crate::overview;
use crate::streams::{Version, Versions};
use crate::tasks;

const NO_ENVIRONMENT: &str = "There is no environment of this name";
const MALFORMED_QUERY: &str = "The query cannot be read: a percent sign escapes nothing";

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// The page needs its own style and nothing else.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

/// Time for which a body is given to further clients.
const SHARED_FOR: Duration = Duration::from_millis(250);

/// Number of environments from which on a body is built, and looked into, on a blocking thread.
const MANY_ENVIRONMENTS: usize = 100;

/// `/status` for all clients.
#[derive(Debug)]
pub(super) struct StatusPage {
    sources: Arc<StatusSources>,
    /// Locked while a body is built, so that requests in the meantime share it.
    newest: Mutex<Option<Arc<Built>>>,
    versions: Versions,
}

/// A body with the moment at which its building began.
#[derive(Debug)]
struct Built {
    begun: Instant,
    body: Bytes,
    is_large: bool,
    /// The body as JSON, once somebody has expectations of it.
    json: OnceCell<Arc<Value>>,
    /// The page, once somebody asks for it.
    page: OnceCell<Bytes>,
}

impl Version for Built {
    fn own_buffers(&self) -> Vec<usize> {
        Vec::new()
    }
}

impl Built {
    async fn json(&self) -> Arc<Value> {
        let body = self.body.clone();
        let parse = move || Arc::new(serde_json::from_slice(&body).unwrap_or_default());
        self.json.get_or_init(|| self.work(parse)).await.clone()
    }

    async fn page(&self) -> Bytes {
        let json = self.json().await;
        let write = move || overview::html(&json).into();
        self.page.get_or_init(|| self.work(write)).await.clone()
    }

    async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        tasks::beside_if(self.is_large, work).await
    }

    /// True if the body may be given to a client that asked at that moment.
    ///
    /// A small one that no client is taking any more is built again: that costs little, and a
    /// client that asks twice sees what changed in between.
    fn is_fresh(&self, asked: Instant) -> bool {
        let is_recent = self.begun >= asked || self.begun.elapsed() < SHARED_FOR;
        is_recent && (Turns::are_needed_for(self.body.len()) || !self.body.is_unique())
    }
}

impl StatusPage {
    pub(super) fn new(sources: StatusSources) -> Self {
        let (newest, versions) = (Mutex::default(), Versions::default());
        Self { sources: Arc::new(sources), newest, versions }
    }

    /// The answer to a client, which must take it at the minimum pace if it is large; or whether
    /// the status is as the query expects.
    pub(super) async fn answer(&self, query: Option<&str>, pace: &Arc<Pace>) -> Response<Body> {
        let built = self.built().await;
        if has_expectations(query) {
            let (query, status) = (query.unwrap_or_default().to_owned(), built.json().await);
            return built.work(move || checked(&query, &status)).await;
        }
        self.response(&built, built.body.clone(), JSON, pace)
    }

    /// The page for people.
    pub(super) async fn page(&self, pace: &Arc<Pace>) -> Response<Body> {
        let built = self.built().await;
        let page = built.page().await;
        let mut response = self.response(&built, page, HTML, pace);
        let policy = HeaderValue::from_static(PAGE_POLICY);
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
        response
    }

    fn response(
        &self,
        built: &Arc<Built>,
        body: Bytes,
        content_type: HeaderValue,
        pace: &Arc<Pace>,
    ) -> Response<Body> {
        let mut response =
            Response::new(Body::Full(Payload::new(body, built, None, pace, &self.versions)));
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    }

    /// The answer about one environment, with or without expectations.
    pub(super) fn answer_of_one(
        &self,
        one: &OneEnvironment,
        query: Option<&str>,
    ) -> Response<Body> {
        let Some(body) = self.sources.body_of(one) else {
            return match self.sources.registry.list() {
                ListState::Unknown => unavailable(Refusal::NoList),
                ListState::Provisional | ListState::Lapsed | ListState::Authoritative => {
                    text(StatusCode::NOT_FOUND, NO_ENVIRONMENT)
                }
            };
        };
        if has_expectations(query) {
            return checked(
                query.unwrap_or_default(),
                &serde_json::from_str(&body).unwrap_or_default(),
            );
        }
        json(StatusCode::OK, body)
    }

    async fn built(&self) -> Arc<Built> {
        let asked = Instant::now();
        let mut newest = self.newest.lock().await;
        if let Some(built) = newest.as_ref().filter(|built| built.is_fresh(asked)) {
            return built.clone();
        }
        let begun = Instant::now();
        let sources = self.sources.clone();
        let is_large = sources.registry.environments().len() >= MANY_ENVIRONMENTS;
        let body = tasks::beside_if(is_large, move || sources.body()).await;
        let (json, page) = (OnceCell::new(), OnceCell::new());
        newest.insert(Arc::new(Built { begun, body: body.into(), is_large, json, page })).clone()
    }
}

fn has_expectations(query: Option<&str>) -> bool {
    !query_values(query, "expect").is_empty()
}

fn checked(query: &str, status: &Value) -> Response<Body> {
    if percent_decoded(query).is_none() {
        return text(StatusCode::BAD_REQUEST, MALFORMED_QUERY);
    }
    let checked = expectations::check(&query_values(Some(query), "expect"), status);
    json(checked.status, checked.body)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::Map;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::sleep;

    use super::super::StatusMembers;
    use super::super::test_support::{Bench, get, spec};
    use super::*;
    use crate::environments::Registry;

    /// Members of so many bytes, and the number of times that they were built.
    fn members(bytes: usize) -> (StatusMembers, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let asked = count.clone();
        let members = StatusMembers(Arc::new(move || {
            asked.fetch_add(1, Ordering::Relaxed);
            Map::from_iter([("text".to_owned(), "x".repeat(bytes).into())])
        }));
        (members, count)
    }

    fn page(bytes: usize, environments: usize) -> (StatusPage, Arc<AtomicUsize>) {
        let specs = (0..environments).map(|index| spec(&format!("sdk-{index}")));
        let (members, count) = members(bytes);
        let registry = Arc::new(Registry::of(specs.collect()).0);
        let disconnected_after = Duration::from_secs(60);
        (
            StatusPage::new(StatusSources {
                registry,
                members,
                refusals: Arc::default(),
                disconnected_after,
            }),
            count,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_ask_within_a_short_time_share_one_body() {
        for environments in [2, MANY_ENVIRONMENTS] {
            let (page, count) = page(100_000, environments);
            let (page, pace) = (Arc::new(page), Arc::new(Pace::default()));
            let mut built = Vec::new();
            for round in 1..=3 {
                let mut asking = tokio::task::JoinSet::new();
                for _ in 0..500 {
                    let page = page.clone();
                    asking.spawn(async move { page.built().await });
                }
                let bodies = asking.join_all().await;
                assert!(bodies.iter().all(|it| it.body.as_ptr() == bodies[0].body.as_ptr()));
                assert_eq!(count.load(Ordering::Relaxed), round, "{environments} environments");
                built.push(bodies[0].clone());
                sleep(SHARED_FOR - Duration::from_millis(1)).await;
                page.answer(None, &pace).await;
                assert_eq!(count.load(Ordering::Relaxed), round, "it is still fresh");
                sleep(Duration::from_millis(1)).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_body_is_shared_only_while_a_client_takes_it() {
        let (page, count) = page(10, 2);
        let pace = Arc::new(Pace::default());
        for round in 1..=3 {
            page.answer(None, &pace).await;
            assert_eq!(count.load(Ordering::Relaxed), round);
        }
        let untaken = page.answer(None, &pace).await;
        for _ in 0..3 {
            page.answer(None, &pace).await;
            assert_eq!(count.load(Ordering::Relaxed), 4);
        }
        drop(untaken);
        page.answer(None, &pace).await;
        assert_eq!(count.load(Ordering::Relaxed), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_status_must_be_taken_at_the_minimum_pace() {
        let mut bench = Bench::with_members(members(1 << 20).0);
        let mut client = bench.get("/status").await;
        let begun = Instant::now();
        let mut piece = [0; 1_000];
        while client.read_exact(&mut piece).await.is_ok() {
            sleep(Duration::from_secs(29)).await;
        }
        assert!(begun.elapsed() < Duration::from_secs(100), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_hold_the_status_of_long_ago_end() {
        let mut bench = Bench::with_members(members(20 << 20).0);
        let mut stuck = Vec::new();
        for _ in 0..7 {
            let mut client = bench.connect(1024);
            client.write_all(get("/status").as_bytes()).await.unwrap();
            stuck.push(client);
            sleep(SHARED_FOR).await;
        }
        bench.tasks.reap();
        // The two newest ones, and as many old ones as the bound allows.
        assert_eq!(bench.tasks.len(), 2 + 3);
    }
}
