//! The values of all flags for a context.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use hyper::Response;
use hyper::header::CONTENT_TYPE;

use super::{refused, unavailable};
use crate::evaluation::{Audience, Context, Evaluator, NoBigSegments, write_result};
use crate::server::Server;
use crate::server::authorized_request::AuthorizedRequest;
use crate::server::body::Body;
use crate::server::refusals::Refusal;
use crate::server::responses::JSON;
use crate::server::routes::Auth;
use crate::server::selection::query_value;
use crate::server::streaming::{Needed, TurnTaken};
use crate::server::turns::Payload;
use crate::streams::Snapshot;
use crate::tasks;

const NO_KEY: &str = "the context has no key";

/// Most flags that are evaluated at once. More of them need a turn and a thread of their own, so
/// that other clients need not wait for the processor; so does the first evaluation of a snapshot,
/// which parses what has changed.
const FEW_FLAGS: usize = 1_000;

/// Bytes of the result of a flag, roughly.
const RESULT_BYTES: usize = 96;

/// What the values are asked for.
#[derive(Clone)]
struct Question {
    context: Arc<Context>,
    audience: Audience,
    with_reasons: bool,
}

impl Server {
    /// Answers with the values of all flags that the client may see.
    pub(super) async fn values(
        &self,
        asked: &mut AuthorizedRequest<'_>,
        context: Arc<Context>,
    ) -> Result<Response<Body>, Response<Body>> {
        let question = Question {
            audience: match asked.auth {
                Auth::Sdk => Audience::Server,
                Auth::Mobile => Audience::Mobile,
                Auth::EnvironmentId(_) | Auth::Client => Audience::Browser,
            },
            with_reasons: query_value(asked.request.uri().query(), "withReasons") == "true",
            context,
        };
        let (mut snapshot, values) = self.evaluated(asked, &question).await?;
        let mut values = self.encode(asked.request.headers(), values, None).await;
        let turn = match self.turn(asked, Needed::Payload(values.body.len())).await? {
            TurnTaken::NotNeeded => None,
            TurnTaken::Busy(busy) => return Err(busy),
            TurnTaken::Taken(turn) => {
                // The data may have changed during the wait.
                if !Arc::ptr_eq(&snapshot, &served(asked)?) {
                    let now = self.evaluated(asked, &question).await?;
                    snapshot = now.0;
                    values = self.encode(asked.request.headers(), now.1, None).await;
                }
                Some(turn)
            }
        };
        let versions = asked.access.environment.hub.versions();
        let body = values.body.clone();
        let payload = Payload::new(body, &snapshot.data, turn, asked.pace, versions);
        let mut response = Response::new(Body::Full(payload));
        values.describe(response.headers_mut());
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        Ok(response)
    }

    async fn evaluated(
        &self,
        asked: &mut AuthorizedRequest<'_>,
        question: &Question,
    ) -> Result<(Arc<Snapshot>, Bytes), Response<Body>> {
        let snapshot = served(asked)?;
        if question.context.lacks_key() {
            return Err(refused(NO_KEY));
        }
        let is_parsed = snapshot.is_evaluated.load(Ordering::Relaxed);
        if is_parsed && snapshot.data.flags.len() <= FEW_FLAGS {
            let values = evaluate(&snapshot, question);
            return Ok((snapshot, values));
        }
        let turn = match self.turn(asked, Needed::Evaluation).await? {
            TurnTaken::Busy(busy) => return Err(busy),
            TurnTaken::NotNeeded => None,
            TurnTaken::Taken(turn) => Some(turn),
        };
        let snapshot = served(asked)?;
        let (evaluated, question) = (snapshot.clone(), question.clone());
        let (values, _turn) = tasks::beside(move || {
            // The turn lasts as long as the work, also if the client is gone meanwhile.
            (evaluate(&evaluated, &question), turn)
        })
        .await;
        snapshot.is_evaluated.store(true, Ordering::Relaxed);
        Ok((snapshot, values))
    }
}

#[expect(clippy::result_large_err, reason = "a refusal is a response, as everywhere here")]
fn served(asked: &AuthorizedRequest<'_>) -> Result<Arc<Snapshot>, Response<Body>> {
    asked
        .access
        .environment
        .hub
        .snapshot()
        .ok_or_else(|| unavailable(Refusal::NoData, Refusal::NoData.text()))
}

fn evaluate(snapshot: &Snapshot, question: &Question) -> Bytes {
    let data = &*snapshot.data;
    let mut evaluator = Evaluator::new(data, &question.context, &NoBigSegments);
    let mut values = Vec::with_capacity(data.flags.len() * RESULT_BYTES + 2);
    values.push(b'{');
    for (key, item) in data.flags.iter() {
        let Some(flag) = item.flag().filter(|flag| flag.is_visible_to(question.audience)) else {
            continue;
        };
        if values.len() > 1 {
            values.push(b',');
        }
        let detail = evaluator.evaluate(flag);
        write_result(&mut values, key, item.version, flag, &detail, question.with_reasons);
    }
    values.push(b'}');
    Bytes::from(values)
}
